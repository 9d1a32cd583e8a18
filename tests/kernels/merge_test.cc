#include "kernels/ops/merge.h"

#include "tests/kernels/attention_cases.h"
#include "tests/kernels/merge_branches.h"

namespace nsa::kernels {
namespace {

TEST(MergeTest, IsRowInvariant) {
  const Branches branches(100, 6, 37);
  for (const bool gated : {true, false}) {
    std::vector<float> expected(100 * branches.YStride(), 7);
    MakeCpuBackend(1)->Merge(branches.Params(3, gated, 0, 100, expected.data()));
    for (const int num_threads : {1, 2, 3}) {
      const auto backend = MakeCpuBackend(num_threads);
      for (const int64_t chunk : {1, 7, 64}) {
        std::vector<float> actual(100 * branches.YStride(), 7);
        for (int64_t first = 0; first < 100; first += chunk) {
          backend->Merge(
              branches.Params(3, gated, first, std::min(chunk, 100 - first), actual.data()));
        }
        EXPECT_TRUE(SameBits(actual, expected));
      }
    }
  }
}

TEST(MergeTest, MatchesReference) {
  for (const int head_dim : {1, 7, 16, 64, 80, 128}) {
    Branches branches(33, 5, head_dim);
    branches.lse[0][3] = branches.lse[1][3] = -kInfinity;  // one branch left
    for (auto& lse : branches.lse) lse[4] = -kInfinity;    // none left
    for (const int num_branches : {1, 2, 3}) {
      for (const bool gated : {true, false}) {
        std::vector<float> expected(33 * branches.YStride(), 0), actual;
        MakeReferenceBackend()->Merge(branches.Params(num_branches, gated, 0, 33, expected.data()));
        ForEachTarget([&] {
          actual.assign(expected.size(), 0);
          MakeCpuBackend(2)->Merge(branches.Params(num_branches, gated, 0, 33, actual.data()));
          ExpectClose(actual, expected, kTolerance);
        });
      }
    }
  }
}

TEST(MergeTest, AllBranchesEmptyGivesZero) {
  for (const bool reference : {true, false}) {
    Branches branches(1, 1, 20);
    for (int c = 0; c < 3; ++c) {
      branches.lse[c][0] = -kInfinity;
      std::fill(branches.out[c].begin(), branches.out[c].end(), 0.0f);
    }
    std::vector<float> y(branches.YStride(), 7);
    const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(1);
    backend->Merge(branches.Params(3, false, 0, 1, y.data()));
    for (int i = 0; i < 20; ++i) EXPECT_EQ(y[i], 0);
    EXPECT_EQ(y[20], 7);  // behind the row
  }
}

TEST(MergeTest, WeightsAreSigmoidOrSoftmax) {
  for (const bool reference : {true, false}) {
    Branches branches(1, 1, 1);
    branches.out = {{1}, {10}, {100}};
    branches.lse = {{std::log(1.0f)}, {std::log(2.0f)}, {std::log(5.0f)}};
    branches.gates = {0, std::log(3.0f), -kInfinity};
    const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(1);
    std::vector<float> y(branches.YStride());
    backend->Merge(branches.Params(3, true, 0, 1, y.data()));
    EXPECT_NEAR(y[0], 0.5 + 0.75 * 10, 1e-5);
    backend->Merge(branches.Params(3, false, 0, 1, y.data()));
    EXPECT_NEAR(y[0], (1 * 1 + 2 * 10 + 5 * 100) / 8.0, 1e-4);
  }
}

TEST(MergeTest, NanOfOneRowStaysThere) {
  for (const bool reference : {true, false}) {
    Branches branches(2, 1, 1);
    branches.lse[0][0] = std::numeric_limits<float>::quiet_NaN();
    const auto backend = reference ? MakeReferenceBackend() : MakeCpuBackend(1);
    std::vector<float> y(2 * branches.YStride());
    backend->Merge(branches.Params(2, false, 0, 2, y.data()));
    EXPECT_TRUE(std::isnan(y[0]));
    EXPECT_TRUE(std::isfinite(y[branches.YStride()]));
  }
}

}  // namespace
}  // namespace nsa::kernels
