#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/launch_queue.h"
#include "kernels/cuda/runtime.h"

namespace nsa::kernels::cuda {
namespace {

// Which mma.sync with bf16, ldmatrix and cp.async need (PTX ISA).
constexpr int kOldestMajor = 8;

/// Ends the process: what CUDA refuses here is a mistake of ours or the machine's.
void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s: %s\n", what, cudaGetErrorString(error));
  std::abort();
}

cudaStream_t HandleOf(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle); }

dim3 GridOf(const LaunchNode& node) {
  return {static_cast<unsigned>(node.shape.grid_x), static_cast<unsigned>(node.shape.grid_y), 1};
}
dim3 BlockOf(const LaunchNode& node) {
  return {static_cast<unsigned>(node.shape.num_threads), 1, 1};
}

std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// What the driver lacks, or an empty string.
std::string DriverError(cudaError_t error) {
  if (error != cudaErrorInsufficientDriver) return cudaGetErrorString(error);
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "no NVIDIA driver on this machine";
  return "the NVIDIA driver serves CUDA " + VersionText(driver) + ", this build needs " +
         VersionText(runtime);
}

}  // namespace

std::optional<DeviceProperties> OpenDevice(std::string& error) {
  int num_devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&num_devices); status != cudaSuccess) {
    error = DriverError(status);
    (void)cudaGetLastError();  // so that no later call reports it again
    return std::nullopt;
  }
  if (num_devices == 0) {
    error = "CUDA shows no device";
    return std::nullopt;
  }
  cudaDeviceProp device;
  if (const cudaError_t status = cudaGetDeviceProperties(&device, 0); status != cudaSuccess) {
    error = cudaGetErrorString(status);
    return std::nullopt;
  }
  if (device.major < kOldestMajor) {
    error = std::string(device.name) + " has compute capability " + std::to_string(device.major) +
            "." + std::to_string(device.minor) + ", this build needs " +
            std::to_string(kOldestMajor) + ".0";
    return std::nullopt;
  }
  if (const cudaError_t status = cudaSetDevice(0); status != cudaSuccess) {
    error = std::string(device.name) + ": " + cudaGetErrorString(status);
    return std::nullopt;
  }
  return DeviceProperties{.name = device.name,
                          .major = device.major,
                          .minor = device.minor,
                          .num_multiprocessors = device.multiProcessorCount,
                          .total_bytes = static_cast<int64_t>(device.totalGlobalMem)};
}

Stream CreateStream() {
  cudaStream_t handle = nullptr;
  CheckCuda(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "creating a stream");
  return {.handle = handle, .queue = nullptr};
}

void DestroyStream(Stream& stream) {
  CheckCuda(cudaStreamDestroy(HandleOf(stream)), "ending a stream");
  stream.handle = nullptr;
}

int64_t FreeDeviceBytes() {
  size_t free = 0, total = 0;
  CheckCuda(cudaMemGetInfo(&free, &total), "asking for free memory");
  return static_cast<int64_t>(free);
}

Memory AllocateDevice(int64_t num_bytes) {
  void* data = nullptr;
  const auto size = static_cast<size_t>(std::max<int64_t>(num_bytes, 1));
  if (cudaMalloc(&data, size) != cudaSuccess) {
    (void)cudaGetLastError();
    return {};
  }
  CheckCuda(cudaMemset(data, 0, size), "clearing memory");
  // The memset went to the default stream, for which other streams do not wait.
  CheckCuda(cudaStreamSynchronize(nullptr), "clearing memory");
  return {static_cast<std::byte*>(data), num_bytes,
          [](std::byte* memory, int64_t) { CheckCuda(cudaFree(memory), "freeing memory"); }};
}

Memory AllocatePinned(int64_t num_bytes) {
  void* data = nullptr;
  if (cudaMallocHost(&data, static_cast<size_t>(std::max<int64_t>(num_bytes, 1))) != cudaSuccess) {
    (void)cudaGetLastError();
    return {};
  }
  return {static_cast<std::byte*>(data), num_bytes, [](std::byte* memory, int64_t) {
            CheckCuda(cudaFreeHost(memory), "freeing pinned memory");
          }};
}

void CopyBytes(Stream& stream, void* target, const void* source, int64_t num_bytes) {
  CheckCuda(cudaMemcpyAsync(target, source, static_cast<size_t>(num_bytes), cudaMemcpyDefault,
                            HandleOf(stream)),
            "copying");
}

