#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "tests/cuda_host/grad_world.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/grad_windows_cases.h"

namespace nsa::kernels::grad {
namespace {

/// Results, one after the other: gathered, grad_x, grad_position, means, grad_x of means.
constexpr int kNumResults = 5;

std::vector<int64_t> SizesOf(const WindowsCase& c) {
  const int64_t x = c.cu_seqlens.back() * c.num_heads * c.head_dim;
  const int64_t mean = c.num_windows() * c.num_heads * c.head_dim;
  return {mean * c.length, x, int64_t{c.length} * c.head_dim, mean, x};
}

std::vector<std::vector<double>> Inputs(const WindowsCase& c, DType dtype) {
  const std::vector<int64_t> sizes = SizesOf(c);
  std::vector<std::vector<double>> inputs;
  for (const int64_t count : {sizes[1], sizes[2], sizes[0], sizes[3]}) {
    inputs.push_back(RandomDoubles(count, static_cast<uint32_t>(inputs.size())));
    Round(dtype, inputs.back());
  }
  return inputs;
}

std::vector<std::vector<double>> RunReference(const WindowsCase& c, DType dtype) {
  const auto inputs = Inputs(c, dtype);
  std::vector<std::vector<double>> results;
  for (const int64_t size : SizesOf(c)) results.emplace_back(size);
  const WindowsShape shape = c.shape();
  reference::GatherWindows<double>({shape, inputs[0].data(), inputs[1].data()}, results[0].data());
  reference::GatherWindowsBackward<double>(
      {shape, inputs[2].data(), results[1].data(), results[2].data()});
  reference::MeanWindows(shape, inputs[0].data(), results[3].data());
  reference::MeanWindowsBackward(shape, inputs[3].data(), results[4].data());
  return results;
}

std::vector<std::vector<float>> RunDevice(const WindowsCase& c, DType dtype) {
  std::vector<Elements> in, out;
  for (const std::vector<double>& input : Inputs(c, dtype)) in.emplace_back(dtype, input);
  for (const int64_t size : SizesOf(c)) out.emplace_back(dtype, std::vector<double>(size, -7));
  const auto device = OpenDevice();
  DeviceWindows w;
  w.dtype = dtype;
  w.shape = c.shape();
  w.x = in[0].data();
  w.position = in[1].data();
  w.windows = out[0].data();
  w.grad_windows = in[2].data();
  w.grad_x = out[1].data();
  w.grad_position = out[2].data();
  device->GatherWindows(w);
  device->GatherWindowsBackward(w);
  w.windows = out[3].data();
  w.grad_windows = in[3].data();
  w.grad_x = out[4].data();
  w.grad_position = nullptr;
  device->MeanWindows(w);
  device->MeanWindowsBackward(w);
  std::vector<std::vector<float>> results;
  for (const Elements& elements : out) results.push_back(elements.values());
  return results;
}

TEST(CudaGradWindowsTest, MatchesTheReferenceInDouble) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const WindowsCase& c : WindowsCases()) {
      const auto expected = RunReference(c, dtype);
      const auto actual = RunDevice(c, dtype);
      for (int i = 0; i < kNumResults; ++i) {
        // A result is rounded once, to 24 bits or 8.
        const double tolerance = dtype == DType::kF32 ? 2e-6 : 4e-3;
        ExpectNear(expected[i], actual[i], tolerance, "result");
      }
    }
  }
}

TEST(CudaGradWindowsTest, HasNoRaces) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    cuda_host::InEveryOrder([&] {
      std::vector<float> all;
      for (const auto& result : RunDevice(WindowsCases()[1], dtype)) {
        all.insert(all.end(), result.begin(), result.end());
      }
      return all;
    });
  }
}

}  // namespace
}  // namespace nsa::kernels::grad
