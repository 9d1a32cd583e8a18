#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/grad/cpu/attention_call.h"
#include "kernels/grad/cpu/select_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/grad/cpu/forward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/grad/cpu/micro-inl.h"

// What all targets share.
#ifndef NSA_KERNELS_GRAD_CPU_FORWARD_ONCE_
#define NSA_KERNELS_GRAD_CPU_FORWARD_ONCE_

namespace nsa::kernels::grad::cpu {

/// Rows (queries × heads of a group) of a tile: enough that key blocks, which each tile reads anew,
/// cost less than the products; few enough that the sums stay in the L2 cache.
inline constexpr int kForwardRows = 2048;

/// The same where blocks are chosen: the weights of all windows wait in the cache for the
/// log-sum-exps.
inline constexpr int kChoosingRows = 24;

struct ForwardCall {
  const AttentionCall& call;
  const AttentionOutput<float>& output;
  PackedBlocks keys;    // [head_dim_k, width]
  PackedBlocks values;  // [width, head_dim_v]
};

}  // namespace nsa::kernels::grad::cpu

#endif  // NSA_KERNELS_GRAD_CPU_FORWARD_ONCE_

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::grad::cpu {
namespace HWY_NAMESPACE {

/// One tile and KV head: key blocks in rising order, each for the queries that see it.
class ForwardTile {
 public:
  ForwardTile(const ForwardCall& forward, const QueryTile& tile, int kv_head,
              kernels::cpu::Scratch& scratch)
      : forward_(forward),
        call_(forward.call),
        input_(call_.input()),
        tile_(tile),
        kv_head_(kv_head),
        group_(call_.heads().Group()),
        dim_v_(call_.heads().head_dim_v),
        scale_(static_cast<float>(input_.spec.scale)),
        num_rows_(tile.num_queries * group_),
        blocks_(call_.TileBlocks(tile)) {
    const bool chooses = forward.output.selected != nullptr;
    const int64_t width = blocks_.end * call_.block_width();
    weights_stride_ = chooses ? width : kMaxBlockKeys;
    const int64_t weight_rows = chooses ? num_rows_ : kTileQueries;
    const StrideCounts counts(input_.spec);
    const int64_t num_masses = chooses ? width + 2 * counts.windows + 2 * counts.per_block + 64 : 0;
    const int64_t num_maxima = chooses ? blocks_.end * num_rows_ : 0;
    float* next =
        scratch.Get<float>(num_rows_ * int64_t{dim_v_} + weight_rows * weights_stride_ +
                           num_rows_ * int64_t{kSumLanes + 1} + num_maxima + 2 * num_masses +
                           input_.spec.num_selected_blocks + 2 * kMaxGroup);
    const auto take = [&next](int64_t count) { return std::exchange(next, next + count); };
    acc_ = take(int64_t{num_rows_} * dim_v_);
    weights_ = take(weight_rows * weights_stride_);
    sums_ = take(num_rows_ * int64_t{kSumLanes});
    row_maxima_ = take(num_rows_);
    factors_ = take(2 * kMaxGroup);
    maxima_ = take(num_maxima);
    probabilities_ = take(num_masses);
    masses_ = take(num_masses);
    scores_ = take(input_.spec.num_selected_blocks);
  }

  void Run(TileLists& lists) {
    std::fill_n(acc_, int64_t{num_rows_} * dim_v_, 0.0f);
    std::fill_n(sums_, num_rows_ * int64_t{kSumLanes}, 0.0f);
    std::fill_n(row_maxima_, num_rows_, kNegativeInfinity);
    if (call_.HasLists()) call_.MakeLists(tile_, kv_head_, lists);
    for (int64_t block = blocks_.begin; block < blocks_.end; ++block) {
      const SeeingQueries seeing = call_.Seeing(tile_, block, lists);
      ForEachQueryBlock(seeing.count * group_,
                        [&](auto count, int first) { Attend<count.value>(block, seeing, first); });
    }
    for (int row = 0; row < num_rows_; ++row) Finish(row);
    if (forward_.output.selected == nullptr) return;
    for (int offset = 0; offset < tile_.num_queries; ++offset) Choose(offset);
  }

 private:
  int64_t OutputRow(int row) const {
    return call_.Row(tile_, row / group_, kv_head_ * group_ + row % group_);
  }

  /// kRows rows of those that see the block, from the `first_row`th.
  template <int kRows>
  HWY_NOINLINE void Attend(int64_t block, const SeeingQueries& seeing, int first_row) {
    const float* q[kRows];
    float *weights[kRows], *acc[kRows];
    int rows[kRows];
    KeyRange ranges[kRows];
    int begin = kMaxBlockKeys, end = 0;
    const int32_t* offset = seeing.offsets + first_row / group_;
    for (int i = 0, head = first_row % group_; i < kRows; ++i) {
      const bool same_query = i > 0 && head > 0;
      ranges[i] = same_query ? ranges[i - 1] : call_.KeysInBlock(tile_.first + *offset, block);
      begin = std::min(begin, static_cast<int>(ranges[i].begin));
      end = std::max(end, static_cast<int>(ranges[i].end));
      rows[i] = *offset * group_ + head;
      const int64_t row = call_.Row(tile_, *offset, kv_head_ * group_ + head);
      q[i] = input_.q + row * input_.heads.head_dim_k;
      acc[i] = acc_ + int64_t{rows[i]} * dim_v_;
      weights[i] = forward_.output.selected == nullptr
                       ? weights_ + i * weights_stride_
                       : weights_ + rows[i] * weights_stride_ + block * call_.block_width();
      if (++head == group_) {
        head = 0;
        ++offset;
      }
    }
    const int first = begin / Lanes() * Lanes();
    const int last = (end + Lanes() - 1) / Lanes() * Lanes();
    const int64_t packed = call_.BlockBegin(tile_.sequence) + block;
    Multiply<kRows, false>(q, 0, input_.heads.head_dim_k, forward_.keys.Block(kv_head_, packed),
                           call_.block_width(), weights, first, last);
    for (int i = 0; i < kRows; ++i) {
      float* sums = sums_ + rows[i] * kSumLanes;
      float& maximum = row_maxima_[rows[i]];
      UpdateMaximum(static_cast<int>(ranges[i].begin), static_cast<int>(ranges[i].end), first, last,
                    scale_, weights[i], maximum, sums, acc[i], dim_v_);
      ToWeights(first, last, scale_, maximum, weights[i], sums);
      if (forward_.output.selected != nullptr) maxima_[block * num_rows_ + rows[i]] = maximum;
    }
    Multiply<kRows, true>(weights, begin, end, forward_.values.Block(kv_head_, packed), dim_v_, acc,
                          0, dim_v_);
  }

  void Finish(int row) {
    float sum = 0;
    for (int i = 0; i < kSumLanes; ++i) sum += sums_[row * kSumLanes + i];
    const bool empty = sum == 0;  // and not where it is NaN
    const float lse = empty ? kNegativeInfinity : scale_ * row_maxima_[row] + std::log(sum);
    const int64_t index = OutputRow(row);
    forward_.output.lse[index] = lse;
    const float inverse = empty ? 0.0f : 1.0f / sum;
    const F32Tag d;
    float* out = forward_.output.out + index * dim_v_;
    for (int dim = 0; dim < dim_v_; dim += Lanes()) {
      const auto acc = hn::LoadU(d, acc_ + int64_t{row} * dim_v_ + dim);
      hn::StoreU(hn::Mul(acc, hn::Set(d, inverse)), d, out + dim);
    }
  }

  /// Factors that turn the weights of the query's heads for a block, relative to the maximum of
  /// then, into probabilities.
  HWY_INLINE void BlockFactors(int first_row, int64_t block) {
    const F32Tag d;
    for (int h = 0; h < group_; ++h) {
      const float maximum = maxima_[block * num_rows_ + first_row + h];
      factors_[h] = scale_ * maximum - forward_.output.lse[OutputRow(first_row + h)];
    }
    for (int h = 0; h < group_; h += Lanes()) {
      hn::StoreU(base::ExpOfSoftmax(d, hn::LoadU(d, factors_ + h)), d, factors_ + h);
    }
  }

  /// The choice of blocks of the tile's query at `offset` (Eq. 8 to 12).
  void Choose(int offset) {
    const int64_t position = tile_.first + offset;
    const StrideCounts counts(input_.spec);
    const int64_t num_candidates = position / input_.spec.sel_block_size + 1;
    const int64_t token = input_.sequences.Begin(tile_.sequence) + position;
    int32_t* selected = forward_.output.selected + (token * input_.heads.num_kv_heads + kv_head_) *
                                                       input_.spec.num_selected_blocks;
    if (num_candidates > input_.spec.num_selected_blocks) {
      SumProbabilities(offset, counts.windows - 1);
      MakeMasses(num_candidates * counts.per_block, counts.windows);
    }
    ChooseBlocks(input_.spec, num_candidates, masses_, scores_, selected);
  }

  /// probabilities_[shift + window], summed over the group in the order of heads; 0 before and, as
  /// far as it is read, behind.
  void SumProbabilities(int offset, int shift) {
    const F32Tag d;
    const int lanes = Lanes(), width = call_.block_width();
    const int64_t visible = call_.KeysInSequence(tile_.first + offset).end;
    std::fill_n(probabilities_, shift, 0.0f);
    const int first_row = offset * group_;
    const float* row_weights = weights_ + first_row * weights_stride_;
    for (int64_t begin = 0; begin < visible; begin += width) {
      BlockFactors(first_row, begin / width);
      for (int64_t i = begin; i < std::min(begin + width, visible); i += lanes) {
        auto sum = hn::Zero(d);
        for (int h = 0; h < group_; ++h) {
          sum = hn::MulAdd(hn::LoadU(d, row_weights + h * weights_stride_ + i),
                           hn::Set(d, factors_[h]), sum);
        }
        hn::StoreU(sum, d, probabilities_ + shift + i);
      }
    }
    const StrideCounts counts(input_.spec);
    const int64_t used = shift + (visible + lanes - 1) / lanes * lanes;
    const int64_t read =
        ((tile_.first + offset) / input_.spec.sel_block_size + 1) * counts.per_block + shift +
        2 * lanes;
    if (read > used) std::fill_n(probabilities_ + used, read - used, 0.0f);
  }

  /// masses_[stride] = Σ of the windows that cover it.
  void MakeMasses(int64_t num_strides, int num_windows) {
    const F32Tag d;
    for (int64_t s = 0; s < num_strides; s += Lanes()) {
      auto sum = hn::LoadU(d, probabilities_ + s);
      for (int e = 1; e < num_windows; ++e) {
        sum = hn::Add(sum, hn::LoadU(d, probabilities_ + s + e));
      }
      hn::StoreU(sum, d, masses_ + s);
    }
  }

  const ForwardCall& forward_;
  const AttentionCall& call_;
  const AttentionInput<float>& input_;
  const QueryTile& tile_;
  int kv_head_, group_, dim_v_;
  float scale_;
  int num_rows_;
  KeyRange blocks_;
  float* acc_;         // [num_rows, dim_v]
  float* weights_;     // rows weights_stride_ apart
  float* sums_;        // [num_rows, kSumLanes]
  float* row_maxima_;  // [num_rows]
  float* factors_;     // [group, and a vector]
  // Where blocks are chosen:
  float* maxima_;         // [blocks, num_rows]: the rows' maxima when they had read the block
  float* probabilities_;  // of windows
  float* masses_;         // of strides
  float* scores_;         // [num_selected_blocks]
  int64_t weights_stride_;
};

void RunForwardTile(const ForwardCall& forward, const QueryTile& tile, int kv_head,
                    kernels::cpu::Scratch& scratch, TileLists& lists) {
  ForwardTile(forward, tile, kv_head, scratch).Run(lists);
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::grad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::grad::cpu {

HWY_EXPORT(RunForwardTile);

void ForwardTiles(kernels::cpu::Context& context, const AttentionInput<float>& input,
                  const AttentionOutput<float>& output) {
  const int group = input.heads.Group();
  const int rows = output.selected != nullptr ? kChoosingRows : kForwardRows;
  const AttentionCall call(input, (rows + group - 1) / group);
  const ForwardCall forward = {
      call, output,
      PackBlocks(context, call, input.k, input.heads.head_dim_k, true, context.shared[0]),
      PackBlocks(context, call, input.v, input.heads.head_dim_v, false, context.shared[1])};
  const auto num_tiles = static_cast<int64_t>(call.tiles().size());
  std::vector<TileLists> lists(static_cast<size_t>(context.pool.num_threads()));
  // Head by head, so that threads share its keys; the long tiles first, so that none comes last.
  context.pool.ParallelFor(num_tiles * input.heads.num_kv_heads, [&](int64_t task, int worker) {
    const QueryTile& tile = call.tiles()[num_tiles - 1 - task % num_tiles];
    HWY_DYNAMIC_DISPATCH(RunForwardTile)(forward, tile, static_cast<int>(task / num_tiles),
                                         context.worker[worker], lists[worker]);
  });
}

}  // namespace nsa::kernels::grad::cpu
#endif  // HWY_ONCE
