#include "kernels/cpu/paged_attention.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/paged_call.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/paged_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/attention-inl.h"

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
    FindPieces(row);
    if (cursor.next < cursor.end) cursor.piece = cursor.pieces.Get(cursor.next);
    if (cursor.next + 1 < cursor.end) cursor.following = cursor.pieces.Get(cursor.next + 1);
    for (int q = row * group_; q < (row + 1) * group_; ++q) {
      totals_[q] = {kNegativeInfinity, 0};
      std::fill_n(total_acc_ + int64_t{q} * kv_.head_dim_v, kv_.head_dim_v, 0.0f);
    }
    StartSplit(row);
    if (!task_.MakesParts()) return;
    // Empty parts, where this row has fewer splits than the tile may have.
    const int64_t num_splits = (cursor.end - cursor.next + kPiecesPerSplit - 1) / kPiecesPerSplit;
    for (int64_t split = task_.first_split + num_splits; split < task_.end_split; ++split) {
      FinishSplit(row, split);
    }
  }

  /// The row's pieces in this task. A task of the range does not ask what was chosen.
  void FindPieces(int32_t row) {
    PieceCursor& cursor = cursors_[row];
    const QueryRow query_row = tile_.Row(row);
    cursor.pieces = call_.source.Range(query_row);
    cursor.split = task_.first_split;
    if (!task_.MakesParts()) {
      call_.source.AddSelected(query_row, task_.kv_head, cursor.pieces);
      cursor.next = 0;
      cursor.end = cursor.pieces.NumPieces();
      return;
    }
    const int64_t num_sel = call_.splits[task_.tile].num_sel;
    const bool is_range = task_.first_split >= num_sel;
    if (!is_range) call_.source.AddSelected(query_row, task_.kv_head, cursor.pieces);
    const int64_t end = is_range ? cursor.pieces.NumPieces() : cursor.pieces.num_sel_pieces;
    const int64_t origin = is_range ? num_sel : 0;
    cursor.next = std::min(end, (task_.first_split - origin) * kPiecesPerSplit);
    cursor.end = std::min(end, (task_.end_split - origin) * kPiecesPerSplit);
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
    const int64_t num_sel = cursor.pieces.num_sel_pieces;
    const int64_t in_part = cursor.next < num_sel ? cursor.next : cursor.next - num_sel;
    if (cursor.next == cursor.end || in_part % kPiecesPerSplit == 0) {
      FinishSplit(row, cursor.split++);
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

/// Joins the parts of one row of a tile and one KV head in the order of splits, as TileAttention
/// does in one task.
void JoinParts(const AttentionCall& call, size_t tile, int32_t row, int kv_head, Scratch& scratch) {
  const int dim_v = call.query.kv.head_dim_v;
  float* acc = scratch.Get<float>(static_cast<size_t>(dim_v));
  for (int head = kv_head * call.group; head < (kv_head + 1) * call.group; ++head) {
    Softmax total = {kNegativeInfinity, 0};
    std::fill_n(acc, dim_v, 0.0f);
    for (int64_t split = 0; split < call.splits[tile].num_all; ++split) {
      const float* part = call.Part(tile, split, row, head);
      JoinSoftmax({part[dim_v], part[dim_v + 1]}, part, dim_v, total, acc);
    }
    const int64_t index = call.tiles[tile].Row(row).row * call.query.num_q_heads + head;
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

constexpr int64_t NumSplits(int64_t num_pieces) {
  return (num_pieces + kPiecesPerSplit - 1) / kPiecesPerSplit;
}

/// PagedAttention in stages: where rows are many a tile and a KV head is a task of kSelStage; else
/// runs of splits are, so that few rows keep all threads busy.
class StagedPagedAttention final : public StagedCall {
 public:
  StagedPagedAttention(Context& context, const ListScope& scope, const AttentionQuery& query,
                       const PieceSource& source, const BranchOutput& result, Scratch& parts)
      : context_(context),
        call_{.query = query,
              .source = source,
              .result = result,
              .group = query.num_q_heads / query.kv.num_kv_heads,
              .tiles = List<RowTile>(scope.memory()),
              .splits = List<TileSplits>(scope.memory())},
        tasks_{List<AttentionTask>(scope.memory()), List<AttentionTask>(scope.memory())},
        joins_(scope.memory()) {
    NSA_CHECK(call_.group > 0 && call_.group * query.kv.num_kv_heads == query.num_q_heads);
    const int32_t tile_rows = std::clamp(2 * kMaxChunkQueries / call_.group, 4, kMaxTileRows);
    call_.tiles = MakeTiles(query.segments, query.num_segments, tile_rows, scope);
    const int64_t num_lists = static_cast<int64_t>(call_.tiles.size()) * query.kv.num_kv_heads;
    if (num_lists < 4 * context.pool.num_threads()) {
      LayOutSplits(parts);
    } else {
      for (int64_t list = 0; list < num_lists; ++list) {
        const int64_t num_kv_heads = query.kv.num_kv_heads;
        tasks_[kSelStage].push_back(
            {static_cast<size_t>(list / num_kv_heads), static_cast<int>(list % num_kv_heads)});
      }
    }
  }

  int num_stages() const override { return kNumPagedStages; }
  int64_t NumTasks(int stage) const override {
    return static_cast<int64_t>(stage == kJoinStage ? joins_.size() : tasks_[stage].size());
  }
  bool Follows(int stage, int /*earlier*/) const override { return stage == kJoinStage; }

  void RunTask(int stage, int64_t task, int worker) override {
    Scratch& scratch = context_.worker[static_cast<size_t>(worker)];
    const auto index = static_cast<size_t>(task);
    if (stage != kJoinStage) {
      HWY_DYNAMIC_DISPATCH(RunTask)(call_, tasks_[stage][index], scratch);
      return;
    }
    const Join& join = joins_[index];
    HWY_DYNAMIC_DISPATCH(JoinParts)(call_, join.tile, join.row, join.kv_head, scratch);
  }

 private:
  struct Join {
    size_t tile;
    int32_t row;
    int kv_head;
  };

  /// Splits of the tile's longest lists.
  TileSplits SplitsOf(const RowTile& tile) const {
    int64_t num_sel = 0;
    int64_t num_range = 0;
    for (int32_t row = 0; row < tile.num_rows; ++row) {
      num_sel = std::max(num_sel, call_.source.MaxSelPieces(tile.Row(row)));
      num_range = std::max(num_range, call_.source.Range(tile.Row(row)).NumRangePieces());
    }
    return {NumSplits(num_sel), NumSplits(num_sel) + NumSplits(num_range), 0};
  }

  /// Long runs of splits, where there are many: a task fetches each page while it reads the one
  /// before, but not its first.
  void LayOutSplits(Scratch& parts) {
    const int num_kv_heads = call_.query.kv.num_kv_heads;
    int64_t num_splits = 0;
    int64_t num_parts = 0;
    for (const RowTile& tile : call_.tiles) {
      TileSplits splits = SplitsOf(tile);
      splits.first_part = num_parts;
      call_.splits.push_back(splits);
      num_splits += num_kv_heads * splits.num_all;
      num_parts += splits.num_all * tile.num_rows * call_.query.num_q_heads;
    }
    const int64_t splits_per_task =
        std::max<int64_t>(1, num_splits / (kTasksPerThread * context_.pool.num_threads()));
    for (size_t tile = 0; tile < call_.tiles.size(); ++tile) {
      const TileSplits& splits = call_.splits[tile];
      AddTasks(kSelStage, tile, 0, splits.num_sel, splits_per_task);
      AddTasks(kRangeStage, tile, splits.num_sel, splits.num_all, splits_per_task);
      for (int32_t row = 0; row < call_.tiles[tile].num_rows; ++row) {
        for (int head = 0; head < num_kv_heads; ++head) joins_.push_back({tile, row, head});
      }
    }
    call_.parts = parts.Get<float>(static_cast<size_t>(num_parts * call_.PartFloats()));
  }

  /// Tasks of splits [first, end), all KV heads of some before the next.
  void AddTasks(PagedStage stage, size_t tile, int64_t first, int64_t end, int64_t step) {
    for (; first < end; first += step) {
      for (int head = 0; head < call_.query.kv.num_kv_heads; ++head) {
        tasks_[stage].push_back({tile, head, first, std::min(end, first + step)});
      }
    }
  }

  Context& context_;
  AttentionCall call_;
  List<AttentionTask> tasks_[2];  // of kRangeStage and kSelStage
  List<Join> joins_;
};

}  // namespace

StagedCallPtr StagePagedAttention(Context& context, const ListScope& scope,
                                  const AttentionQuery& query, const PieceSource& source,
                                  const BranchOutput& result, Scratch& parts) {
  return MakeStagedCall<StagedPagedAttention>(scope, context, scope, query, source, result, parts);
}

}  // namespace nsa::kernels::cpu
#endif  // HWY_ONCE
