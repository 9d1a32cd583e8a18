#ifndef NSA_KERNELS_REFERENCE_PAGED_ATTENTION_H_
#define NSA_KERNELS_REFERENCE_PAGED_ATTENTION_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/check.h"
#include "kernels/float8.h"
#include "kernels/int8_rows.h"
#include "kernels/ops/attention.h"
#include "kernels/ops/cmp_pool.h"
#include "kernels/quant.h"

/// What the reference attention operators share: reading the paged cache, rotating, and one softmax
/// attention over a list of cache rows.
namespace nsa::kernels::reference {

inline constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

inline float LoadElement(DType dtype, const std::byte* base, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, base + index * 4, 4);
    return value;
  }
  if (dtype == DType::kInt8) return static_cast<float>(static_cast<int8_t>(base[index]));
  if (dtype == DType::kF8E4M3) return F8E4M3ToF32({static_cast<uint8_t>(base[index])});
  uint16_t bits;
  std::memcpy(&bits, base + index * 2, 2);
  return dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

inline void StoreElement(DType dtype, std::byte* base, int64_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(base + index * 4, &value, 4);
    return;
  }
  if (dtype == DType::kF8E4M3) {
    base[index] = std::byte{F32ToF8E4M3(value).bits};
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? F32ToF16(value) : F32ToBF16(value);
  std::memcpy(base + index * 2, &bits, 2);
}

enum class Direction { kForward, kBackward };

/// Rotates x[head_dim] in place by one row of a rotary table.
inline void Rotate(const float* cosines, const float* sines, int rotary_dim, Direction direction,
                   float* x) {
  const int half = rotary_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float sine = direction == Direction::kForward ? sines[i] : -sines[i];
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * cosines[i] - b * sine;
    x[i + half] = b * cosines[i] + a * sine;
  }
}

/// Rotates by an offset inside a page.
inline void RotateFine(const RopeView& rope, int64_t offset, Direction direction, float* x) {
  const int64_t row = offset * (rope.rotary_dim / 2);
  Rotate(rope.fine_cos + row, rope.fine_sin + row, rope.rotary_dim, direction, x);
}

/// Rotates by a whole number of pages.
inline void RotateCoarse(const RopeView& rope, int64_t num_pages, Direction direction, float* x) {
  if (rope.rotary_dim == 0) return;
  NSA_CHECK(num_pages >= 0 && num_pages < rope.num_coarse);
  const int64_t row = num_pages * (rope.rotary_dim / 2);
  Rotate(rope.coarse_cos + row, rope.coarse_sin + row, rope.rotary_dim, direction, x);
}

/// The cache's tokens or its compressed rows, seen the same way: pages of `rows_per_page` rows with
/// keys [head_dim_k, rows_per_page] and values [rows_per_page, head_dim_v].
struct PagedRows {
  DType dtype;
  const std::byte* slots;
  int64_t page_stride;
  int64_t head_stride;
  int64_t v_offset;
  int64_t scale_offset;  // −1: no scales
  int rows_per_page;
  int head_dim_k;
  int head_dim_v;
  bool has_key_quads = false;       // keys [⌈head_dim_k/4⌉, rows_per_page, 4]
  const int32_t* places = nullptr;  // as in PagedKv
  int64_t places_stride = 0;

  const std::byte* Head(int64_t page, int kv_head) const {
    if (places != nullptr) page = places[page * places_stride];
    return slots + page * page_stride + kv_head * head_stride;
  }
  float Key(int64_t page, int kv_head, int dim, int row) const {
    return LoadElement(dtype, Head(page, kv_head), KeyIndex(dim, row)) * Scale(page, kv_head, row);
  }
  int64_t KeyIndex(int dim, int row) const {
    if (!has_key_quads) return int64_t{dim} * rows_per_page + row;
    return (int64_t{dim / 4} * rows_per_page + row) * 4 + dim % 4;
  }
  float Value(int64_t page, int kv_head, int row, int dim) const {
    return LoadElement(dtype, Head(page, kv_head) + v_offset, int64_t{row} * head_dim_v + dim) *
           Scale(page, kv_head, rows_per_page + row);
  }
  /// Scale `index` of {K [rows_per_page], V [rows_per_page]}.
  float Scale(int64_t page, int kv_head, int index) const {
    if (scale_offset < 0) return 1;
    return LoadElement(DType::kF32, Head(page, kv_head) + scale_offset, index);
  }
};

