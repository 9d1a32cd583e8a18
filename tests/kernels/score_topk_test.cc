#include "kernels/ops/score_topk.h"

#include <map>
#include <set>

#include "tests/kernels/attention_cases.h"
#include "tests/kernels/hand_made_scores.h"
#include "tests/kernels/score_topk_oracle.h"

namespace nsa::kernels {
namespace {

TEST_P(AttentionTest, ScoreTopkIsRowInvariant) {
  const AttentionWorld world(GetParam());
  for (const TopkOptions& options : AllOptions(GetParam())) {
    ExpectRowInvariant(world, TopkOp(world, options),
                       world.MakeResult(options.num_selected_blocks));
  }
}

TEST_P(AttentionTest, ScoreTopkChoosesTheBestBlocks) {
  AttentionWorld world(GetParam());
  for (float& x : world.q()) x *= 3;  // scores far enough apart
  for (const TopkOptions& options : AllOptions(GetParam())) {
    SCOPED_TRACE(options.num_selected_blocks);
    const AttentionOp op = TopkOp(world, options);
    AttentionResult expected = world.MakeResult(options.num_selected_blocks);
    op(world.reference(), world.Query(world.segments()), expected);
    ASSERT_NO_FATAL_FAILURE(ExpectOracle(world, options, expected));
    ForEachTarget([&] {
      AttentionResult actual = world.MakeResult(options.num_selected_blocks);
      op(*MakeCpuBackend(2), world.Query(world.segments()), actual);
      // Equal lists are right as the reference's are; different ones must be as good.
      if (!SameBits(actual.selected, expected.selected)) {
        ASSERT_NO_FATAL_FAILURE(ExpectOracle(world, options, actual));
      }
      EXPECT_TRUE(SameBits(actual.num_selected, expected.num_selected));
    });
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Clusters, AttentionTest, testing::ValuesIn(ClusterCases()), CaseName);

/// Runs body(backend) for the reference and for each target of the CPU.
template <typename Body>
void ForEachBackend(Body&& body) {
  {
    SCOPED_TRACE("reference");
    body(*MakeReferenceBackend());
  }
  ForEachTarget([&] { body(*MakeCpuBackend(2)); });
}

constexpr TopkOptions kNothingForced = {
    .num_selected_blocks = 1, .num_initial_blocks = 0, .num_local_blocks = 0};

// Eq. 9 for 32/16/64: block j = 5 scores Σ w_e · p[4j − 1 + e] with w = 1, 2, 2, 2, 1. Block 9 is
// the scale: its middle window counts twice there and nowhere else.
TEST(ScoreTopkTest, Equation9CountsWindowsByOverlap) {
  const int64_t j = 5, other = 9;
  const double weights[5] = {1, 2, 2, 2, 1};
  ForEachBackend([&](Backend& backend) {
    for (int e = 0; e < 5; ++e) {
      for (const double ratio : {0.98, 1.02}) {
        HandMade world(1000);
        world.SetMass(4 * j - 1 + e, 1.0);
        // An edge window counts for the neighbour as well; a little more for block 5 settles that.
        if (e != 2) world.SetMass(4 * j + 1, 0.001);
        world.SetMass(4 * other + 1, ratio * weights[e] / 2);
        EXPECT_THAT(world.Choose(backend, kNothingForced),
                    testing::ElementsAre(ratio < 1 ? j : other))
            << "window " << 4 * j - 1 + e;
      }
    }
    // Windows 4j − 2 and 4j + 4 belong to the neighbours alone.
    HandMade world(1000);
    world.SetMass(4 * j - 2, 1.0);
    EXPECT_THAT(world.Choose(backend, kNothingForced), testing::ElementsAre(j - 1));
    HandMade after(1000);
    after.SetMass(4 * j + 4, 1.0);
    EXPECT_THAT(after.Choose(backend, kNothingForced), testing::ElementsAre(j + 1));
  });
}

TEST(ScoreTopkTest, EqualSizesScoreTheWindowItself) {
  ForEachBackend([&](Backend& backend) {
    HandMade world(1000, 64, 64, 64);
    world.SetMass(3, 1.0);
    world.SetMass(11, 0.7);
    world.SetMass(6, 0.3);
    TopkOptions options = kNothingForced;
    options.num_selected_blocks = 2;
    EXPECT_THAT(world.Choose(backend, options), testing::ElementsAre(3, 11));
  });
}

TEST(ScoreTopkTest, MaximumIgnoresTheOverlap) {
  TopkOptions options = kNothingForced;
  ForEachBackend([&](Backend& backend) {
    HandMade world(1000);
    world.SetMass(4 * 5 - 1, 1.0);  // of blocks 4 and 5, once each
    world.SetMass(4 * 9 + 1, 0.7);  // of block 9, twice
    options.block_score = BlockScore::kOverlapSum;
    EXPECT_THAT(world.Choose(backend, options), testing::ElementsAre(9));
    options.block_score = BlockScore::kOverlapMax;
    EXPECT_THAT(world.Choose(backend, options), testing::ElementsAre(4));  // a tie
  });
}

TEST(ScoreTopkTest, TiesGoToTheLowerIndex) {
  TopkOptions options = kNothingForced;
  options.num_selected_blocks = 3;
  ForEachBackend([&](Backend& backend) {
    HandMade world(64 * 40 - 1, 64, 64, 64);
    for (int64_t i = 0; i < 40; ++i) world.SetMass(i, i % 5 == 2 ? 2.0 : 1.0);
    EXPECT_THAT(world.Choose(backend, options), testing::ElementsAre(2, 7, 12));
    options.num_selected_blocks = 10;
    EXPECT_THAT(world.Choose(backend, options),
                testing::ElementsAre(0, 1, 2, 7, 12, 17, 22, 27, 32, 37));
    options.num_selected_blocks = 3;
  });
}

TEST(ScoreTopkTest, ForcedBlocksComeFirst) {
  ForEachBackend([&](Backend& backend) {
    HandMade world(1000);  // own block 15
    world.SetMass(4 * 7 + 1, 1.0);
    EXPECT_THAT(world.Choose(backend, {.num_selected_blocks = 4}),
                testing::ElementsAre(0, 7, 14, 15));
    // Init and local counts are not interchangeable.
    EXPECT_THAT(
        world.Choose(backend,
                     {.num_selected_blocks = 4, .num_initial_blocks = 2, .num_local_blocks = 1}),
        testing::ElementsAre(0, 1, 7, 15));
    EXPECT_THAT(world.Choose(backend, {.num_selected_blocks = 2}), testing::ElementsAre(0, 14));
    // A disjoint window has no local blocks: candidates end at page 15 − 2.
    EXPECT_THAT(world.Choose(backend, {.num_selected_blocks = 2, .window_size = 128}),
                testing::ElementsAre(0, 7));
    world.SetMass(4 * 13 + 1, 5.0);
    EXPECT_THAT(world.Choose(backend, {.num_selected_blocks = 2, .window_size = 128}),
                testing::ElementsAre(0, 7));
  });
}

TEST(ScoreTopkTest, FewCandidatesAreAllTaken) {
  ForEachBackend([&](Backend& backend) {
    EXPECT_THAT(HandMade(5).Choose(backend, {}), testing::ElementsAre(0));
    EXPECT_THAT(HandMade(64 * 6 - 1).Choose(backend, {}), testing::ElementsAre(0, 1, 2, 3, 4, 5));
    EXPECT_THAT(HandMade(100).Choose(backend, {.window_size = 128}), testing::IsEmpty());
    EXPECT_THAT(HandMade(191).Choose(backend, {.window_size = 128}), testing::IsEmpty());
    EXPECT_THAT(HandMade(192).Choose(backend, {.window_size = 128}), testing::ElementsAre(0));
  });
}

TEST(ScoreTopkTest, NanIsNeverChosen) {
  ForEachBackend([&](Backend& backend) {
    HandMade world(1000);
    world.SetMass(4 * 7 + 1, 1.0);
    world.SetScore(4 * 9 + 1, kNan);
    const float lse = 0;
    // With a sound log-sum-exp only the block with the NaN is out.
    TopkOptions options = kNothingForced;
    options.num_selected_blocks = 15;
    std::vector<int32_t> chosen = world.Choose(backend, options, &lse);
    EXPECT_EQ(chosen.size(), 15u);
    EXPECT_THAT(chosen, testing::Not(testing::Contains(9)));
    // Without, the softmax is NaN as a whole: the forced blocks stay.
    EXPECT_THAT(world.Choose(backend, {.num_selected_blocks = 6}), testing::ElementsAre(0, 14, 15));
    // A forced block stays though its score is NaN.
    HandMade forced(1000);
    forced.SetScore(4 * 14 + 1, kNan);
    EXPECT_THAT(forced.Choose(backend, {.num_selected_blocks = 4}, &lse),
                testing::IsSupersetOf({0, 14, 15}));
  });
}

// No window is complete though there are more candidates than may be taken.
TEST(ScoreTopkTest, NoVisibleWindow) {
  TopkOptions options = kNothingForced;
  options.num_selected_blocks = 2;
  ForEachBackend([&](Backend& backend) {
    EXPECT_THAT(HandMade(60, 64, 16, 16).Choose(backend, options), testing::ElementsAre(0, 1));
  });
}

}  // namespace
}  // namespace nsa::kernels
