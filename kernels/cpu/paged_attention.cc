#include "kernels/cpu/paged_attention.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/paged_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

// What all targets share.
#ifndef NSA_KERNELS_CPU_PAGED_ATTENTION_ONCE_
#define NSA_KERNELS_CPU_PAGED_ATTENTION_ONCE_

namespace nsa::kernels::cpu {

/// Queries (rows × heads of a group) that share the scores of one page: their scores, queries and
/// sums stay in the L1 cache beside the page.
inline constexpr int kMaxChunkQueries = 24;

inline constexpr int32_t kMaxTileRows = 16;

/// One call, split into tasks.
struct AttentionCall {
  const AttentionQuery& query;
  const PieceFunction& pieces_of;
  BranchOutput result;
  int group;  // query heads per KV head
  List<RowTile> tiles;
  /// Where tasks take one split each: `parts` holds [tiles][splits][tile rows][num_q_heads] parts
  /// of {acc [head_dim_v], maximum, sum}; first_part [num_tiles + 1] counts a tile's parts.
  float* parts = nullptr;
  List<int64_t> first_part;

  int64_t PartFloats() const { return query.kv.head_dim_v + 2; }
  float* Part(size_t tile, int64_t split, int32_t row, int head) const {
    const int64_t index = split * tiles[tile].num_rows + row;
    return parts + (first_part[tile] + index * query.num_q_heads + head) * PartFloats();
  }
};

/// A task: one tile's rows and one KV head; all splits to the end result, or splits [first, end) to
/// their parts.
struct AttentionTask {
  size_t tile;
  int kv_head;
  int64_t first_split = 0;
  int64_t end_split = -1;

  bool MakesParts() const { return end_split >= 0; }
};

/// Where a row of a tile is in its list of pieces.
struct PieceCursor {
  RowPieces pieces;
  int64_t next;  // index of `piece`
  int64_t end;
  PagePiece piece;
  PagePiece following;  // the one after `piece`, where there is one
};

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_PAGED_ATTENTION_ONCE_

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

/// Runs one task in a worker's scratch memory. T: element type of the cache.
///
/// The rows walk their lists together in the order of pages, so that a page is read once for all
/// rows of the tile that want it. What is computed for a row, and in which order, is its own.
template <typename T>
class TileAttention {
 public:
  TileAttention(const AttentionCall& call, const AttentionTask& task, Scratch& scratch)
      : call_(call),
        kv_(call.query.kv),
        task_(task),
        tile_(call.tiles[task.tile]),
        group_(call.group) {
    const int64_t num_queries = int64_t{tile_.num_rows} * group_;
    const int64_t chunk = std::max(kMaxChunkQueries, group_);
    const int64_t dim_k = kv_.head_dim_k;
    const int64_t dim_v = kv_.head_dim_v;
    float* next = scratch.Get<float>((num_queries + chunk) * dim_k + chunk * kPageSize +
                                     2 * num_queries * (dim_v + 2) + 64);
    const auto take = [&next](int64_t count) {
      float* taken = next;
      next += count;
      return taken;
    };
    scores_ = take(chunk * kPageSize);
    rotated_ = take(chunk * dim_k);
    queries_ = take(num_queries * dim_k);
    acc_ = take(num_queries * dim_v);
    total_acc_ = take(num_queries * dim_v);
    states_ = reinterpret_cast<Softmax*>(take(num_queries * 2));
    totals_ = reinterpret_cast<Softmax*>(take(num_queries * 2));
  }

  void Run() {
    for (int32_t row = 0; row < tile_.num_rows; ++row) {
      LoadQueries(row);
      StartRow(row);
    }
    for (int64_t page = NextPage(); page >= 0; page = NextPage()) WalkPage(page);
    for (int32_t row = 0; row < tile_.num_rows && !task_.MakesParts(); ++row) {
      const QueryRow query_row = tile_.Row(row);
      for (int h = 0; h < group_; ++h) {
        const int q = row * group_ + h;
        const int64_t index = query_row.row * call_.query.num_q_heads + task_.kv_head * group_ + h;
        const BranchOutput& result = call_.result;
        FinishSoftmax(totals_[q], total_acc_ + int64_t{q} * kv_.head_dim_v, kv_.head_dim_v,
                      result.out == nullptr ? nullptr : result.out + index * kv_.head_dim_v,
                      result.lse == nullptr ? nullptr : result.lse + index);
      }
    }
  }