inline PagedRows TokenRows(const PagedKv& kv) {
  return {kv.dtype,  kv.slots,      kv.page_stride, kv.head_stride, kv.v_offset, kv.scale_offset,
          kPageSize, kv.head_dim_k, kv.head_dim_v,  false,          kv.places,   kv.places_stride};
}

inline PagedRows CmpRows(const PagedKv& kv, int stride) {
  return {kv.cmp_dtype,       kv.cmp_slots,
          kv.cmp_page_stride, kv.cmp_head_stride,
          kv.cmp_v_offset,    kv.cmp_scale_offset,
          kPageSize / stride, kv.head_dim_k,
          kv.head_dim_v,      kv.cmp_dtype == DType::kInt8};
}

/// One row that a query attends to.
struct VisibleRow {
  int32_t page;           // in the pool
  int row;                // in the page
  int64_t page_distance;  // from the query's page, in pages
};

/// The query vector of one (row, head), rotated by its offset in the page; RotateCoarse remains.
inline std::vector<float> LoadQuery(const AttentionQuery& query, int64_t row, int head,
                                    int64_t position) {
  const int head_dim = query.kv.head_dim_k;
  const float* begin = query.q + row * query.q_stride + int64_t{head} * head_dim;
  std::vector<float> q(begin, begin + head_dim);
  if (query.rope.rotary_dim > 0) {
    RotateFine(query.rope, position % kPageSize, Direction::kForward, q.data());
  }
  return q;
}

/// The largest magnitude; NaN where one is NaN.
inline float LargestMagnitude(const std::vector<float>& x) {
  float largest = 0;
  for (const float v : x)
    largest = std::isnan(v) || std::fabs(v) > largest ? std::fabs(v) : largest;
  return largest;
}

/// x as 8-bit integers with one scale hold it.
inline void RoundToInt8(std::vector<float>& x) {
  const Int8RowScale scale(LargestMagnitude(x));
  for (float& v : x) {
    v = (scale.inverse == 0 ? 0.0f : std::nearbyint(v * scale.inverse)) * scale.scale;
  }
}

/// scale·q·k for each visible row. `q` as LoadQuery gives it. Where rows are kInt8, the query of
/// those at `shared_distance` is rounded to 8 bits (score_topk.h).
inline std::vector<float> Scores(const AttentionQuery& query, const PagedRows& rows, int kv_head,
                                 std::vector<float> q, const std::vector<VisibleRow>& visible,
                                 int64_t shared_distance = -1) {
  for (float& x : q) x *= query.scale;
  const bool has_one_rotation = query.rope.rotary_dim == 0;
  const bool rounds = rows.has_key_quads;
  std::vector<float> scores;
  scores.reserve(visible.size());
  std::vector<float> rotated;
  int64_t rotated_by = -1;
  for (const VisibleRow& v : visible) {
    if (v.page_distance != rotated_by) {
      rotated = q;
      RotateCoarse(query.rope, v.page_distance, Direction::kForward, rotated.data());
      if (rounds && (has_one_rotation || v.page_distance == shared_distance)) RoundToInt8(rotated);
      rotated_by = v.page_distance;
    }
    float dot = 0;
    for (int dim = 0; dim < rows.head_dim_k; ++dim) {
      dot += rotated[dim] * rows.Key(v.page, kv_head, dim, v.row);
    }
    scores.push_back(dot);
  }
  return scores;
}

