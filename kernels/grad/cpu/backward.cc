#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/grad/cpu/attention_call.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/grad/cpu/backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/grad/cpu/micro-inl.h"

// What all targets share.
#ifndef NSA_KERNELS_GRAD_CPU_BACKWARD_ONCE_
#define NSA_KERNELS_GRAD_CPU_BACKWARD_ONCE_

namespace nsa::kernels::grad::cpu {

/// Queries of a tile, and tokens whose key blocks make a key tile.
inline constexpr int kBackwardTile = 1024;

/// Rows (queries × heads of a group) that go through one key block together: their probabilities
/// and gradients stay in the L1 cache.
inline constexpr int kChunkRows = 48;
inline constexpr int kMaxChunkRows = std::max(kChunkRows, kMaxGroup);

struct BackwardCall {
  const AttentionCall& call;
  const AttentionGradients<float>& gradients;
  const std::vector<TileLists>& lists;  // [num_kv_heads, num tiles], of kSelected
  const float* deltas;                  // [num_tokens, num_q_heads]: Σ grad_out·out
  PackedBlocks keys_by_dim;             // [head_dim_k, width]
  PackedBlocks keys;                    // [width, head_dim_k]
  PackedBlocks values_by_dim;           // [head_dim_v, width]
  PackedBlocks grad_keys;               // as keys
  PackedBlocks grad_values;             // [width, head_dim_v]
};

/// A query tile and key blocks of one KV head.
struct BackwardTask {
  int64_t tile;
  int kv_head;
  KeyRange blocks;
};

}  // namespace nsa::kernels::grad::cpu

