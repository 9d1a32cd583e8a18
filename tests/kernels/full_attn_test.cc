#include "kernels/ops/full_attn.h"

#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

void FullOp(Backend& backend, const AttentionQuery& query, AttentionResult& result) {
  FullAttnParams params;
  params.query = query;
  params.result = result.branch();
  backend.FullAttn(params);
}

TEST_P(AttentionTest, FullAttnIsRowInvariant) {
  const AttentionWorld world(GetParam());
  ExpectRowInvariant(world, FullOp, world.MakeResult());
}

TEST_P(AttentionTest, FullAttnMatchesReference) {
  AttentionWorld world(GetParam());
  ExpectMatchesReference(world, FullOp, world.MakeResult());
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Rounded, AttentionTest, testing::ValuesIn(RoundedCases()), CaseName);

// Many splits, and scores so far apart that most weights underflow.
TEST(FullAttnTest, LongContextWithSteepScores) {
  AttentionWorld world(
      {.name = "", .dtype = DType::kBF16, .num_kv_heads = 1, .sequences = {{4090, 12}}});
  for (float& x : world.q()) x *= 60;
  ExpectMatchesReference(world, FullOp, world.MakeResult());
  ExpectRowInvariant(world, FullOp, world.MakeResult());
}

/// Textbook: every key and query rotated by its absolute position, softmax, all in double.
std::vector<double> Textbook(const std::vector<float>& q, const std::vector<float>& k,
                             const std::vector<float>& v, int64_t num_tokens, int dim,
                             double scale) {
  const auto rotated = [dim](const float* x, int64_t position) {
    std::vector<double> y(dim);
    for (int i = 0; i < dim / 2; ++i) {
      const double angle = static_cast<double>(position) * std::pow(10000.0, -2.0 * i / dim);
      y[i] = x[i] * std::cos(angle) - x[i + dim / 2] * std::sin(angle);
      y[i + dim / 2] = x[i + dim / 2] * std::cos(angle) + x[i] * std::sin(angle);
    }
    return y;
  };
  const std::vector<double> query = rotated(q.data(), num_tokens - 1);
  std::vector<double> out(dim, 0.0);
  double sum = 0;
  for (int64_t t = 0; t < num_tokens; ++t) {
    const std::vector<double> key = rotated(k.data() + t * dim, t);
    const double dot = std::inner_product(query.begin(), query.end(), key.begin(), 0.0);
    const double weight = std::exp(dot * scale);
    sum += weight;
    for (int i = 0; i < dim; ++i) out[i] += weight * v[t * dim + i];
  }
  for (double& x : out) x /= sum;
  return out;
}

TEST(FullAttnTest, PageFramesEqualTextbookRotation) {
  constexpr int kDim = 64;
  for (const int64_t num_tokens : {1, 64, 65, 1000, 4097}) {
    SCOPED_TRACE(num_tokens);
    const AttentionCase c = {.name = "", .num_kv_heads = 1, .group = 1};
    TestCache cache(c, num_tokens / kPageSize + 1);
    const TestRope rope(kDim, num_tokens / kPageSize + 2);
    std::vector<int32_t> table(num_tokens / kPageSize + 1);
    std::iota(table.rbegin(), table.rend(), 0);  // backwards
    const std::vector<float> q = RandomFloats(kDim, 1);
    const std::vector<float> k = RandomFloats(num_tokens * kDim, 2);
    const std::vector<float> v = RandomFloats(num_tokens * kDim, 3);
    const AttentionSegment all = {table.data(), 0, 0, static_cast<int32_t>(num_tokens)};
    const AttentionSegment last = {table.data(), num_tokens - 1, 0, 1};
    const std::vector<double> expected = Textbook(q, k, v, num_tokens, kDim, 0.125);
    for (const bool reference : {true, false}) {
      const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(2);
      backend->RopeKvWrite({k.data(), kDim, v.data(), kDim, &all, 1, cache.view(), rope.view()});
      std::vector<float> out(kDim);
      float lse = 0;
      FullAttnParams params;
      params.query = {q.data(), kDim, 1, 0.125f, &last, 1, cache.view(), rope.view()};
      params.result = {out.data(), &lse};
      backend->FullAttn(params);
      for (int i = 0; i < kDim; ++i) ASSERT_NEAR(out[i], expected[i], 1e-5) << i;
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