/// log Σ exp(score); −inf where there is none, NaN where a score is NaN.
inline float LogSumExp(const std::vector<float>& scores) {
  float maximum = kNegativeInfinity;
  for (const float score : scores) maximum = score <= maximum ? maximum : score;  // keeps NaN
  if (maximum == kNegativeInfinity) return kNegativeInfinity;
  float sum = 0;
  for (const float score : scores) sum += std::exp(score - maximum);
  return maximum + std::log(sum);
}

/// Softmax attention of one (row, query head): fills its part of `result`.
inline void Attend(const AttentionQuery& query, const PagedRows& rows, int64_t row, int head,
                   int64_t position, const std::vector<VisibleRow>& visible,
                   const BranchOutput& result) {
  const int kv_head = head / (query.num_q_heads / query.kv.num_kv_heads);
  const std::vector<float> q = LoadQuery(query, row, head, position);
  const std::vector<float> scores = Scores(query, rows, kv_head, q, visible);
  const float lse = LogSumExp(scores);
  const int64_t index = row * query.num_q_heads + head;
  if (result.lse != nullptr) result.lse[index] = lse;
  if (result.out == nullptr) return;
  float* out = result.out + index * rows.head_dim_v;
  for (int dim = 0; dim < rows.head_dim_v; ++dim) out[dim] = 0;
  if (lse == kNegativeInfinity) return;
  for (size_t i = 0; i < visible.size(); ++i) {
    const float probability = std::exp(scores[i] - lse);
    for (int dim = 0; dim < rows.head_dim_v; ++dim) {
      out[dim] += probability * rows.Value(visible[i].page, kv_head, visible[i].row, dim);
    }
  }
}

/// A page distance where −1 means no limit.
inline int64_t LimitDistance(int64_t distance, int64_t max_page_distance) {
  return max_page_distance < 0 ? distance : std::min(distance, max_page_distance);
}

/// Tokens [begin, end) of a sequence at their absolute positions, as the query at `position` sees
/// them.
inline std::vector<VisibleRow> TokenRange(const AttentionSegment& segment, int64_t position,
                                          int64_t begin, int64_t end) {
  std::vector<VisibleRow> visible;
  for (int64_t token = begin; token < end; ++token) {
    const int64_t page = token / kPageSize;
    visible.push_back({segment.page_table[page], static_cast<int>(token % kPageSize),
                       position / kPageSize - page});
  }
  return visible;
}

/// Compressed rows of all windows that end at or before `position`, in rising order. Absolute keys
/// are as far from the query as the sequence's begin is.
inline std::vector<VisibleRow> VisibleWindows(const PagedKv& kv, const AttentionSegment& segment,
                                              int64_t position, int length, int stride,
                                              int64_t max_page_distance) {
  NSA_CHECK(!kv.cmp_absolute || max_page_distance < 0);
  std::vector<VisibleRow> visible;
  const int64_t num_windows = NumVisibleWindows(position, length, stride);
  for (int64_t window = 0; window < num_windows; ++window) {
    const CmpSlot slot = FindCmpSlot(window, length, stride);
    const int64_t distance = LimitDistance(
        position / kPageSize - (kv.cmp_absolute ? 0 : slot.page_index), max_page_distance);
    visible.push_back({segment.page_table[slot.page_index], slot.slot, distance});
  }
  return visible;
}

/// Calls body(segment, row, position) for each query row of a call.
template <typename Body>
void ForEachRow(const AttentionSegment* segments, int num_segments, Body&& body) {
  for (int s = 0; s < num_segments; ++s) {
    for (int32_t i = 0; i < segments[s].num_rows; ++i) {
      body(segments[s], int64_t{segments[s].row_begin} + i, segments[s].position + i);
    }
  }
}

}  // namespace nsa::kernels::reference

#endif  // NSA_KERNELS_REFERENCE_PAGED_ATTENTION_H_