 private:
  static constexpr bool kHasScales = std::is_same_v<T, int8_t>;

  /// The row's queries, scaled and rotated by the row's offset in its page.
  void LoadQueries(int32_t row) {
    const AttentionQuery& query = call_.query;
    const RopeView& rope = query.rope;
    const int half = rope.rotary_dim / 2;
    const QueryRow query_row = tile_.Row(row);
    const int64_t offset = query_row.position % kPageSize * half;
    for (int h = 0; h < group_; ++h) {
      const int64_t head = int64_t{task_.kv_head} * group_ + h;
      float* out = queries_ + (int64_t{row} * group_ + h) * kv_.head_dim_k;
      RotateRow(rope.fine_cos + offset, rope.fine_sin + offset, half, kv_.head_dim_k,
                query.q + query_row.row * query.q_stride + head * kv_.head_dim_k, out);
      for (int dim = 0; dim < kv_.head_dim_k; ++dim) out[dim] *= query.scale;
    }
  }

  void StartRow(int32_t row) {
    PieceCursor& cursor = cursors_[row];
    cursor.pieces = call_.pieces_of(tile_.Row(row), task_.kv_head);
    cursor.next = task_.first_split * kPiecesPerSplit;
    cursor.end = cursor.pieces.num_pieces;
    if (task_.MakesParts()) cursor.end = std::min(cursor.end, task_.end_split * kPiecesPerSplit);
    if (cursor.next < cursor.end) cursor.piece = cursor.pieces.Get(cursor.next);
    if (cursor.next + 1 < cursor.end) cursor.following = cursor.pieces.Get(cursor.next + 1);
    for (int q = row * group_; q < (row + 1) * group_; ++q) {
      totals_[q] = {kNegativeInfinity, 0};
      std::fill_n(total_acc_ + int64_t{q} * kv_.head_dim_v, kv_.head_dim_v, 0.0f);
    }
    StartSplit(row);
    // Empty parts, should this row have fewer splits than others of its tile.
    const int64_t num_splits = (cursor.end + kPiecesPerSplit - 1) / kPiecesPerSplit;
    for (int64_t split = std::max(task_.first_split, num_splits); split < task_.end_split;
         ++split) {
      FinishSplit(row, split);
    }
  }

  void StartSplit(int32_t row) {
    for (int q = row * group_; q < (row + 1) * group_; ++q) {
      states_[q] = {kNegativeInfinity, 0};
      std::fill_n(acc_ + int64_t{q} * kv_.head_dim_v, kv_.head_dim_v, 0.0f);
    }
  }

  void FinishSplit(int32_t row, int64_t split) {
    const int dim_v = kv_.head_dim_v;
    for (int h = 0; h < group_; ++h) {
      const int q = row * group_ + h;
      const float* acc = acc_ + int64_t{q} * dim_v;
      if (!task_.MakesParts()) {
        JoinSoftmax(states_[q], acc, dim_v, totals_[q], total_acc_ + int64_t{q} * dim_v);
        continue;
      }
      float* part = call_.Part(task_.tile, split, row, task_.kv_head * group_ + h);
      std::memcpy(part, acc, sizeof(float) * dim_v);
      part[dim_v] = states_[q].maximum;
      part[dim_v + 1] = states_[q].sum;
    }
  }

  /// The lowest page that a row still has to read; −1 when all are done.
  int64_t NextPage() const {
    int64_t page = -1;
    for (int32_t row = 0; row < tile_.num_rows; ++row) {
      const PieceCursor& cursor = cursors_[row];
      if (cursor.next < cursor.end && (page < 0 || cursor.piece.page_index < page)) {
        page = cursor.piece.page_index;
      }
    }
    return page;
  }

