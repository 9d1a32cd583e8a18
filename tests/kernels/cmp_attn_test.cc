#include "kernels/ops/cmp_attn.h"

#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

AttentionOp CmpOp(const AttentionCase& c, int64_t max_page_distance, bool lse_only) {
  return [=](Backend& backend, const AttentionQuery& query, AttentionResult& result) {
    CmpAttnParams params;
    params.query = query;
    params.length = c.length;
    params.stride = c.stride;
    params.max_page_distance = max_page_distance;
    params.result = result.branch();
    if (lse_only) params.result.out = nullptr;
    backend.CmpAttn(params);
  };
}

/// Absolute keys know no limit of distances.
std::vector<int64_t> MaxDistances(const AttentionCase& c, std::vector<int64_t> distances) {
  if (c.absolute_rows) return {-1};
  return distances;
}

TEST_P(AttentionTest, CmpAttnIsRowInvariant) {
  const AttentionWorld world(GetParam());
  for (const int64_t max_distance : MaxDistances(GetParam(), {-1, 0, 3})) {
    SCOPED_TRACE(max_distance);
    ExpectRowInvariant(world, CmpOp(GetParam(), max_distance, false), world.MakeResult());
  }
}

TEST_P(AttentionTest, CmpAttnMatchesReference) {
  AttentionWorld world(GetParam());
  for (const int64_t max_distance : MaxDistances(GetParam(), {-1, 0, 3, 30})) {
    SCOPED_TRACE(max_distance);
    ExpectMatchesReference(world, CmpOp(GetParam(), max_distance, false), world.MakeResult());
  }
}

TEST_P(AttentionTest, CmpAttnMakesTheLogSumExpAlone) {
  AttentionCase c = GetParam();
  const AttentionWorld with_values(c);
  c.compressed_values = false;
  const AttentionWorld without_values(c);
  AttentionResult both = with_values.MakeResult(), alone = without_values.MakeResult();
  const auto backend = MakeCpuBackend(2);
  const int64_t max_distance = MaxDistances(c, {3})[0];
  CmpOp(c, max_distance, false)(*backend, with_values.Query(with_values.segments()), both);
  CmpOp(c, max_distance, true)(*backend, without_values.Query(without_values.segments()), alone);
  EXPECT_TRUE(SameBits(both.lse, alone.lse));
  EXPECT_THAT(alone.out, testing::Each(12345));
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

TEST(CmpAttnTest, BeforeTheFirstWindowThereIsNothing) {
  const AttentionCase c = {.name = "", .sequences = {{0, 33}}};
  AttentionWorld world(c);
  for (const bool reference : {true, false}) {
    const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(2);
    AttentionResult result = world.MakeResult();
    CmpOp(c, -1, false)(*backend, world.Query(world.segments()), result);
    for (int row = 0; row < 33; ++row) {
      const float lse = result.lse[row * world.num_q_heads()];
      EXPECT_EQ(std::isfinite(lse), row >= 31) << row;
      if (row < 31) {
        EXPECT_EQ(result.out[row * world.num_q_heads() * c.head_dim_v], 0);
      }
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
