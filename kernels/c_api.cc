#include "kernels/c_api.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "kernels/cpu/cpu.h"
#include "kernels/grad/grad_attention.h"
#include "kernels/grad/grad_windows.h"

struct nsa_context {
  explicit nsa_context(int num_threads) : cpu(num_threads) {}
  nsa::kernels::cpu::Context cpu;
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

template <typename Call>
void CheckCall(const nsa_context* context, const Call* call) {
  Require(context != nullptr, "context is null");
  Require(call != nullptr, "call is null");
  Require(call->size == sizeof(Call), "size is " + std::to_string(call->size) + ", not " +
                                          std::to_string(sizeof(Call)) +
                                          ": the caller was written for another version");
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

void CheckSelected(const grad::AttentionInput<float>& input) {
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

void ReadSpec(const nsa_grad_attention& call, grad::AttentionInput<float>& input) {
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

grad::AttentionInput<float> InputOf(const nsa_grad_attention& call, grad::Branch branch) {
  grad::AttentionInput<float> input;
  input.branch = branch;
  input.sequences = Sequences(call.cu_seqlens, call.num_sequences);
  grad::HeadShape& heads = input.heads;
  heads.num_q_heads = Size("num_q_heads", call.num_q_heads);
  heads.num_kv_heads = Size("num_kv_heads", call.num_kv_heads);
  heads.head_dim_k = Size("head_dim_k", call.head_dim_k);
  heads.head_dim_v = Size("head_dim_v", call.head_dim_v);
  Require(heads.num_q_heads % heads.num_kv_heads == 0 && heads.Group() <= grad::cpu::kMaxGroup,
          "num_q_heads is no multiple of num_kv_heads, or more than 64-fold");
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
    CheckSelected(input);
  }
  return input;
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

int32_t Forward(nsa_context* context, const nsa_grad_attention* call, grad::Branch branch) {
  return Guarded([&] {
    CheckCall(context, call);
    const grad::AttentionInput<float> input = InputOf(*call, branch);
    const int64_t num_tokens = input.sequences.num_tokens();
    const bool chooses = branch == grad::Branch::kCompressed;
    grad::cpu::AttentionForward(
        context->cpu, input,
        {Given("out", call->out, num_tokens), Given("lse", call->lse, num_tokens),
         chooses ? call->selected : nullptr});
  });
}

int32_t Backward(nsa_context* context, const nsa_grad_attention* call, grad::Branch branch) {
  return Guarded([&] {
    CheckCall(context, call);
    const grad::AttentionInput<float> input = InputOf(*call, branch);
    const int64_t num_tokens = input.sequences.num_tokens();
    const int64_t num_keys = input.k == nullptr ? 0 : 1;
    grad::cpu::AttentionBackward(
        context->cpu, input,
        {Given("out", call->out, num_tokens), Given("lse", call->lse, num_tokens),
         Given("grad_out", call->grad_out, num_tokens), Given("grad_q", call->grad_q, num_tokens),
         Given("grad_k", call->grad_k, num_keys), Given("grad_v", call->grad_v, num_keys)});
  });
}

}  // namespace
}  // namespace nsa::kernels

using nsa::kernels::Backward;
using nsa::kernels::CheckCall;
using nsa::kernels::CountWindows;
using nsa::kernels::Forward;
using nsa::kernels::Given;
using nsa::kernels::Guarded;
using nsa::kernels::ShapeOf;
using nsa::kernels::grad::Branch;

extern "C" {

nsa_context* nsa_context_create(int32_t num_threads) {
  nsa_context* context = nullptr;
  Guarded([&] {
    nsa::kernels::Require(num_threads >= 1 && num_threads <= nsa::kernels::kMaxThreads,
                          "num_threads is " + std::to_string(num_threads) + ", not in [1, 1024]");
    context = std::make_unique<nsa_context>(num_threads).release();
  });
  return context;
}

void nsa_context_destroy(nsa_context* context) { delete context; }

const char* nsa_last_error(void) { return nsa::kernels::last_error.c_str(); }

int32_t nsa_grad_gather_windows_forward(nsa_context* context, const nsa_grad_windows* call) {
  return Guarded([&] {
    CheckCall(context, call);
    const nsa::kernels::grad::WindowsShape shape = ShapeOf(*call);
    const int64_t count = CountWindows(shape);
    nsa::kernels::grad::cpu::GatherWindows(
        context->cpu, {shape, Given("x", call->x, count), Given("position", call->position, count)},
        Given("windows", call->windows, count));
  });
}

int32_t nsa_grad_gather_windows_backward(nsa_context* context, const nsa_grad_windows* call) {
  return Guarded([&] {
    CheckCall(context, call);
    const nsa::kernels::grad::WindowsShape shape = ShapeOf(*call);
    nsa::kernels::grad::cpu::GatherWindowsBackward(
        context->cpu, {shape, Given("grad_windows", call->grad_windows, CountWindows(shape)),
                       Given("grad_x", call->grad_x, shape.sequences.num_tokens()),
                       Given("grad_position", call->grad_position, 1)});
  });
}

int32_t nsa_grad_mean_windows_forward(nsa_context* context, const nsa_grad_windows* call) {
  return Guarded([&] {
    CheckCall(context, call);
    const nsa::kernels::grad::WindowsShape shape = ShapeOf(*call);
    const int64_t count = CountWindows(shape);
    nsa::kernels::grad::cpu::MeanWindows(context->cpu, shape, Given("x", call->x, count),
                                         Given("windows", call->windows, count));
  });
}

int32_t nsa_grad_mean_windows_backward(nsa_context* context, const nsa_grad_windows* call) {
  return Guarded([&] {
    CheckCall(context, call);
    const nsa::kernels::grad::WindowsShape shape = ShapeOf(*call);
    nsa::kernels::grad::cpu::MeanWindowsBackward(
        context->cpu, shape, Given("grad_windows", call->grad_windows, CountWindows(shape)),
        Given("grad_x", call->grad_x, shape.sequences.num_tokens()));
  });
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
