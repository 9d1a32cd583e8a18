#include "kernels/grad/device.h"

#include <cstdint>
#include <limits>
#include <memory>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/grad/grad_attention.h"
#include "kernels/grad/grad_windows.h"

namespace nsa::kernels::grad {
namespace {

const float* Floats(const void* data) { return static_cast<const float*>(data); }
float* Floats(void* data) { return static_cast<float*>(data); }

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(int num_threads) : context_(num_threads) {}

  bool Serves(DType dtype) const override { return dtype == DType::kF32; }
  int64_t max_head_dims() const override { return std::numeric_limits<int64_t>::max(); }
  bool is_host() const override { return true; }
  void SetStream(void*) override {}

  void AttentionForward(const DeviceAttention& attention, const DeviceOutput& output) override {
    cpu::AttentionForward(context_, InputOf(attention),
                          {Floats(output.out), output.lse, output.selected});
  }
  void AttentionBackward(const DeviceAttention& attention,
                         const DeviceGradients& gradients) override {
    cpu::AttentionBackward(
        context_, InputOf(attention),
        {Floats(gradients.out), gradients.lse, Floats(gradients.grad_out), Floats(gradients.grad_q),
         Floats(gradients.grad_k), Floats(gradients.grad_v)});
  }
  void GatherWindows(const DeviceWindows& w) override {
    cpu::GatherWindows(context_, {w.shape, Floats(w.x), Floats(w.position)}, Floats(w.windows));
  }
  void GatherWindowsBackward(const DeviceWindows& w) override {
    cpu::GatherWindowsBackward(
        context_, {w.shape, Floats(w.grad_windows), Floats(w.grad_x), Floats(w.grad_position)});
  }
  void MeanWindows(const DeviceWindows& w) override {
    cpu::MeanWindows(context_, w.shape, Floats(w.x), Floats(w.windows));
  }
  void MeanWindowsBackward(const DeviceWindows& w) override {
    cpu::MeanWindowsBackward(context_, w.shape, Floats(w.grad_windows), Floats(w.grad_x));
  }

 private:
  static AttentionInput<float> InputOf(const DeviceAttention& attention) {
    NSA_CHECK(attention.dtype == DType::kF32);
    const AttentionInput<void>& input = attention.input;
    return {input.branch,    input.spec,      input.heads,     input.sequences,
            Floats(input.q), Floats(input.k), Floats(input.v), input.selected};
  }

  kernels::cpu::Context context_;
};

}  // namespace

OpenedDevice OpenCpu(int num_threads) {
  return {.device = std::make_unique<CpuDevice>(num_threads), .error = ""};
}

}  // namespace nsa::kernels::grad