/// CUDA C++ Programming Guide: above 48 KiB a kernel has to ask for its shared memory. Its static
/// arrays count, too, which are not known here; none has more than 24 KiB. Graphs that are there
/// rely on what was asked for before.
void AskForShared(const LaunchNode& node) {
  if (node.shape.shared_bytes <= 24 * 1024) return;
  cudaFuncAttributes attributes;
  CheckCuda(cudaFuncGetAttributes(&attributes, node.function), node.shape.name);
  if (attributes.maxDynamicSharedSizeBytes >= node.shape.shared_bytes) return;
  CheckCuda(cudaFuncSetAttribute(node.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(node.shape.shared_bytes)),
            node.shape.name);
}

void LaunchNow(Stream& stream, const LaunchNode& node) {
  AskForShared(node);
  void* arguments[] = {const_cast<void*>(node.argument)};
  CheckCuda(cudaLaunchKernel(node.function, GridOf(node), BlockOf(node), arguments,
                             static_cast<size_t>(node.shape.shared_bytes), HandleOf(stream)),
            node.shape.name);
}

namespace {

class CudaGraph final : public LaunchGraph {
 public:
  explicit CudaGraph(const std::vector<LaunchNode>& nodes) {
    CheckCuda(cudaGraphCreate(&graph_, 0), "making a graph");
    for (const LaunchNode& node : nodes) {
      AskForShared(node);
      void* argument = const_cast<void*>(node.argument);
      const cudaKernelNodeParams params = ParamsOf(node, &argument);
      cudaGraphNode_t made = nullptr;
      CheckCuda(cudaGraphAddKernelNode(&made, graph_, handles_.empty() ? nullptr : &handles_.back(),
                                       handles_.empty() ? 0 : 1, &params),
                node.shape.name);
      handles_.push_back(made);
    }
    CheckCuda(cudaGraphInstantiate(&executable_, graph_, 0), "making a graph");
  }
  ~CudaGraph() override {
    CheckCuda(cudaGraphExecDestroy(executable_), "ending a graph");
    CheckCuda(cudaGraphDestroy(graph_), "ending a graph");
  }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void Update(size_t index, const LaunchNode& node) override {
    AskForShared(node);
    void* argument = const_cast<void*>(node.argument);
    const cudaKernelNodeParams params = ParamsOf(node, &argument);
    CheckCuda(cudaGraphExecKernelNodeSetParams(executable_, handles_[index], &params),
              node.shape.name);
  }
  void Launch(Stream& stream) override {
    CheckCuda(cudaGraphLaunch(executable_, HandleOf(stream)), "launching a graph");
  }

 private:
  /// `argument` outlives what is returned.
  static cudaKernelNodeParams ParamsOf(const LaunchNode& node, void** argument) {
    cudaKernelNodeParams params = {};
    params.func = const_cast<void*>(node.function);
    params.gridDim = GridOf(node);
    params.blockDim = BlockOf(node);
    params.sharedMemBytes = static_cast<unsigned>(node.shape.shared_bytes);
    params.kernelParams = argument;
    return params;
  }

  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  std::vector<cudaGraphNode_t> handles_;
};

}  // namespace

std::unique_ptr<LaunchGraph> MakeLaunchGraph(const std::vector<LaunchNode>& nodes) {
  return std::make_unique<CudaGraph>(nodes);
}

void Wait(Stream& stream) {
  CheckCuda(cudaStreamSynchronize(HandleOf(stream)), "waiting for the device");
}

namespace {

cudaEvent_t HandleOf(const Event& event) { return static_cast<cudaEvent_t>(event.handle()); }

}  // namespace

Event::Event() {
  cudaEvent_t handle = nullptr;
  CheckCuda(cudaEventCreateWithFlags(&handle, cudaEventDisableTiming), "making an event");
  handle_ = handle;
}

Event::~Event() {
  if (handle_ != nullptr) CheckCuda(cudaEventDestroy(HandleOf(*this)), "ending an event");
}

void Event::Record(Stream& stream) {
  CheckCuda(cudaEventRecord(HandleOf(*this), HandleOf(stream)), "recording an event");
}

void Event::WaitFor() {
  CheckCuda(cudaEventSynchronize(HandleOf(*this)), "waiting for the device");
}

bool Event::HasHappened() const {
  const cudaError_t status = cudaEventQuery(HandleOf(*this));
  if (status == cudaErrorNotReady) return false;
  CheckCuda(status, "asking for an event");
  return true;
}

void WaitFor(Stream& stream, const Event& event) {
  CheckCuda(cudaStreamWaitEvent(HandleOf(stream), HandleOf(event), 0), "ordering streams");
}

}  // namespace nsa::kernels::cuda
