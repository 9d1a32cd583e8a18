#ifndef NSA_TESTS_GPU_TEST_MEMORY_H_
#define NSA_TESTS_GPU_TEST_MEMORY_H_

/// Memory of a program whose vectors kernels read and write as they are: operator new gives pinned
/// host memory, at one address for both sides. So the tests of tests/cuda_host, which pass
/// data() of their vectors as device pointers, run on a GPU as they stand. Arrays on the stack and
/// static ones are no such memory.
///
/// Around each buffer stand bytes 0xFF, NaN in every float type: what a kernel reads there shows in
/// its result, and what it writes there ends the program when the buffer is freed. With
/// NSA_GPU_EXACT_BUFFERS=1 each buffer of some size is an allocation of its own without such an
/// end, so that compute-sanitizer knows where it ends.
namespace nsa::gpu {

/// To be called first in main, as CUDA wants it. From now on memory is pinned, and launches wait
/// for their kernels. False where there is no GPU; then nothing changes.
bool UseDeviceMemory();

}  // namespace nsa::gpu

#endif  // NSA_TESTS_GPU_TEST_MEMORY_H_
