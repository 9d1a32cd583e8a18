#ifndef NSA_KERNELS_CUDA_DEVICE_H_
#define NSA_KERNELS_CUDA_DEVICE_H_

/// Everything that a kernel may ask of its machine, under one set of names with two meanings: the
/// instructions of a GPU (device_gpu.h), or an emulator's. Whoever compiles kernels without nvcc
/// names the emulator's header, as tests/cuda_host does; so kernels/ includes nothing above it.
///
/// NSA_DEVICE before a function makes it a device function; NSA_KERNEL(n) opens a kernel for CTAs
/// of at most n threads, with one argument declared NSA_ARGS, and NSA_KERNEL_SHARING(n, m) one that
/// leaves registers for m such CTAs on a multiprocessor; NSA_SHARED(T, name, n) is a static
/// shared array, of whose name only elements and the address of the first may be used; NSA_UNROLL
/// and NSA_UNROLL_BY(n) stand before a loop that is to be unrolled.
/// CTAs are one-dimensional, and every call that waits is made by all threads that it waits for.
#ifdef __CUDACC__
#include "kernels/cuda/device_gpu.h"
#else
#ifndef NSA_CUDA_DEVICE_HEADER
#error "kernels are compiled by nvcc, or with NSA_CUDA_DEVICE_HEADER naming an emulator's header"
#endif
#include NSA_CUDA_DEVICE_HEADER
#endif

#endif  // NSA_KERNELS_CUDA_DEVICE_H_
