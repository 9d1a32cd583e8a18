#ifndef NSA_TESTS_KERNELS_ATTENTION_CASES_H_
#define NSA_TESTS_KERNELS_ATTENTION_CASES_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/target.h"
#include "tests/kernels/attention_case_list.h"

/// What the attention operators are tested on, a paged cache with random rows, and the two checks
/// that every operator gets: row invariance, and the CPU against the reference on every target.
namespace nsa::kernels {

inline std::vector<float> RandomFloats(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& x : values) x = normal(generator);
  return values;
}

/// Rotary tables in double, as engine/attention/rope_table makes them.
class TestRope {
 public:
  TestRope(int rotary_dim, int64_t num_coarse, double theta = 10000) : rotary_dim_(rotary_dim) {
    num_coarse_ = num_coarse;
    for (int64_t row = 0; row < kPageSize; ++row) Fill(row, theta, fine_cos_, fine_sin_);
    for (int64_t row = 0; row < num_coarse; ++row) {
      Fill(row * kPageSize, theta, coarse_cos_, coarse_sin_);
    }
  }
  RopeView view() const {
    return {fine_cos_.data(),   fine_sin_.data(), coarse_cos_.data(),
            coarse_sin_.data(), num_coarse_,      rotary_dim_};
  }

 private:
  void Fill(int64_t distance, double theta, std::vector<float>& cosines,
            std::vector<float>& sines) const {
    for (int i = 0; i < rotary_dim_ / 2; ++i) {
      const double angle = static_cast<double>(distance) * std::pow(theta, -2.0 * i / rotary_dim_);
      cosines.push_back(static_cast<float>(std::cos(angle)));
      sines.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  int rotary_dim_;
  int64_t num_coarse_;
  std::vector<float> fine_cos_, fine_sin_, coarse_cos_, coarse_sin_;
};

/// A paged cache with pages scattered over a pool, all bytes 0xFF (NaN in every dtype) at first.
class TestCache {
 public:
  TestCache(const AttentionCase& c, int64_t num_pages) {
    const int64_t element = static_cast<int64_t>(SizeOf(c.dtype));
    const int64_t rows = c.CmpRowsPerPage();
    kv_.dtype = c.dtype;
    kv_.cmp_dtype = c.CmpDtype();
    kv_.cmp_absolute = c.absolute_rows;
    kv_.num_kv_heads = c.num_kv_heads;
    kv_.head_dim_k = c.head_dim_k;
    kv_.head_dim_v = c.head_dim_v;
    kv_.v_offset = c.head_dim_k * kPageSize * element;
    kv_.head_stride = (c.head_dim_k + c.head_dim_v) * kPageSize * element + 64;
    if (c.dtype == DType::kInt8) {
      kv_.scale_offset = (c.head_dim_k + c.head_dim_v) * kPageSize;
      kv_.head_stride += 2 * kPageSize * sizeof(float);
    }
    kv_.page_stride = c.num_kv_heads * kv_.head_stride + 128;
    const int64_t float_bytes = rows * static_cast<int64_t>(sizeof(float));
    int64_t end = c.CmpDtype() == DType::kInt8
                      ? CmpInt8KeyBytes(c.head_dim_k, c.CmpRowsPerPage())
                      : c.head_dim_k * rows * static_cast<int64_t>(SizeOf(c.CmpDtype()));
    const auto take = [&end](int64_t bytes) { return std::exchange(end, end + bytes); };
    if (c.num_clusters == 0 && c.compressed_values) {
      kv_.cmp_v_offset = take(c.head_dim_v * rows * static_cast<int64_t>(SizeOf(c.CmpDtype())));
    }
    if (c.CmpDtype() == DType::kInt8) kv_.cmp_scale_offset = take(float_bytes);
    if (c.num_clusters > 0) kv_.cmp_bias_offset = take(float_bytes);
    kv_.cmp_head_stride = (end + 127) / 64 * 64;
    kv_.cmp_page_stride = c.num_kv_heads * kv_.cmp_head_stride + 64;
    slots_.assign(num_pages * kv_.page_stride, std::byte{0xFF});
    cmp_slots_.assign(num_pages * kv_.cmp_page_stride, std::byte{0xFF});
    kv_.slots = slots_.data();
    kv_.cmp_slots = cmp_slots_.data();
  }
  const PagedKv& view() const { return kv_; }
  const std::vector<std::byte>& slots() const { return slots_; }
  const std::vector<std::byte>& cmp_slots() const { return cmp_slots_; }

 private:
  PagedKv kv_;
  std::vector<std::byte> slots_;
  std::vector<std::byte> cmp_slots_;
};

/// What an operator leaves behind; compared bit by bit.
struct AttentionResult {
  std::vector<float> out;  // [num_rows, num_q_heads, head_dim_v]
  std::vector<float> lse;  // [num_rows, num_q_heads]
  std::vector<int32_t> selected;
  std::vector<int32_t> num_selected;
  std::vector<float> cmp_scores;  // what cmp_attn leaves for score_topk; not compared

  BranchOutput branch() { return {out.data(), lse.data()}; }
};

/// Several sequences with a filled cache, and query rows for them.
class AttentionWorld {
 public:
  explicit AttentionWorld(const AttentionCase& c, uint32_t seed = 1)
      : case_(c),
        rope_(c.rotary_dim, NumPages(c) + 2),
        cache_(c, NumPages(c)),
        backend_(MakeReferenceBackend()) {
    std::vector<int32_t> pool(NumPages(c));
    std::iota(pool.begin(), pool.end(), 0);
    std::shuffle(pool.begin(), pool.end(), std::mt19937(seed));
    for (const SequenceRows& s : c.sequences) {
      const int64_t num_tokens = s.position + s.num_rows;
      const int64_t num_pages = (num_tokens + kPageSize - 1) / kPageSize;
      page_tables_.emplace_back(pool.end() - num_pages, pool.end());
      pool.resize(pool.size() - num_pages);
      segments_.push_back({nullptr, s.position, num_rows_, s.num_rows});
      num_rows_ += s.num_rows;
    }
    for (size_t i = 0; i < segments_.size(); ++i) {
      segments_[i].page_table = page_tables_[i].data();
      FillCache(i, seed + 100 * static_cast<uint32_t>(i));
    }
    q_ = RandomFloats(int64_t{num_rows_} * q_stride(), seed + 7);
  }

  const AttentionCase& test_case() const { return case_; }
  const std::vector<AttentionSegment>& segments() const { return segments_; }
  int num_q_heads() const { return case_.group * case_.num_kv_heads; }
  int32_t num_rows() const { return num_rows_; }
  int64_t num_pages() const { return NumPages(case_); }
  const TestRope& rope() const { return rope_; }
  std::vector<float>& q() { return q_; }
  Backend& reference() { return *backend_; }
  const PagedKv& kv() const { return cache_.view(); }
  int64_t q_stride() const { return int64_t{num_q_heads()} * case_.head_dim_k + 5; }

  AttentionQuery Query(const std::vector<AttentionSegment>& segments) const {
    AttentionQuery query;
    query.q = q_.data();
    query.q_stride = q_stride();
    query.num_q_heads = num_q_heads();
    query.scale = 1.0f / std::sqrt(static_cast<float>(case_.head_dim_k));
    query.segments = segments.data();
    query.num_segments = static_cast<int>(segments.size());
    query.kv = cache_.view();
    query.rope = rope_.view();
    query.precision = case_.precision;
    return query;
  }

  /// Room for a result, filled with what no operator writes.
  AttentionResult MakeResult(int num_selected_blocks = 0) const {
    AttentionResult r;
    const int64_t heads = int64_t{num_rows_} * num_q_heads();
    r.out.assign(heads * case_.head_dim_v, 12345);
    r.lse.assign(heads, 12345);
    const int64_t lists = int64_t{num_rows_} * case_.num_kv_heads;
    r.selected.assign(lists * num_selected_blocks, -99);
    r.num_selected.assign(lists, -99);
    return r;
  }

  /// Calls body(position, row) for each query row.
  template <typename Body>
  void ForEachRow(Body&& body) const {
    for (const AttentionSegment& s : segments_) {
      for (int32_t i = 0; i < s.num_rows; ++i) body(s.position + i, s.row_begin + i);
    }
  }

 private:
  static int64_t NumPages(const AttentionCase& c) {
    int64_t num_pages = 3;
    for (const SequenceRows& s : c.sequences)
      num_pages += (s.position + s.num_rows) / kPageSize + 1;
    return num_pages;
  }

  void FillCache(size_t i, uint32_t seed) {
    const int64_t num_tokens = segments_[i].position + segments_[i].num_rows;
    const AttentionSegment all = {page_tables_[i].data(), 0, 0, static_cast<int32_t>(num_tokens)};
    RopeKvWriteParams write;
    write.k_stride = int64_t{case_.num_kv_heads} * case_.head_dim_k;
    write.v_stride = int64_t{case_.num_kv_heads} * case_.head_dim_v;
    const std::vector<float> k = RandomFloats(num_tokens * write.k_stride, seed);
    const std::vector<float> v = RandomFloats(num_tokens * write.v_stride, seed + 1);
    write.k = k.data();
    write.v = v.data();
    write.segments = &all;
    write.num_segments = 1;
    write.kv = cache_.view();
    write.rope = rope_.view();
    backend_->RopeKvWrite(write);
    if (case_.num_clusters > 0) {
      backend_->CmpCluster({&all, 1, cache_.view(), case_.num_clusters});
      return;
    }
    CmpPoolParams pool;
    pool.segments = &all;
    pool.num_segments = 1;
    pool.kv = cache_.view();
    pool.rope = rope_.view();
    pool.length = case_.length;
    pool.stride = case_.stride;
    pool.pooled_keys = case_.pooled_keys;
    backend_->CmpPool(pool);
  }

  AttentionCase case_;
  TestRope rope_;
  TestCache cache_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::vector<int32_t>> page_tables_;
  std::vector<AttentionSegment> segments_;
  int32_t num_rows_ = 0;
  std::vector<float> q_;
};

/// Runs one operator for the query's segments.
using AttentionOp = std::function<void(Backend&, const AttentionQuery&, AttentionResult&)>;

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

inline void ExpectSameBits(const AttentionResult& a, const AttentionResult& b) {
  EXPECT_TRUE(SameBits(a.out, b.out)) << "out";
  EXPECT_TRUE(SameBits(a.lse, b.lse)) << "lse";
  EXPECT_TRUE(SameBits(a.selected, b.selected)) << "selected";
  EXPECT_TRUE(SameBits(a.num_selected, b.num_selected)) << "num_selected";
}

/// Segments cut into chunks of at most `max_rows` rows.
inline std::vector<AttentionSegment> CutSegments(const std::vector<AttentionSegment>& segments,
                                                 int32_t max_rows) {
  std::vector<AttentionSegment> chunks;
  for (const AttentionSegment& s : segments) {
    for (int32_t i = 0; i < s.num_rows; i += max_rows) {
      chunks.push_back(
          {s.page_table, s.position + i, s.row_begin + i, std::min(max_rows, s.num_rows - i)});
    }
  }
  return chunks;
}

/// Bits are equal whatever the chunks, their order, the number of calls and of threads.
inline void ExpectRowInvariant(const AttentionWorld& world, const AttentionOp& op,
                               const AttentionResult& empty) {
  AttentionResult expected = empty;
  op(*MakeCpuBackend(1), world.Query(world.segments()), expected);
  for (const int num_threads : {1, 2, 3}) {
    const std::unique_ptr<Backend> backend = MakeCpuBackend(num_threads);
    for (const int32_t chunk_rows : {1, 7, 64, 1000}) {
      SCOPED_TRACE(testing::Message() << num_threads << " threads, chunks of " << chunk_rows);
      std::vector<AttentionSegment> chunks = CutSegments(world.segments(), chunk_rows);
      AttentionResult together = empty;
      op(*backend, world.Query(chunks), together);
      ExpectSameBits(together, expected);
      std::shuffle(chunks.begin(), chunks.end(), std::mt19937(5));
      AttentionResult shuffled = empty;
      op(*backend, world.Query(chunks), shuffled);
      ExpectSameBits(shuffled, expected);
      if (num_threads == 2 && chunk_rows == 1) continue;  // as with 3 threads, and slow
      AttentionResult apart = empty;
      for (const AttentionSegment& chunk : chunks) op(*backend, world.Query({chunk}), apart);
      ExpectSameBits(apart, expected);
    }
  }
}

/// |actual − expected| ≤ tolerance · the largest |expected|, element by element; the same
/// infinities.
inline void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected,
                        float tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  float scale = 1e-6f;
  for (const float x : expected) {
    if (std::isfinite(x)) scale = std::max(scale, std::fabs(x));
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isfinite(expected[i])) {
      ASSERT_LE(std::fabs(actual[i] - expected[i]), tolerance * scale)
          << "at " << i << ": " << actual[i] << " for " << expected[i];
      ASSERT_TRUE(std::isfinite(actual[i])) << "at " << i;
    } else {
      ASSERT_EQ(std::isnan(actual[i]), std::isnan(expected[i])) << "at " << i;
      ASSERT_TRUE(std::isnan(expected[i]) || actual[i] == expected[i])
          << "at " << i << ": " << actual[i] << " for " << expected[i];
    }
  }
}

inline constexpr float kTolerance = 2e-5f;

/// Runs body() once for each instruction set that this CPU has.
template <typename Body>
void ForEachTarget(Body&& body) {
  for (const std::string& name : cpu::SupportedTargetNames()) {
    SCOPED_TRACE(name);
    cpu::ForceTarget(name);
    body();
  }
  cpu::ForceTarget("");
}

/// The CPU's output and log-sum-exp against the reference's, on every target.
inline void ExpectMatchesReference(AttentionWorld& world, const AttentionOp& op,
                                   const AttentionResult& empty) {
  AttentionResult expected = empty;
  op(world.reference(), world.Query(world.segments()), expected);
  ForEachTarget([&] {
    AttentionResult actual = empty;
    op(*MakeCpuBackend(2), world.Query(world.segments()), actual);
    ExpectClose(actual.out, expected.out, kTolerance);
    ExpectClose(actual.lse, expected.lse, kTolerance);
  });
}

class AttentionTest : public testing::TestWithParam<AttentionCase> {};

inline std::string CaseName(const testing::TestParamInfo<AttentionCase>& info) {
  return info.param.name;
}

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_ATTENTION_CASES_H_
