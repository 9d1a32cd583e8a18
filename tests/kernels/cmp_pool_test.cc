#include "kernels/ops/cmp_pool.h"

#include "kernels/ops/rope_kv_write.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

constexpr int64_t kNumTokens = 300;

/// One sequence of tokens in a cache, none pooled yet.
struct PoolWorld {
  explicit PoolWorld(const AttentionCase& test_case)
      : c(test_case), rope(c.rotary_dim, 8), cache(c, 6), table{4, 0, 5, 2, 1} {
    k = RandomFloats(kNumTokens * c.num_kv_heads * c.head_dim_k, 2);
    v = RandomFloats(kNumTokens * c.num_kv_heads * c.head_dim_v, 3);
    const AttentionSegment all = Segment(0, kNumTokens);
    MakeReferenceBackend()->RopeKvWrite({k.data(), int64_t{c.num_kv_heads} * c.head_dim_k, v.data(),
                                         int64_t{c.num_kv_heads} * c.head_dim_v, &all, 1,
                                         cache.view(), rope.view()});
  }
  AttentionSegment Segment(int64_t begin, int64_t end) const {
    return {table.data(), begin, 0, static_cast<int32_t>(end - begin)};
  }
  void Pool(Backend& backend, int64_t begin, int64_t end) {
    const AttentionSegment segment = Segment(begin, end);
    backend.CmpPool({&segment, 1, cache.view(), rope.view(), c.length, c.stride, c.pooled_keys});
  }
  float CmpKey(int64_t window, int head, int dim) const {
    const CmpSlot slot = FindCmpSlot(window, c.length, c.stride);
    const PagedKv& kv = cache.view();
    const float* keys = reinterpret_cast<const float*>(
        kv.cmp_slots + table[slot.page_index] * kv.cmp_page_stride + head * kv.cmp_head_stride);
    return keys[dim * (kPageSize / c.stride) + slot.slot];
  }

  AttentionCase c;
  TestRope rope;
  TestCache cache;
  std::vector<int32_t> table;
  std::vector<float> k, v;
};

TEST_P(AttentionTest, CmpPoolInChunksEqualsOneCall) {
  for (const PooledKeys keys : {PooledKeys::kRotated, PooledKeys::kUnrotated}) {
    AttentionCase c = GetParam();
    c.pooled_keys = keys;
    PoolWorld whole(c);
    whole.Pool(*MakeReferenceBackend(), 0, kNumTokens);
    for (const int num_threads : {1, 3}) {
      const auto backend = MakeCpuBackend(num_threads);
      for (const int64_t chunk : {int64_t{1}, int64_t{7}, int64_t{64}, kNumTokens}) {
        PoolWorld world(c);
        for (int64_t t = 0; t < kNumTokens; t += chunk) {
          world.Pool(*backend, t, std::min(kNumTokens, t + chunk));
        }
        // The CPU gives the reference's bits, and neither writes what no closed window owns.
        EXPECT_TRUE(SameBits(world.cache.cmp_slots(), whole.cache.cmp_slots())) << chunk;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

TEST(CmpPoolTest, OnlyClosedWindowsAreWritten) {
  PoolWorld world({.name = ""});
  const auto backend = MakeCpuBackend(1);
  world.Pool(*backend, 0, 31);
  EXPECT_TRUE(std::isnan(world.CmpKey(0, 0, 0)));
  world.Pool(*backend, 31, 32);
  EXPECT_TRUE(std::isfinite(world.CmpKey(0, 0, 0)));
  EXPECT_TRUE(std::isnan(world.CmpKey(1, 0, 0)));
  world.Pool(*backend, 79, 80);  // the last token of window 3 alone
  EXPECT_TRUE(std::isnan(world.CmpKey(1, 0, 0)));
  EXPECT_TRUE(std::isfinite(world.CmpKey(3, 0, 0)));
  EXPECT_TRUE(std::isnan(world.CmpKey(4, 0, 0)));
}

/// A key of pair (dim, dim + half) rotated by `position`, in double.
double RotatedKey(const PoolWorld& w, int64_t token, int head, int dim, double position) {
  const int half = w.c.rotary_dim / 2;
  const float* key = w.k.data() + (token * w.c.num_kv_heads + head) * w.c.head_dim_k;
  if (dim >= 2 * half) return key[dim];
  const int pair = dim % half;
  const double angle = position * std::pow(10000.0, -2.0 * pair / w.c.rotary_dim);
  const double a = key[pair];
  const double b = key[pair + half];
  return dim < half ? a * std::cos(angle) - b * std::sin(angle)
                    : b * std::cos(angle) + a * std::sin(angle);
}

TEST(CmpPoolTest, KeysEqualTheFormulaInTheirPagesFrame) {
  for (const PooledKeys keys : {PooledKeys::kRotated, PooledKeys::kUnrotated}) {
    for (const auto& [length, stride] : {std::pair{32, 16}, {128, 32}, {64, 64}, {8, 8}}) {
      PoolWorld world(
          {.name = "", .rotary_dim = 48, .length = length, .stride = stride, .pooled_keys = keys});
      world.Pool(*MakeCpuBackend(1), 0, kNumTokens);
      for (int64_t window = 0; window < NumVisibleWindows(kNumTokens - 1, length, stride);
           ++window) {
        const int64_t first = window * stride;
        const int64_t frame = (first + length - 1) / kPageSize * kPageSize;
        for (const int dim : {0, 5, 23, 24, 40, 47, 48, 63}) {
          double expected = 0;
          for (int64_t t = first; t < first + length; ++t) {
            // Rotated keys each at their own place; un-rotated ones as if at the window's first.
            const int64_t position = keys == PooledKeys::kRotated ? t : first;
            expected += RotatedKey(world, t, 1, dim, static_cast<double>(position - frame));
          }
          ASSERT_NEAR(world.CmpKey(window, 1, dim), expected / length, 2e-6)
              << "window " << window << " dim " << dim << " length " << length;
        }
      }
    }
  }
}

TEST(CmpPoolTest, ValuesAreMeans) {
  PoolWorld world({.name = ""});
  world.Pool(*MakeCpuBackend(1), 0, kNumTokens);
  const PagedKv& kv = world.cache.view();
  const int64_t window = 3;  // tokens 48 … 79, stored in page 1
  const float* values = reinterpret_cast<const float*>(
      kv.cmp_slots + world.table[1] * kv.cmp_page_stride + kv.cmp_head_stride + kv.cmp_v_offset);
  for (int dim = 0; dim < 64; ++dim) {
    double expected = 0;
    for (int64_t t = 48; t < 80; ++t) expected += world.v[(t * 2 + 1) * 64 + dim] / 32.0;
    EXPECT_NEAR(values[FindCmpSlot(window, 32, 16).slot * 64 + dim], expected, 1e-6);
  }
}

}  // namespace
}  // namespace nsa::kernels
