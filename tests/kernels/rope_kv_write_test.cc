#include "kernels/ops/rope_kv_write.h"

#include "kernels/quant.h"
#include "tests/kernels/attention_cases.h"
#include "tests/kernels/new_kv_rows.h"

namespace nsa::kernels {
namespace {

struct NewRows : NewKvRows {
  explicit NewRows(const AttentionCase& test_case)
      : NewKvRows(test_case, {{0, 70}, {63, 1}, {64, 0}, {100, 130}}) {}

  std::vector<std::byte> Write(Backend& backend, const std::vector<AttentionSegment>& chunks,
                               bool one_call) const {
    const TestCache cache = EmptyCache();
    RopeKvWriteParams params = Params(chunks, cache);
    if (one_call) {
      backend.RopeKvWrite(params);
      return cache.slots();
    }
    params.num_segments = 1;
    for (const AttentionSegment& chunk : chunks) {
      params.segments = &chunk;
      backend.RopeKvWrite(params);
    }
    return cache.slots();
  }
};

TEST_P(AttentionTest, RopeKvWriteIsRowInvariant) {
  const NewRows rows(GetParam());
  const std::vector<std::byte> expected = rows.Write(*MakeCpuBackend(1), rows.segments, true);
  for (const int num_threads : {1, 2, 3}) {
    const auto backend = MakeCpuBackend(num_threads);
    for (const int32_t chunk : {1, 7, 64, 1000}) {
      std::vector<AttentionSegment> chunks = CutSegments(rows.segments, chunk);
      std::shuffle(chunks.begin(), chunks.end(), std::mt19937(5));
      EXPECT_TRUE(SameBits(rows.Write(*backend, chunks, true), expected));
      EXPECT_TRUE(SameBits(rows.Write(*backend, chunks, false), expected));
    }
  }
}

// Bit for bit, bytes that nobody may write included.
TEST_P(AttentionTest, RopeKvWriteEqualsReference) {
  const NewRows rows(GetParam());
  const std::vector<std::byte> expected = rows.Write(*MakeReferenceBackend(), rows.segments, true);
  ForEachTarget([&] {
    EXPECT_TRUE(SameBits(rows.Write(*MakeCpuBackend(2), rows.segments, true), expected));
  });
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

TEST(RopeKvWriteTest, PutsKeysByDimensionAndValuesByToken) {
  const AttentionCase c = {
      .name = "", .num_kv_heads = 1, .head_dim_k = 2, .head_dim_v = 2, .rotary_dim = 2};
  for (const bool reference : {true, false}) {
    TestCache cache(c, 4);
    const TestRope rope(2, 4);
    const std::vector<int32_t> table = {3, 1};
    const AttentionSegment segment = {table.data(), 65, 0, 1};
    const float k[2] = {1, 0};
    const float v[2] = {5, 6};
    const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(1);
    backend->RopeKvWrite({k, 2, v, 2, &segment, 1, cache.view(), rope.view()});
    const std::byte* slot = cache.view().slots + 1 * cache.view().page_stride;
    const float* keys = reinterpret_cast<const float*>(slot);
    const float* values = reinterpret_cast<const float*>(slot + cache.view().v_offset);
    EXPECT_FLOAT_EQ(keys[0 * kPageSize + 1], std::cos(1.0f));  // offset 65 mod 64
    EXPECT_FLOAT_EQ(keys[1 * kPageSize + 1], std::sin(1.0f));
    EXPECT_EQ(values[1 * 2 + 0], 5);
    EXPECT_EQ(values[1 * 2 + 1], 6);
    EXPECT_TRUE(std::isnan(keys[0]));
    EXPECT_TRUE(std::isnan(values[0]));
  }
}

TEST(RopeKvWriteTest, RowsOfInt8StandBesideTheirScales) {
  const AttentionCase c = {.name = "",
                           .dtype = DType::kInt8,
                           .num_kv_heads = 1,
                           .head_dim_k = 4,
                           .head_dim_v = 4,
                           .rotary_dim = 0};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // A row by its largest magnitude, zeros, a row that cannot be divided by, one that is not finite.
  const std::vector<float> k = {12.7f, -6.34f, 0.05f, 0, 0, 0, 0, 0, 1e-44f, 0, 0, 0, 1, nan, 0, 2};
  const std::vector<int> expected = {127, -63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  for (const bool reference : {true, false}) {
    TestCache cache(c, 1);
    const TestRope rope(0, 1);
    const int32_t page = 0;
    const AttentionSegment segment = {&page, 0, 0, 4};
    const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(1);
    backend->RopeKvWrite({k.data(), 4, k.data(), 4, &segment, 1, cache.view(), rope.view()});
    const PagedKv& kv = cache.view();
    const auto* keys = reinterpret_cast<const int8_t*>(kv.slots);
    const auto* values = reinterpret_cast<const int8_t*>(kv.slots + kv.v_offset);
    const auto* scales = reinterpret_cast<const float*>(kv.slots + kv.scale_offset);
    for (int token = 0; token < 4; ++token) {
      for (int dim = 0; dim < 4; ++dim) {
        EXPECT_EQ(keys[dim * kPageSize + token], expected[token * 4 + dim]) << token << " " << dim;
        EXPECT_EQ(values[token * 4 + dim], expected[token * 4 + dim]) << token << " " << dim;
      }
    }
    for (const float* of_kind : {scales, scales + kPageSize}) {
      EXPECT_FLOAT_EQ(of_kind[0], 0.1f);
      EXPECT_EQ(of_kind[1], 0);
      EXPECT_LT(of_kind[2], 1e-44f);
      EXPECT_TRUE(std::isnan(of_kind[3]));
    }
  }
}

TEST(RopeKvWriteTest, RoundsToNearestEven) {
  const AttentionCase c = {.name = "",
                           .dtype = DType::kBF16,
                           .num_kv_heads = 1,
                           .head_dim_k = 2,
                           .head_dim_v = 4,
                           .rotary_dim = 0};
  const float v[4] = {1 + 0x1p-8f, 1 + 3 * 0x1p-8f, 1 + 0x1.02p-8f, -0.0f};
  const float expected[4] = {1, 1 + 0x1p-6f, 1 + 0x1p-7f, -0.0f};
  const float k[2] = {};
  for (const bool reference : {true, false}) {
    TestCache cache(c, 1);
    const TestRope rope(0, 1);
    const int32_t page = 0;
    const AttentionSegment segment = {&page, 0, 0, 1};
    const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(1);
    backend->RopeKvWrite({k, 2, v, 4, &segment, 1, cache.view(), rope.view()});
    for (int i = 0; i < 4; ++i) {
      uint16_t bits;
      std::memcpy(&bits, cache.view().slots + cache.view().v_offset + 2 * i, 2);
      EXPECT_EQ(BF16ToF32(bits), expected[i]) << i;
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
