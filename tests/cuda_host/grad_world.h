#ifndef NSA_TESTS_CUDA_HOST_GRAD_WORLD_H_
#define NSA_TESTS_CUDA_HOST_GRAD_WORLD_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/grad_device.h"
#include "kernels/quant.h"
#include "tests/kernels/grad_batch.h"

/// Batches of tests/kernels/grad_batch.h on a device, in float32 or bfloat16.
namespace nsa::kernels::grad {

inline std::unique_ptr<Device> OpenDevice(const cuda::GradLimits& limits = {}) {
  OpenedDevice opened = cuda::OpenGradDevice(limits);
  EXPECT_NE(opened.device, nullptr) << opened.error;
  return std::move(opened.device);
}

/// Elements of one type.
class Elements {
 public:
  Elements(DType dtype, const std::vector<double>& values) : dtype_(dtype) {
    for (const double value : values) {
      const auto x = static_cast<float>(value);
      if (dtype == DType::kF32) {
        floats_.push_back(x);
      } else {
        halves_.push_back(F32ToBF16(x));
      }
    }
  }
  void* data() {
    if (dtype_ == DType::kF32) return floats_.data();
    return halves_.data();
  }
  std::vector<float> values() const {
    std::vector<float> values = floats_;
    for (const uint16_t half : halves_) values.push_back(BF16ToF32(half));
    return values;
  }

 private:
  DType dtype_;
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
};

/// To the precision of `dtype`, so that the reference has the same numbers.
inline void Round(DType dtype, std::vector<double>& values) {
  if (dtype == DType::kF32) return;
  for (double& value : values) value = BF16ToF32(F32ToBF16(static_cast<float>(value)));
}

/// The reference's batch, in double, of numbers that `dtype` has.
class RoundedBatch : public GradBatch<double> {
 public:
  RoundedBatch(const GradCase& c, DType dtype) : GradBatch<double>(c) {
    for (std::vector<double>* values : {&q, &k, &v, &grad_out}) Round(dtype, *values);
  }
  void RunReference() {
    reference::AttentionForward(input, output());
    reference::AttentionBackward(input, gradients());
  }
};

/// What a device makes of a batch.
struct DeviceResults {
  std::vector<float> out, lse, grad_q, grad_k, grad_v;
  std::vector<int32_t> selected;

  /// All in one vector, lists as floats.
  std::vector<float> All() const {
    std::vector<float> all(selected.begin(), selected.end());
    for (const auto* part : {&out, &lse, &grad_q, &grad_k, &grad_v}) {
      all.insert(all.end(), part->begin(), part->end());
    }
    return all;
  }
};

inline DeviceResults RunDevice(Device& device, const GradBatch<double>& batch, DType dtype,
                               bool has_backward = true) {
  Elements q(dtype, batch.q), k(dtype, batch.k), v(dtype, batch.v);
  Elements grad_out(dtype, batch.grad_out), out(dtype, std::vector<double>(batch.out.size(), -7));
  Elements grad_q(dtype, std::vector<double>(batch.q.size(), -7));
  Elements grad_k(dtype, std::vector<double>(batch.k.size(), -7));
  Elements grad_v(dtype, std::vector<double>(batch.v.size(), -7));
  std::vector<float> lse(batch.lse.size(), -7);
  std::vector<int32_t> selected = batch.selected;
  const AttentionInput<double>& in = batch.input;
  const bool chooses = in.branch == Branch::kCompressed;
  if (chooses) std::fill(selected.begin(), selected.end(), -7);
  DeviceAttention attention;
  attention.dtype = dtype;
  attention.input = {in.branch, in.spec,  in.heads, in.sequences,
                     q.data(),  k.data(), v.data(), chooses ? nullptr : selected.data()};
  device.AttentionForward(attention, {out.data(), lse.data(), chooses ? selected.data() : nullptr});
  if (has_backward) {
    device.AttentionBackward(attention, {out.data(), lse.data(), grad_out.data(), grad_q.data(),
                                         grad_k.data(), grad_v.data()});
  }
  return {out.values(), lse, grad_q.values(), grad_k.values(), grad_v.values(), selected};
}

inline void ExpectNear(const GradBatch<double>& expected, const DeviceResults& actual,
                       double tolerance) {
  ExpectNear(expected.out, actual.out, tolerance, "out");
  ExpectNear(expected.lse, actual.lse, 2e-5, "lse");
  EXPECT_EQ(expected.selected, actual.selected);
  ExpectNear(expected.grad_q, actual.grad_q, tolerance, "grad_q");
  ExpectNear(expected.grad_k, actual.grad_k, tolerance, "grad_k");
  ExpectNear(expected.grad_v, actual.grad_v, tolerance, "grad_v");
}

}  // namespace nsa::kernels::grad

#endif  // NSA_TESTS_CUDA_HOST_GRAD_WORLD_H_