  /// The page to be read after `page`, as far as is known; −1 for none. For prefetching alone.
  int64_t PageAfter(int64_t page) const {
    int64_t after = -1;
    for (int32_t row = 0; row < tile_.num_rows; ++row) {
      const PieceCursor& cursor = cursors_[row];
      const bool here = IsAt(row, page);
      if (cursor.next + (here ? 1 : 0) >= cursor.end) continue;
      // An empty piece may lie behind the page table.
      const PagePiece& piece = here ? cursor.following : cursor.piece;
      if (piece.begin >= piece.end) continue;
      if (after < 0 || piece.page_index < after) after = piece.page_index;
    }
    return after;
  }

  bool IsAt(int32_t row, int64_t page) const {
    const PieceCursor& cursor = cursors_[row];
    return cursor.next < cursor.end && cursor.piece.page_index == page;
  }

  /// Reads one page for the rows whose next piece lies in it. Rows that read the same tokens of it
  /// go together; others must not, as a token that is hidden from one of them may hold anything.
  void WalkPage(int64_t page) {
    const int max_rows = std::max(kMaxChunkQueries, group_) / group_;
    int32_t chunk[kMaxChunkQueries];
    int num_rows = 0;
    const int64_t after = PageAfter(page);
    next_ = after < 0 || after == page ? nullptr : Slot(after);
    for (int32_t row = 0; row < tile_.num_rows; ++row) {
      if (!IsAt(row, page)) continue;
      const PagePiece& piece = cursors_[row].piece;
      if (piece.begin >= piece.end) continue;
      if (num_rows > 0) {
        const PagePiece& first = cursors_[chunk[0]].piece;
        if (num_rows == max_rows || piece.begin != first.begin || piece.end != first.end) {
          AttendChunk(chunk, num_rows, first);
          num_rows = 0;
        }
      }
      chunk[num_rows++] = row;
    }
    if (num_rows > 0) AttendChunk(chunk, num_rows, cursors_[chunk[0]].piece);
    for (int32_t row = 0; row < tile_.num_rows; ++row) {
      if (IsAt(row, page)) Advance(row);
    }
  }

  void Advance(int32_t row) {
    PieceCursor& cursor = cursors_[row];
    ++cursor.next;
    if (cursor.next == cursor.end || cursor.next % kPiecesPerSplit == 0) {
      FinishSplit(row, (cursor.next - 1) / kPiecesPerSplit);
      StartSplit(row);
    }
    if (cursor.next < cursor.end) cursor.piece = cursor.following;
    if (cursor.next + 1 < cursor.end) cursor.following = cursor.pieces.Get(cursor.next + 1);
  }

  void AttendChunk(const int32_t* rows, int num_rows, const PagePiece& piece) {
    const std::byte* slot = Slot(piece.page_index);
    const T* k = reinterpret_cast<const T*>(slot);
    const T* v = reinterpret_cast<const T*>(slot + kv_.v_offset);
    // The first pass over this page fetches the next.
    const T* next_k = reinterpret_cast<const T*>(next_);
    const T* next_v = reinterpret_cast<const T*>(next_ == nullptr ? nullptr : next_ + kv_.v_offset);
    if (kHasScales && next_ != nullptr) PrefetchLines(Scales(next_), 2 * kPageSize);
    next_ = nullptr;
    const int num_queries = num_rows * group_;
    for (int i = 0; i < num_rows; ++i) RotateQueries(rows[i], rotated_ + i * RowFloats());
    ForEachQueryBlock(num_queries, [&](auto count, int first) {
      ScoreRows<count.value>(k, kPageSize, piece.begin, piece.end, kv_.head_dim_k,
                             rotated_ + int64_t{first} * kv_.head_dim_k,
                             scores_ + int64_t{first} * kPageSize, kPageSize, next_k);
      next_k = nullptr;
    });
    if constexpr (kHasScales) {
      ScaleTokens(Scales(slot), piece.begin, piece.end, num_queries, scores_, kPageSize);
    }
    ForEachQueryBlock(num_queries, [&](auto count, int first) {
      float factors[kTileQueries];
      float* acc[kTileQueries];
      Softmax* states[kTileQueries];
      for (int i = 0; i < count.value; ++i) {
        const int q = rows[(first + i) / group_] * group_ + (first + i) % group_;
        states[i] = states_ + q;
        acc[i] = acc_ + int64_t{q} * kv_.head_dim_v;
      }
      SoftmaxStep<count.value>(piece.begin, piece.end, scores_ + int64_t{first} * kPageSize,
                               kPageSize, states, factors);
      if constexpr (kHasScales) {
        ScaleTokens(Scales(slot) + kPageSize, piece.begin, piece.end, count.value,
                    scores_ + int64_t{first} * kPageSize, kPageSize);
      }
      AddValues<count.value>(v, kv_.head_dim_v, piece.begin, piece.end,
                             scores_ + int64_t{first} * kPageSize, kPageSize, factors, acc, next_v);
      next_v = nullptr;
    });
  }

