#include "kernels/c_api.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "kernels/grad/device.h"
#include "kernels/grad/grad_attention.h"
#include "kernels/grad/grad_windows.h"

struct nsa_context {
  std::unique_ptr<nsa::kernels::grad::Device> device;
};

namespace nsa::kernels {
namespace {

constexpr int64_t kMaxThreads = 1024;
// So that products of a few sizes stay far from the end of 64 bits, and one size fits 32.
constexpr int64_t kMaxSize = int64_t{1} << 20;

thread_local std::string last_error;

/// An argument that a caller should not have given.
class Refused : public std::exception {
 public:
  explicit Refused(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

void Require(bool holds, const std::string& what) {
  if (!holds) throw Refused(what);
}

/// A size of the call, in [least, kMaxSize].
int Size(const char* name, int64_t value, int64_t least = 1) {
  Require(value >= least && value <= kMaxSize, std::string(name) + " is " + std::to_string(value) +
                                                   ", not in [" + std::to_string(least) + ", " +
                                                   std::to_string(kMaxSize) + "]");
  return static_cast<int>(value);
}

template <typename T>
T* Given(const char* name, T* pointer, int64_t num_rows) {
  Require(pointer != nullptr || num_rows == 0, std::string(name) + " is null");
  return pointer;
}

grad::PackedSequences Sequences(const int64_t* cu_seqlens, int64_t num_sequences) {
  Require(num_sequences >= 0, "num_sequences is " + std::to_string(num_sequences));
  Require(cu_seqlens != nullptr, "cu_seqlens is null");
  Require(cu_seqlens[0] == 0, "cu_seqlens[0] is " + std::to_string(cu_seqlens[0]) + ", not 0");
  for (int64_t s = 0; s < num_sequences; ++s) {
    const int64_t length = cu_seqlens[s + 1] - cu_seqlens[s];
    Require(length >= 0 && length <= INT32_MAX,
            "sequence " + std::to_string(s) + " has " + std::to_string(length) + " tokens");
  }
  return {cu_seqlens, num_sequences};
}

/// The call as this version has it.
template <typename Call>
Call CheckedCall(const nsa_context* context, const Call* call) {
  constexpr int64_t kWithoutType = offsetof(Call, dtype);
  Require(context != nullptr, "context is null");
  Require(call != nullptr, "call is null");
  Require(call->size == sizeof(Call) || call->size == kWithoutType,
          "size is " + std::to_string(call->size) + ", not " + std::to_string(sizeof(Call)) +
              ": the caller was written for another version");
  Call checked = {};
  std::memcpy(&checked, call, static_cast<size_t>(call->size));
  return checked;
}

DType TypeOf(const grad::Device& device, int64_t dtype) {
  Require(dtype == NSA_FLOAT32 || dtype == NSA_BFLOAT16, "dtype is " + std::to_string(dtype));
  const DType type = dtype == NSA_FLOAT32 ? DType::kF32 : DType::kBF16;
  Require(device.Serves(type), "dtype is bfloat16, which this context does not serve");
  return type;
}

/// So that kernels may count `count` of `what` in 31 bits, where they do.
void CheckCount(const grad::Device& device, const char* what, int64_t a, int64_t b) {
  Require(device.is_host() || a <= INT32_MAX / std::max<int64_t>(b, 1),
          std::string("a GPU takes fewer than 2^31 ") + what);
}

grad::WindowsShape ShapeOf(const nsa_grad_windows& call) {
  grad::WindowsShape shape;
  shape.sequences = Sequences(call.cu_seqlens, call.num_sequences);
  shape.num_heads = Size("num_heads", call.num_heads);
  shape.head_dim = Size("head_dim", call.head_dim);
  shape.length = Size("compression_length", call.compression_length);
  shape.stride = Size("compression_stride", call.compression_stride);
  Require(shape.length % shape.stride == 0,
          "compression_length is no multiple of compression_stride");
  return shape;
}

int64_t CountWindows(const grad::WindowsShape& shape) {
  int64_t count = 0;
  for (int64_t s = 0; s < shape.sequences.num_sequences; ++s) {
    count += grad::NumWindows(shape.sequences.Length(s), shape.length, shape.stride);
  }
  return count;
}

void CheckSelected(const grad::AttentionInput<void>& input) {
  const int64_t row = int64_t{input.heads.num_kv_heads} * input.spec.num_selected_blocks;
  for (int64_t s = 0; s < input.sequences.num_sequences; ++s) {
    const int64_t length = input.sequences.Length(s);
    const int64_t num_blocks = (length + input.spec.sel_block_size - 1) / input.spec.sel_block_size;
    const int64_t begin = input.sequences.Begin(s) * row;
    for (int64_t i = begin; i < begin + length * row; ++i) {
      const int32_t block = input.selected[i];
      if (block >= -1 && block < num_blocks) continue;
      throw Refused("selected[" + std::to_string(i / row) + "] has block " + std::to_string(block) +
                    " of a sequence of " + std::to_string(num_blocks));
    }
  }
}

void ReadSpec(const nsa_grad_attention& call, grad::AttentionInput<void>& input) {
  grad::AttentionSpec& spec = input.spec;
  Require(call.scale > 0 && std::isfinite(call.scale),
          "scale is " + std::to_string(call.scale) + ", not a positive number");
  spec.scale = call.scale;
  if (input.branch == grad::Branch::kWindow) {
    Require(call.window_size >= 1, "window_size is " + std::to_string(call.window_size));
    // No sequence is longer, and sums stay far from the end of 64 bits.
    spec.window_size = std::min(call.window_size, int64_t{INT32_MAX});
  }
  if (input.branch == grad::Branch::kCompressed) {
    spec.length = Size("compression_length", call.compression_length);
    spec.stride = Size("compression_stride", call.compression_stride);
    Require(spec.length % spec.stride == 0,
            "compression_length is no multiple of compression_stride");
  }
  const bool chooses = input.branch == grad::Branch::kCompressed && call.selected != nullptr;
  if (!chooses && input.branch != grad::Branch::kSelected) return;
  spec.sel_block_size = Size("sel_block_size", call.sel_block_size);
  Require(64 % spec.sel_block_size == 0 || spec.sel_block_size % 64 == 0,
          "sel_block_size is neither a divisor nor a multiple of 64");
  spec.num_selected_blocks = Size("num_selected_blocks", call.num_selected_blocks);
  if (!chooses) return;
  Require(spec.sel_block_size % spec.stride == 0,
          "sel_block_size is no multiple of compression_stride");
  spec.num_initial_blocks = Size("num_initial_blocks", call.num_initial_blocks, 0);
  spec.num_local_blocks = Size("num_local_blocks", call.num_local_blocks, 0);
}

grad::DeviceAttention AttentionOf(const grad::Device& device, const nsa_grad_attention& call,
                                  grad::Branch branch) {
  grad::DeviceAttention attention;
  attention.dtype = TypeOf(device, call.dtype);
  grad::AttentionInput<void>& input = attention.input;
  input.branch = branch;
  input.sequences = Sequences(call.cu_seqlens, call.num_sequences);
  grad::HeadShape& heads = input.heads;
  heads.num_q_heads = Size("num_q_heads", call.num_q_heads);
  heads.num_kv_heads = Size("num_kv_heads", call.num_kv_heads);
  heads.head_dim_k = Size("head_dim_k", call.head_dim_k);
  heads.head_dim_v = Size("head_dim_v", call.head_dim_v);
  Require(heads.num_q_heads % heads.num_kv_heads == 0 && heads.Group() <= grad::cpu::kMaxGroup,
          "num_q_heads is no multiple of num_kv_heads, or more than 64-fold");
  Require(heads.head_dim_k + heads.head_dim_v <= device.max_head_dims(),
          "head_dim_k and head_dim_v are more than " + std::to_string(device.max_head_dims()) +
              " together");
  CheckCount(device, "heads of tokens", input.sequences.num_tokens(), heads.num_q_heads);
  ReadSpec(call, input);
  int64_t num_keys = 0;
  for (int64_t s = 0; s < input.sequences.num_sequences; ++s) {
    num_keys += input.NumKeys(input.sequences.Length(s));
  }
  input.q = Given("q", call.q, input.sequences.num_tokens());
  input.k = Given("k", call.k, num_keys);
  input.v = Given("v", call.v, num_keys);
  if (branch == grad::Branch::kSelected) {
    input.selected = Given("selected", call.selected, input.sequences.num_tokens());
    if (device.is_host()) CheckSelected(input);
  }
  return attention;
}

/// Runs `body`; what it throws becomes the last error.
template <typename Body>
int32_t Guarded(Body&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
    return -1;
  }
}

int32_t Forward(nsa_context* context, const nsa_grad_attention* given, grad::Branch branch) {
  return Guarded([&] {
    const nsa_grad_attention call = CheckedCall(context, given);
    const grad::DeviceAttention attention = AttentionOf(*context->device, call, branch);
    const int64_t num_tokens = attention.input.sequences.num_tokens();
    const bool chooses = branch == grad::Branch::kCompressed;
    context->device->AttentionForward(
        attention, {Given("out", call.out, num_tokens), Given("lse", call.lse, num_tokens),
                    chooses ? call.selected : nullptr});
  });
}

int32_t Backward(nsa_context* context, const nsa_grad_attention* given, grad::Branch branch) {
  return Guarded([&] {
    const nsa_grad_attention call = CheckedCall(context, given);
    const grad::DeviceAttention attention = AttentionOf(*context->device, call, branch);
    const int64_t num_tokens = attention.input.sequences.num_tokens();
    const int64_t num_keys = attention.input.k == nullptr ? 0 : 1;
    context->device->AttentionBackward(
        attention,
        {Given("out", call.out, num_tokens), Given("lse", call.lse, num_tokens),
         Given("grad_out", call.grad_out, num_tokens), Given("grad_q", call.grad_q, num_tokens),
         Given("grad_k", call.grad_k, num_keys), Given("grad_v", call.grad_v, num_keys)});
  });
}

using WindowsOperator = void (grad::Device::*)(const grad::DeviceWindows&);

/// Of the windows' operators: reads x, or writes grad_x; has positions, or means.
int32_t Windows(nsa_context* context, const nsa_grad_windows* given, bool is_forward,
                bool has_position, WindowsOperator run) {
  return Guarded([&] {
    const nsa_grad_windows call = CheckedCall(context, given);
    grad::Device& device = *context->device;
    grad::DeviceWindows windows;
    windows.dtype = TypeOf(device, call.dtype);
    windows.shape = ShapeOf(call);
    const int64_t count = CountWindows(windows.shape);
    const int64_t num_tokens = windows.shape.sequences.num_tokens();
    CheckCount(device, "tokens", num_tokens, 1);
    CheckCount(device, "elements of a token", call.num_heads, call.head_dim);
    CheckCount(device, "elements of a window", call.compression_length, call.head_dim);
    if (is_forward) {
      windows.x = Given("x", call.x, count);
      if (has_position) windows.position = Given("position", call.position, count);
      windows.windows = Given("windows", call.windows, count);
    } else {
      windows.grad_windows = Given("grad_windows", call.grad_windows, count);
      windows.grad_x = Given("grad_x", call.grad_x, num_tokens);
      if (has_position) windows.grad_position = Given("grad_position", call.grad_position, 1);
    }
    (device.*run)(windows);
  });
}

/// A context for what was opened, or null.
template <typename Open>
nsa_context* CreateContext(Open&& open) {
  nsa_context* context = nullptr;
  Guarded([&] {
    grad::OpenedDevice opened = open();
    Require(opened.device != nullptr, opened.error);
    context = std::make_unique<nsa_context>(nsa_context{std::move(opened.device)}).release();
  });
  return context;
}

}  // namespace
}  // namespace nsa::kernels

using nsa::kernels::Backward;
using nsa::kernels::CreateContext;
using nsa::kernels::Forward;
using nsa::kernels::Guarded;
using nsa::kernels::Require;
using nsa::kernels::Windows;
using nsa::kernels::grad::Branch;
using nsa::kernels::grad::Device;

extern "C" {

nsa_context* nsa_context_create(int32_t num_threads) {
  return CreateContext([&] {
    Require(num_threads >= 1 && num_threads <= nsa::kernels::kMaxThreads,
            "num_threads is " + std::to_string(num_threads) + ", not in [1, 1024]");
    return nsa::kernels::grad::OpenCpu(num_threads);
  });
}

nsa_context* nsa_context_create_cuda(void) { return CreateContext(nsa::kernels::grad::OpenCuda); }

void nsa_context_destroy(nsa_context* context) { delete context; }

int32_t nsa_context_set_stream(nsa_context* context, void* stream) {
  return Guarded([&] {
    Require(context != nullptr, "context is null");
    Require(!context->device->is_host(), "the context is the CPU's, which has no streams");
    context->device->SetStream(stream);
  });
}

const char* nsa_last_error(void) { return nsa::kernels::last_error.c_str(); }

int32_t nsa_grad_gather_windows_forward(nsa_context* context, const nsa_grad_windows* call) {
  return Windows(context, call, true, true, &Device::GatherWindows);
}
int32_t nsa_grad_gather_windows_backward(nsa_context* context, const nsa_grad_windows* call) {
  return Windows(context, call, false, true, &Device::GatherWindowsBackward);
}
int32_t nsa_grad_mean_windows_forward(nsa_context* context, const nsa_grad_windows* call) {
  return Windows(context, call, true, false, &Device::MeanWindows);
}
int32_t nsa_grad_mean_windows_backward(nsa_context* context, const nsa_grad_windows* call) {
  return Windows(context, call, false, false, &Device::MeanWindowsBackward);
}

int32_t nsa_grad_cmp_attention_forward(nsa_context* context, const nsa_grad_attention* call) {
  return Forward(context, call, Branch::kCompressed);
}
int32_t nsa_grad_cmp_attention_backward(nsa_context* context, const nsa_grad_attention* call) {
  return Backward(context, call, Branch::kCompressed);
}
int32_t nsa_grad_selected_attention_forward(nsa_context* context, const nsa_grad_attention* call) {
  return Forward(context, call, Branch::kSelected);
}
int32_t nsa_grad_selected_attention_backward(nsa_context* context, const nsa_grad_attention* call) {
  return Backward(context, call, Branch::kSelected);
}
int32_t nsa_grad_window_attention_forward(nsa_context* context, const nsa_grad_attention* call) {
  return Forward(context, call, Branch::kWindow);
}
int32_t nsa_grad_window_attention_backward(nsa_context* context, const nsa_grad_attention* call) {
  return Backward(context, call, Branch::kWindow);
}

}  // extern "C"
