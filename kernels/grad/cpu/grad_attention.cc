#include "kernels/grad/grad_attention.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/grad/cpu/attention_call.h"

namespace nsa::kernels::grad::cpu {
namespace {

/// Rows of `dim` floats as rows of Padded(dim), with zeros behind; a view where they are the same.
class PaddedRows {
 public:
  PaddedRows(const float* from, int64_t num_rows, int dim) : from_(from) {
    if (Padded(dim) == dim || from == nullptr) return;
    rows_.assign(static_cast<size_t>(num_rows * Padded(dim)), 0.0f);
    for (int64_t row = 0; row < num_rows; ++row) {
      std::memcpy(rows_.data() + row * Padded(dim), from + row * dim, sizeof(float) * dim);
    }
  }
  const float* get() const { return rows_.empty() ? from_ : rows_.data(); }

 private:
  const float* from_;
  std::vector<float> rows_;
};

/// The same for a result: rows are copied when it ends.
class PaddedResult {
 public:
  PaddedResult(float* to, int64_t num_rows, int dim) : to_(to), num_rows_(num_rows), dim_(dim) {
    if (Padded(dim) != dim) rows_.resize(static_cast<size_t>(num_rows * Padded(dim)));
  }
  ~PaddedResult() {
    for (int64_t row = 0; !rows_.empty() && row < num_rows_; ++row) {
      std::memcpy(to_ + row * dim_, rows_.data() + row * Padded(dim_), sizeof(float) * dim_);
    }
  }
  PaddedResult(const PaddedResult&) = delete;
  PaddedResult& operator=(const PaddedResult&) = delete;
  float* get() { return rows_.empty() ? to_ : rows_.data(); }

 private:
  float* to_;
  int64_t num_rows_;
  int dim_;
  std::vector<float> rows_;
};

/// Rows of q, and of k or v.
struct RowCounts {
  int64_t queries;
  int64_t keys;
};

RowCounts CountRows(const AttentionInput<float>& input) {
  int64_t num_keys = 0;
  for (int64_t s = 0; s < input.sequences.num_sequences; ++s) {
    num_keys += input.NumKeys(input.sequences.Length(s));
  }
  return {input.sequences.num_tokens() * input.heads.num_q_heads,
          num_keys * input.heads.num_kv_heads};
}

/// An input whose head dimensions are padded. Zeros behind a head change no product.
struct PaddedInput {
  PaddedInput(const AttentionInput<float>& input, const RowCounts& rows)
      : q(input.q, rows.queries, input.heads.head_dim_k),
        k(input.k, rows.keys, input.heads.head_dim_k),
        v(input.v, rows.keys, input.heads.head_dim_v),
        padded(input) {
    padded.q = q.get();
    padded.k = k.get();
    padded.v = v.get();
    padded.heads.head_dim_k = Padded(input.heads.head_dim_k);
    padded.heads.head_dim_v = Padded(input.heads.head_dim_v);
  }
  PaddedRows q, k, v;
  AttentionInput<float> padded;
};

}  // namespace

void AttentionForward(kernels::cpu::Context& context, const AttentionInput<float>& input,
                      const AttentionOutput<float>& output) {
  const RowCounts rows = CountRows(input);
  const PaddedInput padded(input, rows);
  PaddedResult out(output.out, rows.queries, input.heads.head_dim_v);
  ForwardTiles(context, padded.padded, {out.get(), output.lse, output.selected});
}

void AttentionBackward(kernels::cpu::Context& context, const AttentionInput<float>& input,
                       const AttentionGradients<float>& gradients) {
  const RowCounts rows = CountRows(input);
  const HeadShape& heads = input.heads;
  const PaddedInput padded(input, rows);
  const PaddedRows out(gradients.out, rows.queries, heads.head_dim_v);
  const PaddedRows grad_out(gradients.grad_out, rows.queries, heads.head_dim_v);
  PaddedResult grad_q(gradients.grad_q, rows.queries, heads.head_dim_k);
  PaddedResult grad_k(gradients.grad_k, rows.keys, heads.head_dim_k);
  PaddedResult grad_v(gradients.grad_v, rows.keys, heads.head_dim_v);
  BackwardTiles(
      context, padded.padded,
      {out.get(), gradients.lse, grad_out.get(), grad_q.get(), grad_k.get(), grad_v.get()});
}

}  // namespace nsa::kernels::grad::cpu
