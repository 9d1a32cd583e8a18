#include "kernels/ops/win_attn.h"

#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

AttentionOp WinOp(int64_t window_size, bool page_aligned) {
  return [=](Backend& backend, const AttentionQuery& query, AttentionResult& result) {
    WinAttnParams params;
    params.query = query;
    params.window_size = window_size;
    params.page_aligned = page_aligned;
    params.result = result.branch();
    backend.WinAttn(params);
  };
}

struct Window {
  int64_t size;
  bool page_aligned;
};
constexpr Window kWindows[] = {{1, false},   {63, false}, {129, false},
                               {512, false}, {128, true}, {512, true}};

TEST_P(AttentionTest, WinAttnIsRowInvariant) {
  const AttentionWorld world(GetParam());
  for (const Window& w : {kWindows[2], kWindows[5]}) {
    SCOPED_TRACE(w.size);
    ExpectRowInvariant(world, WinOp(w.size, w.page_aligned), world.MakeResult());
  }
}

TEST_P(AttentionTest, WinAttnMatchesReference) {
  AttentionWorld world(GetParam());
  for (const Window& w : kWindows) {
    SCOPED_TRACE(w.size);
    ExpectMatchesReference(world, WinOp(w.size, w.page_aligned), world.MakeResult());
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

TEST(WinAttnTest, WindowOfOneGivesTheTokensOwnValue) {
  AttentionWorld world({.name = "", .sequences = {{130, 2}}});
  AttentionResult result = world.MakeResult();
  WinOp(1, false)(*MakeCpuBackend(1), world.Query(world.segments()), result);
  const PagedKv& kv = world.kv();
  const AttentionSegment& segment = world.segments()[0];
  for (int row = 0; row < 2; ++row) {
    const std::byte* slot = kv.slots + segment.page_table[2] * kv.page_stride + kv.v_offset;
    const float* v = reinterpret_cast<const float*>(slot) + (2 + row) * kv.head_dim_v;
    for (int dim = 0; dim < kv.head_dim_v; ++dim) {
      EXPECT_FLOAT_EQ(result.out[row * world.num_q_heads() * kv.head_dim_v + dim], v[dim]);
    }
  }
}

TEST(WinAttnTest, OneWildQueryLeavesTheOthersAlone) {
  const AttentionCase c = {.name = "", .sequences = {{300, 40}}};
  AttentionWorld world(c);
  AttentionResult expected = world.MakeResult();
  const std::unique_ptr<Backend> backend = MakeCpuBackend(2);
  WinOp(128, true)(*backend, world.Query(world.segments()), expected);
  const int64_t wild_row = 11;
  world.q()[wild_row * world.q_stride()] = std::numeric_limits<float>::quiet_NaN();
  AttentionResult actual = world.MakeResult();
  WinOp(128, true)(*backend, world.Query(world.segments()), actual);
  const int64_t head_floats = c.head_dim_v;
  const int64_t wild = wild_row * world.num_q_heads() * head_floats;
  for (int64_t i = 0; i < static_cast<int64_t>(actual.out.size()); ++i) {
    if (i >= wild && i < wild + head_floats) {
      ASSERT_TRUE(std::isnan(actual.out[i])) << i;  // the request that is to fail shows it
    } else {
      ASSERT_EQ(actual.out[i], expected.out[i]) << i;
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