  const std::byte* Slot(int64_t page_index) const {
    return kv_.slots + tile_.segment->page_table[page_index] * kv_.page_stride +
           task_.kv_head * kv_.head_stride;
  }

  /// Scales of the page in `slot`: of its keys, then of its values.
  const float* Scales(const std::byte* slot) const {
    return reinterpret_cast<const float*>(slot + kv_.scale_offset);
  }

  int64_t RowFloats() const { return int64_t{group_} * kv_.head_dim_k; }

  /// Rotates a row's queries by its distance from the page.
  void RotateQueries(int32_t row, float* out) {
    const RopeView& rope = call_.query.rope;
    const float* queries = queries_ + row * RowFloats();
    const int half = rope.rotary_dim / 2;
    const int64_t distance = cursors_[row].piece.page_distance;
    NSA_CHECK(half == 0 || (distance >= 0 && distance < rope.num_coarse));
    for (int h = 0; h < group_; ++h) {
      RotateRow(rope.coarse_cos + distance * half, rope.coarse_sin + distance * half, half,
                kv_.head_dim_k, queries + int64_t{h} * kv_.head_dim_k,
                out + int64_t{h} * kv_.head_dim_k);
    }
  }

  const AttentionCall& call_;
  const PagedKv& kv_;
  const AttentionTask task_;
  const RowTile tile_;
  const int group_;
  PieceCursor cursors_[kMaxTileRows];
  const std::byte* next_ = nullptr;  // the slot of the page after the one at hand, until fetched
  float* scores_;                    // [chunk, 64]; scores, then weights
  float* rotated_;                   // [chunk, head_dim_k]
  float* queries_;                   // [rows · group, head_dim_k]
  float* acc_;                       // [rows · group, head_dim_v] of the split at hand
  float* total_acc_;                 // [rows · group, head_dim_v] of the splits before
  Softmax* states_;                  // [rows · group]
  Softmax* totals_;                  // [rows · group]
};

void RunTask(const AttentionCall& call, const AttentionTask& task, Scratch& scratch) {
  WithCacheType(call.query.kv.dtype,
                [&]<typename T>(T) { TileAttention<T>(call, task, scratch).Run(); });
}

/// Joins the parts of one row of a tile in the order of splits, as TileAttention does in one task.
void JoinParts(const AttentionCall& call, size_t tile, int32_t row, Scratch& scratch) {
  const int num_q_heads = call.query.num_q_heads;
  const int dim_v = call.query.kv.head_dim_v;
  const int64_t num_splits = (call.first_part[tile + 1] - call.first_part[tile]) /
                             (int64_t{call.tiles[tile].num_rows} * num_q_heads);
  float* acc = scratch.Get<float>(dim_v);
  for (int head = 0; head < num_q_heads; ++head) {
    Softmax total = {kNegativeInfinity, 0};
    std::fill_n(acc, dim_v, 0.0f);
    for (int64_t split = 0; split < num_splits; ++split) {
      const float* part = call.Part(tile, split, row, head);
      JoinSoftmax({part[dim_v], part[dim_v + 1]}, part, dim_v, total, acc);
    }
    const int64_t index = call.tiles[tile].Row(row).row * num_q_heads + head;
    FinishSoftmax(total, acc, dim_v,
                  call.result.out == nullptr ? nullptr : call.result.out + index * dim_v,
                  call.result.lse == nullptr ? nullptr : call.result.lse + index);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::cpu {
namespace {

HWY_EXPORT(RunTask);
HWY_EXPORT(JoinParts);

/// Tasks per thread where a call has few rows, so that none waits long for the last.
constexpr int64_t kTasksPerThread = 8;

/// Splits of the tile's longest list.
int64_t NumSplits(const AttentionCall& call, const RowTile& tile) {
  int64_t num_pieces = 0;
  for (int32_t row = 0; row < tile.num_rows; ++row) {
    for (int head = 0; head < call.query.kv.num_kv_heads; ++head) {
      num_pieces = std::max(num_pieces, call.pieces_of(tile.Row(row), head).num_pieces);
    }
  }
  return (num_pieces + kPiecesPerSplit - 1) / kPiecesPerSplit;
}

void RunWholeTiles(Context& context, const AttentionCall& call) {
  const int num_kv_heads = call.query.kv.num_kv_heads;
  context.pool.ParallelFor(static_cast<int64_t>(call.tiles.size()) * num_kv_heads,
                           [&](int64_t index, int worker) {
                             const AttentionTask task = {static_cast<size_t>(index / num_kv_heads),
                                                         static_cast<int>(index % num_kv_heads)};
                             HWY_DYNAMIC_DISPATCH(RunTask)(call, task, context.worker[worker]);
                           });
}

/// Runs of splits in parallel, so that few rows keep all threads busy. Long runs, where there are
/// many splits: a task fetches each page while it reads the one before, but not its first.
void RunSplits(Context& context, const ListScope& scope, AttentionCall& call) {
  const int num_kv_heads = call.query.kv.num_kv_heads;
  int64_t num_splits_of_all = 0;
  for (const RowTile& tile : call.tiles) num_splits_of_all += num_kv_heads * NumSplits(call, tile);
  const int64_t splits_per_task =
      std::max<int64_t>(1, num_splits_of_all / (kTasksPerThread * context.pool.num_threads()));
  List<AttentionTask> tasks(scope.memory());
  List<std::pair<size_t, int32_t>> rows(scope.memory());
  call.first_part.assign(1, 0);
  for (size_t tile = 0; tile < call.tiles.size(); ++tile) {
    const int32_t num_rows = call.tiles[tile].num_rows;
    const int64_t num_splits = NumSplits(call, call.tiles[tile]);
    for (int64_t split = 0; split < num_splits; split += splits_per_task) {
      const int64_t end = std::min(num_splits, split + splits_per_task);
      for (int head = 0; head < num_kv_heads; ++head) tasks.push_back({tile, head, split, end});
    }
    for (int32_t row = 0; row < num_rows; ++row) rows.emplace_back(tile, row);
    call.first_part.push_back(call.first_part.back() +
                              num_splits * num_rows * call.query.num_q_heads);
  }
  call.parts =
      context.shared[0].Get<float>(static_cast<size_t>(call.first_part.back() * call.PartFloats()));
  context.pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t index, int worker) {
    HWY_DYNAMIC_DISPATCH(RunTask)(call, tasks[index], context.worker[worker]);
  });
  context.pool.ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t index, int worker) {
    const auto [tile, row] = rows[index];
    HWY_DYNAMIC_DISPATCH(JoinParts)(call, tile, row, context.worker[worker]);
  });
}

}  // namespace

void PagedAttention(Context& context, const AttentionQuery& query, const PieceFunction& pieces_of,
                    const BranchOutput& result) {
  const int group = query.num_q_heads / query.kv.num_kv_heads;
  NSA_CHECK(group > 0 && group * query.kv.num_kv_heads == query.num_q_heads);
  const int32_t tile_rows = std::clamp(2 * kMaxChunkQueries / group, 4, kMaxTileRows);
  const ListScope scope(context);
  AttentionCall call{.query = query,
                     .pieces_of = pieces_of,
                     .result = result,
                     .group = group,
                     .tiles = MakeTiles(query.segments, query.num_segments, tile_rows, scope),
                     .first_part = List<int64_t>(scope.memory())};
  const int64_t num_tasks = static_cast<int64_t>(call.tiles.size()) * query.kv.num_kv_heads;
  if (num_tasks < 4 * context.pool.num_threads()) {
    RunSplits(context, scope, call);
  } else {
    RunWholeTiles(context, call);
  }
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
