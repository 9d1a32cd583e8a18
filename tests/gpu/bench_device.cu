#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "kernels/cuda/launch.h"
#include "tests/gpu/bench_device.h"

namespace nsa::gpu {
namespace {

using namespace kernels::cuda;  // NOLINT(google-build-using-namespace): kernels live there

constexpr int kThreads = 256;

void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s: %s\n", what, cudaGetErrorString(error));
  std::abort();
}

/// A bijection that mixes all bits (Murmur3's finaliser).
NSA_DEVICE uint32_t Mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x85EBCA6Bu;
  x = (x ^ x >> 13) * 0xC2B2AE35u;
  return x ^ x >> 16;
}

/// The sum of four uniform numbers, scaled: normal enough for attention.
NSA_DEVICE float RandomOf(int64_t index, uint32_t seed) {
  const uint32_t low = Mix(static_cast<uint32_t>(index) ^ Mix(seed));
  const uint32_t high = Mix(low + static_cast<uint32_t>(index >> 32) + 0x9E3779B9u);
  const auto sum =
      static_cast<float>((low & 0xFFFF) + (low >> 16) + (high & 0xFFFF) + (high >> 16));
  return (sum / 65536.0f - 2.0f) * 1.7320508f;  // four times a variance of 1/12
}

NSA_DEVICE void Store(float& target, float x) { target = x; }
NSA_DEVICE void Store(Bf16& target, float x) { target = ToBf16(x); }

template <typename T>
struct Filling {
  T* data;
  int64_t count;
  uint32_t seed;
};

template <typename T>
NSA_KERNEL(kThreads)
FillKernel(NSA_ARGS Filling<T> f) {
  const int64_t i = CtaX() * kThreads + ThreadIndex();
  if (i < f.count) Store(f.data[i], RandomOf(i, f.seed));
}

template <typename T>
void Fill(const DeviceArray<T>& array, uint32_t seed) {
  Stream stream;
  Launch(stream,
         {.name = "fill", .grid_x = CeilDiv(array.size(), kThreads), .num_threads = kThreads},
         FillKernel<T>, Filling<T>{array.data(), array.size(), seed});
  Synchronize();
}

constexpr int kReadsOfThread = 16;

struct Reading {
  const U32x4* data;
  uint32_t* sink;  // written where a sum is what no sum is, so that reads count
  uint32_t never;
};

/// CTA i: kThreads · kReadsOfThread times 16 bytes.
NSA_KERNEL(kThreads) ReadKernel(NSA_ARGS Reading r) {
  const U32x4* data = r.data + CtaX() * kThreads * kReadsOfThread + ThreadIndex();
  uint32_t sum = 0;
  NSA_UNROLL
  for (int i = 0; i < kReadsOfThread; ++i) {
    const U32x4 x = data[i * kThreads];
    sum ^= x.x[0] ^ x.x[1] ^ x.x[2] ^ x.x[3];
  }
  if (sum == r.never) *r.sink = sum;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Event {
 public:
  Event() { Require(cudaEventCreate(&event_), "event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void Record(cudaStream_t stream) { Require(cudaEventRecord(event_, stream), "event"); }
  /// Waits for both.
  double SecondsSince(const Event& begin) {
    Require(cudaEventSynchronize(event_), "event");
    float milliseconds = 0;
    Require(cudaEventElapsedTime(&milliseconds, begin.event_, event_), "event");
    return milliseconds / 1e3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class OwnStream {
 public:
  OwnStream() { Require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~OwnStream() { cudaStreamDestroy(stream_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

template <typename Enqueue>
double Time(cudaStream_t stream, Enqueue&& enqueue) {
  Event begin, end;
  begin.Record(stream);
  enqueue();
  end.Record(stream);
  return end.SecondsSince(begin);
}

}  // namespace

DeviceMemory::DeviceMemory(int64_t num_bytes) : num_bytes_(num_bytes) {
  if (num_bytes > 0) Require(cudaMalloc(&data_, static_cast<size_t>(num_bytes)), "cudaMalloc");
}
DeviceMemory::~DeviceMemory() { cudaFree(data_); }
DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}

void Synchronize() { Require(cudaDeviceSynchronize(), "synchronize"); }

void CopyToDevice(void* device, const void* host, int64_t num_bytes) {
  Require(cudaMemcpy(device, host, static_cast<size_t>(num_bytes), cudaMemcpyHostToDevice),
          "copy to the device");
}
void CopyToHost(void* host, const void* device, int64_t num_bytes) {
  Require(cudaMemcpy(host, device, static_cast<size_t>(num_bytes), cudaMemcpyDeviceToHost),
          "copy to the host");
}

void FillRandom(const DeviceArray<float>& array, uint32_t seed) { Fill(array, seed); }
void FillRandom(const DeviceArray<Bf16>& array, uint32_t seed) { Fill(array, seed); }

bool FindDevice(DeviceInfo& info) {
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0) return false;
  cudaDeviceProp properties = {};
  Require(cudaGetDeviceProperties(&properties, 0), "properties");
  size_t free = 0, total = 0;
  Require(cudaMemGetInfo(&free, &total), "memory");
  info = {properties.name, 10 * properties.major + properties.minor, properties.multiProcessorCount,
          properties.l2CacheSize, static_cast<int64_t>(free)};
  return true;
}

double MeasureReadBandwidth() {
  DeviceInfo info;
  if (!FindDevice(info)) return 0;
  constexpr int64_t kCtaBytes = int64_t{kThreads} * kReadsOfThread * 16;
  const int64_t num_ctas = std::min(int64_t{4} << 30, info.free_bytes / 2) / kCtaBytes;
  const DeviceMemory memory(num_ctas * kCtaBytes);
  const DeviceArray<uint32_t> sink(1);
  Require(cudaMemset(memory.data(), 1, static_cast<size_t>(memory.num_bytes())), "memset");
  const Reading reading = {static_cast<const U32x4*>(memory.data()), sink.data(), 0x12345678u};
  const double seconds = MeasureGraph(
      [&](Stream& stream) {
        Launch(stream, {.name = "read", .grid_x = num_ctas, .num_threads = kThreads}, ReadKernel,
               reading);
      },
      15);
  return static_cast<double>(memory.num_bytes()) / seconds;
}

double MeasureGraph(const std::function<void(Stream&)>& enqueue, int rounds) {
  const OwnStream own;
  Stream stream = {.handle = own.get()};
  // Outside of the capture first: what a kernel asks for once is asked for here.
  enqueue(stream);
  Require(cudaStreamSynchronize(own.get()), "first run");
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  Require(cudaStreamBeginCapture(own.get(), cudaStreamCaptureModeGlobal), "capture");
  enqueue(stream);
  Require(cudaStreamEndCapture(own.get(), &graph), "capture");
  Require(cudaGraphInstantiate(&exec, graph, 0), "graph");
  std::vector<double> seconds;
  for (int i = -1; i < rounds; ++i) {
    const double one = Time(own.get(), [&] { Require(cudaGraphLaunch(exec, own.get()), "graph"); });
    if (i >= 0) seconds.push_back(one);
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  return Median(seconds);
}

double MeasureOnce(const std::function<void(Stream&)>& enqueue) {
  const OwnStream own;
  Stream stream = {.handle = own.get()};
  return Time(own.get(), [&] { enqueue(stream); });
}

}  // namespace nsa::gpu