#endif  // NSA_KERNELS_GRAD_CPU_BACKWARD_ONCE_

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::grad::cpu {
namespace HWY_NAMESPACE {

class BackwardTile {
 public:
  BackwardTile(const BackwardCall& backward, const BackwardTask& task)
      : backward_(backward),
        call_(backward.call),
        input_(call_.input()),
        heads_(call_.heads()),
        tile_(call_.tiles()[task.tile]),
        kv_head_(task.kv_head),
        group_(heads_.Group()),
        scale_(static_cast<float>(input_.spec.scale)) {}

  void Run(const BackwardTask& task) {
    static const TileLists kNone;
    const int64_t num_tiles = static_cast<int64_t>(call_.tiles().size());
    const TileLists& lists =
        call_.HasLists() ? backward_.lists[kv_head_ * num_tiles + task.tile] : kNone;
    const int chunk = std::max(1, kChunkRows / group_);
    for (int64_t block = task.blocks.begin; block < task.blocks.end; ++block) {
      const SeeingQueries seeing = call_.Seeing(tile_, block, lists);
      for (int i = 0; i < seeing.count; i += chunk) {
        Load(block, seeing.offsets + i, std::min(chunk, seeing.count - i));
        Propagate(block);
      }
    }
  }

 private:
  /// What the chunk's rows read, and which keys of the block they see.
  void Load(int64_t block, const int32_t* offsets, int num_queries) {
    num_rows_ = num_queries * group_;
    begin_ = kMaxBlockKeys;
    end_ = 0;
    for (int i = 0; i < num_queries; ++i) {
      const KeyRange range = call_.KeysInBlock(tile_.first + offsets[i], block);
      begin_ = std::min(begin_, static_cast<int>(range.begin));
      end_ = std::max(end_, static_cast<int>(range.end));
      const int64_t first_row = call_.Row(tile_, offsets[i], kv_head_ * group_);
      for (int h = 0; h < group_; ++h) {
        const int row = i * group_ + h;
        const int64_t index = first_row + h;
        ranges_[row] = range;
        q_[row] = input_.q + index * heads_.head_dim_k;
        grad_q_[row] = backward_.gradients.grad_q + index * heads_.head_dim_k;
        grad_out_[row] = backward_.gradients.grad_out + index * heads_.head_dim_v;
        lses_[row] = backward_.gradients.lse[index];
        deltas_[row] = backward_.deltas[index];
        p_[row] = probabilities_ + row * kMaxBlockKeys;
        ds_[row] = grad_scores_ + row * kMaxBlockKeys;
      }
    }
  }

  void Propagate(int64_t block) {
    const int64_t packed = call_.BlockBegin(tile_.sequence) + block;
    const float* keys = backward_.keys.Block(kv_head_, packed);
    ForEachQueryBlock(num_rows_, [&](auto count, int first) {
      MakeGradScores<count.value>(packed, first);
      Multiply<count.value, true>(ds_ + first, begin_, end_, keys, heads_.head_dim_k,
                                  grad_q_ + first, 0, heads_.head_dim_k);
    });
    float* grad_keys = backward_.grad_keys.Block(kv_head_, packed);
    float* grad_values = backward_.grad_values.Block(kv_head_, packed);
    ForEachQueryBlock(end_ - begin_, [&](auto count, int first) {
      const int key = begin_ + first;
      AddTransposed<count.value>(probabilities_ + key, kMaxBlockKeys, grad_out_, num_rows_,
                                 grad_values + int64_t{key} * heads_.head_dim_v, heads_.head_dim_v,
                                 heads_.head_dim_v);
      AddTransposed<count.value>(grad_scores_ + key, kMaxBlockKeys, q_, num_rows_,
                                 grad_keys + int64_t{key} * heads_.head_dim_k, heads_.head_dim_k,
                                 heads_.head_dim_k);
    });
  }

  /// Probabilities and gradients of scores of kRows rows.
  template <int kRows>
  HWY_INLINE void MakeGradScores(int64_t packed, int first_row) {
    const int width = call_.block_width();
    const int first = begin_ / Lanes() * Lanes();
    const int last = (end_ + Lanes() - 1) / Lanes() * Lanes();
    Multiply<kRows, false>(q_ + first_row, 0, heads_.head_dim_k,
                           backward_.keys_by_dim.Block(kv_head_, packed), width, p_ + first_row,
                           first, last);
    Multiply<kRows, false>(grad_out_ + first_row, 0, heads_.head_dim_v,
                           backward_.values_by_dim.Block(kv_head_, packed), width, ds_ + first_row,
                           first, last);
    for (int row = first_row; row < first_row + kRows; ++row) {
      ToGradients(static_cast<int>(ranges_[row].begin), static_cast<int>(ranges_[row].end), first,
                  last, scale_, lses_[row], deltas_[row], p_[row], ds_[row]);
    }
  }

  const BackwardCall& backward_;
  const AttentionCall& call_;
  const AttentionInput<float>& input_;
  const HeadShape& heads_;
  const QueryTile& tile_;
  int kv_head_, group_;
  float scale_;
  // The chunk: queries by heads.
  int num_rows_ = 0;
  int begin_ = 0, end_ = 0;  // keys that a row sees
  KeyRange ranges_[kMaxChunkRows];
  const float* q_[kMaxChunkRows];
  const float* grad_out_[kMaxChunkRows];
  float* grad_q_[kMaxChunkRows];
  float* p_[kMaxChunkRows];
  float* ds_[kMaxChunkRows];
  float lses_[kMaxChunkRows];
  float deltas_[kMaxChunkRows];
  alignas(64) float probabilities_[kMaxChunkRows * kMaxBlockKeys];
  alignas(64) float grad_scores_[kMaxChunkRows * kMaxBlockKeys];
};

void RunBackwardTask(const BackwardCall& backward, const BackwardTask& task) {
  BackwardTile(backward, task).Run(task);
}

/// Σ out·grad_out of one row.
float RowDelta(const float* HWY_RESTRICT out, const float* HWY_RESTRICT grad_out, int dim) {
  const F32Tag d;
  auto sum = hn::Zero(d);
  for (int i = 0; i < dim; i += Lanes()) {
    sum = hn::MulAdd(hn::LoadU(d, out + i), hn::LoadU(d, grad_out + i), sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::grad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::grad::cpu {

HWY_EXPORT(RunBackwardTask);
HWY_EXPORT(RowDelta);

namespace {

using kernels::cpu::Context;

// Elements that one task clears.
constexpr int64_t kClearFloats = 1 << 16;

void Clear(Context& context, float* to, int64_t count) {
  context.pool.ParallelFor((count + kClearFloats - 1) / kClearFloats, [&](int64_t task, int) {
    const int64_t begin = task * kClearFloats;
    std::fill(to + begin, to + std::min(count, begin + kClearFloats), 0.0f);
  });
}

PackedBlocks ClearBlocks(Context& context, const AttentionCall& call, int dim,
                         kernels::cpu::Scratch& scratch) {
  PackedBlocks blocks;
  blocks.num_blocks = call.num_blocks();
  blocks.size = int64_t{call.block_width()} * dim;
  const int64_t count = blocks.num_blocks * blocks.size * call.heads().num_kv_heads;
  blocks.data = scratch.Get<float>(count);
  Clear(context, blocks.data, count);
  return blocks;
}

std::vector<float> Deltas(Context& context, const AttentionCall& call,
                          const AttentionGradients<float>& gradients) {
  const int num_heads = call.heads().num_q_heads, dim = call.heads().head_dim_v;
  const int64_t num_tokens = call.input().sequences.num_tokens();
  std::vector<float> deltas(static_cast<size_t>(num_tokens * num_heads));
  context.pool.ParallelFor(num_tokens, [&](int64_t token, int) {
    for (int64_t row = token * num_heads; row < (token + 1) * num_heads; ++row) {
      deltas[row] = HWY_DYNAMIC_DISPATCH(RowDelta)(gradients.out + row * dim,
                                                   gradients.grad_out + row * dim, dim);
    }
  });
  return deltas;
}

std::vector<TileLists> MakeAllLists(Context& context, const AttentionCall& call) {
  std::vector<TileLists> lists;
  if (!call.HasLists()) return lists;
  const auto num_tiles = static_cast<int64_t>(call.tiles().size());
  lists.resize(static_cast<size_t>(num_tiles * call.heads().num_kv_heads));
  context.pool.ParallelFor(static_cast<int64_t>(lists.size()), [&](int64_t task, int) {
    call.MakeLists(call.tiles()[task % num_tiles], static_cast<int>(task / num_tiles), lists[task]);
  });
  return lists;
}

/// The first key block, of those of key tiles, that is in key tile `index` or behind it. A key tile
/// has the blocks that queries of the query tile with its index are the first to see.
int64_t KeyTileBegin(const AttentionCall& call, int64_t index) {
  const int64_t step = call.FirstPosition(1) - call.FirstPosition(0);
  const int64_t distance = index * kBackwardTile - call.FirstPosition(0);
  return distance <= 0 ? 0 : (distance + step - 1) / step;
}

/// Pairs of a query tile and the key tile `round` before it: no two write the same rows.
std::vector<BackwardTask> TasksOfRound(const AttentionCall& call, int64_t round) {
  std::vector<BackwardTask> tasks;
  for (int kv_head = 0; kv_head < call.heads().num_kv_heads; ++kv_head) {
    for (size_t i = 0; i < call.tiles().size(); ++i) {
      const QueryTile& tile = call.tiles()[i];
      const int64_t key_tile = tile.index_in_sequence - round;
      if (key_tile < 0) continue;
      const KeyRange visible = call.TileBlocks(tile);
      const KeyRange blocks = {std::max(visible.begin, KeyTileBegin(call, key_tile)),
                               std::min(visible.end, KeyTileBegin(call, key_tile + 1))};
      if (blocks.begin < blocks.end) {
        tasks.push_back({static_cast<int64_t>(i), kv_head, blocks});
      }
    }
  }
  return tasks;
}

}  // namespace

// Every round adds to each query's gradient from one key tile, and to each key's from one query
// tile; so the order of every sum is fixed, with no atomic operations and no copies to add up.
void BackwardTiles(Context& context, const AttentionInput<float>& input,
                   const AttentionGradients<float>& gradients) {
  const AttentionCall call(input, kBackwardTile);
  const HeadShape& heads = input.heads;
  const std::vector<float> deltas = Deltas(context, call, gradients);
  const std::vector<TileLists> lists = MakeAllLists(context, call);
  std::vector<kernels::cpu::Scratch>& shared = context.shared;
  kernels::cpu::Scratch of_grad_values;
  const BackwardCall backward = {
      call,
      gradients,
      lists,
      deltas.data(),
      PackBlocks(context, call, input.k, heads.head_dim_k, true, shared[0]),
      PackBlocks(context, call, input.k, heads.head_dim_k, false, shared[1]),
      PackBlocks(context, call, input.v, heads.head_dim_v, true, shared[2]),
      ClearBlocks(context, call, heads.head_dim_k, shared[3]),
      ClearBlocks(context, call, heads.head_dim_v, of_grad_values)};
  Clear(context, gradients.grad_q,
        input.sequences.num_tokens() * heads.num_q_heads * heads.head_dim_k);
  int64_t num_rounds = 0;
  for (const QueryTile& tile : call.tiles()) {
    num_rounds = std::max(num_rounds, tile.index_in_sequence + 1);
  }
  for (int64_t round = 0; round < num_rounds; ++round) {
    const std::vector<BackwardTask> tasks = TasksOfRound(call, round);
    context.pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t task, int) {
      HWY_DYNAMIC_DISPATCH(RunBackwardTask)(backward, tasks[task]);
    });
  }
  UnpackBlocks(context, call, backward.grad_keys, heads.head_dim_k, gradients.grad_k);
  UnpackBlocks(context, call, backward.grad_values, heads.head_dim_v, gradients.grad_v);
}

}  // namespace nsa::kernels::grad::cpu
#endif  // HWY_ONCE
