#include "kernels/ops/score_topk.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"
#include "tests/kernels/hand_made_scores.h"
#include "tests/kernels/score_topk_oracle.h"

namespace nsa::kernels {
namespace {

/// Runs score_topk with a workspace for `rows_at_once` rows.
void RunTopk(const ScoreTopkParams& params, int64_t rows_at_once) {
  const cuda::SegmentsShape shape = cuda::ShapeOf(params.query.segments, params.query.num_segments);
  std::vector<float> workspace(rows_at_once * cuda::ScoreTopkRowFloats(params, shape), kNan);
  cuda::Stream stream;
  cuda::ScoreTopk(stream, params, shape,
                  {workspace.data(), static_cast<int64_t>(workspace.size())});
}

/// The choice of all rows, their log-sum-exps and scores from cmp_attn where the options say so.
AttentionResult Choose(const AttentionWorld& world, const TopkOptions& options,
                       const std::vector<AttentionSegment>& segments, int64_t rows_at_once) {
  const AttentionCase& c = world.test_case();
  AttentionResult result = world.MakeResult(options.num_selected_blocks);
  ScoreTopkParams params = Params(c, world.Query(segments), options);
  const std::vector<int32_t> row_n = RowN(world, options);
  if (options.n_per_row) params.row_num_selected_blocks = row_n.data();
  if (options.given_lse) {
    CmpAttnParams cmp = {params.query, c.length, c.stride, options.max_page_distance, {}, {}};
    cmp.result.lse = result.lse.data();
    if (options.given_scores) {
      cmp.scores.stride = CmpScoreStride(world.num_pages(), c.stride);
      result.cmp_scores.assign(world.num_rows() * world.num_q_heads() * cmp.scores.stride, kNan);
      cmp.scores.data = result.cmp_scores.data();
      params.cmp_scores = cmp.scores;
    }
    cuda::Stream stream;
    cuda::CmpAttn(stream, cmp, cuda::ShapeOf(segments.data(), static_cast<int>(segments.size())),
                  {});
    params.cmp_lse = result.lse.data();
  }
  params.selected = result.selected.data();
  params.num_selected = result.num_selected.data();
  RunTopk(params, rows_at_once);
  return result;
}

/// Lists and their lengths in one vector.
std::vector<int32_t> Lists(const AttentionResult& result) {
  std::vector<int32_t> lists = result.selected;
  lists.insert(lists.end(), result.num_selected.begin(), result.num_selected.end());
  return lists;
}

/// The shared cases with few rows: before there is a window, few and many candidates.
AttentionCase Small(AttentionCase c) {
  c.sequences = {{0, 2}, {62, 3}, {37, 0}, {511, 2}, {1200, 3}};
  return c;
}

TEST_P(AttentionTest, CudaScoreTopkChoosesTheBestBlocks) {
  AttentionWorld world(Small(GetParam()));
  for (float& x : world.q()) x *= 3;  // scores far enough apart
  for (const TopkOptions& options : AllOptions(GetParam())) {
    SCOPED_TRACE(options.num_selected_blocks);
    AttentionResult expected = world.MakeResult(options.num_selected_blocks);
    TopkOp(world, options)(world.reference(), world.Query(world.segments()), expected);
    const AttentionResult actual = Choose(world, options, world.segments(), world.num_rows());
    // Equal lists are right as the reference's are; different ones must be as good.
    if (!SameBits(actual.selected, expected.selected)) {
      ASSERT_NO_FATAL_FAILURE(ExpectOracle(world, options, actual));
    }
    EXPECT_TRUE(SameBits(actual.num_selected, expected.num_selected));
    // With less memory, and row by row, the same.
    EXPECT_TRUE(SameBits(Lists(Choose(world, options, world.segments(), 3)), Lists(actual)));
    std::vector<AttentionSegment> chunks = CutSegments(world.segments(), 1);
    std::shuffle(chunks.begin(), chunks.end(), std::mt19937(5));
    EXPECT_TRUE(SameBits(Lists(Choose(world, options, chunks, 1)), Lists(actual)));
  }
}

// What is rounded may choose other blocks, the same ones in every batch and from every memory.
TEST(CudaScoreTopkTest, RoundedScoresChooseTheSameInEveryBatch) {
  for (const AttentionCase& c : RoundedCases()) {
    SCOPED_TRACE(c.name);
    const AttentionWorld world(Small(c));
    for (const TopkOptions& options : AllOptions(c)) {
      const std::vector<int32_t> lists =
          Lists(Choose(world, options, world.segments(), world.num_rows()));
      EXPECT_TRUE(SameBits(Lists(Choose(world, options, world.segments(), 3)), lists));
      const std::vector<AttentionSegment> rows = CutSegments(world.segments(), 1);
      EXPECT_TRUE(SameBits(Lists(Choose(world, options, rows, 1)), lists));
    }
  }
}

TEST_P(AttentionTest, CudaScoreTopkHasNoRaces) {
  const AttentionWorld world(Small(GetParam()));
  for (const TopkOptions& options : AllOptions(GetParam())) {
    cuda_host::InEveryOrder(
        [&] { return Lists(Choose(world, options, world.segments(), world.num_rows())); });
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Clusters, AttentionTest, testing::ValuesIn(ClusterCases()), CaseName);

/// What the kernels choose in a hand-made world, which is what the reference does.
std::vector<int32_t> Chosen(const HandMade& world, const TopkOptions& options,
                            const float* lse = nullptr) {
  const std::vector<int32_t> chosen =
      world.ChooseBy([](const ScoreTopkParams& params) { RunTopk(params, 1); }, options, lse);
  EXPECT_EQ(chosen, world.ChooseBy(&reference::ScoreTopk, options, lse));
  return chosen;
}

TEST(CudaScoreTopkTest, TiesGoToTheLowerIndex) {
  HandMade world(64 * 40 - 1, 64, 64, 64);
  for (int64_t i = 0; i < 40; ++i) world.SetMass(i, i % 5 == 2 ? 2.0 : 1.0);
  for (int n = 1; n <= 39; ++n) {
    EXPECT_EQ(Chosen(world, {.num_selected_blocks = n}).size(), n);
    Chosen(world, {.num_selected_blocks = n, .num_initial_blocks = 0, .num_local_blocks = 0});
  }
}

TEST(CudaScoreTopkTest, ForcedBlocksComeFirst) {
  HandMade world(1000);  // own block 15
  world.SetMass(4 * 7 + 1, 1.0);
  world.SetMass(4 * 13 + 1, 5.0);
  EXPECT_THAT(Chosen(world, {.num_selected_blocks = 4}), testing::ElementsAre(0, 13, 14, 15));
  EXPECT_THAT(Chosen(world, {.num_selected_blocks = 2}), testing::ElementsAre(0, 14));
  EXPECT_THAT(Chosen(world, {.num_selected_blocks = 2, .window_size = 128}),
              testing::ElementsAre(0, 7));
  Chosen(world, {.num_selected_blocks = 4, .num_initial_blocks = 2, .num_local_blocks = 1});
}

TEST(CudaScoreTopkTest, FewCandidatesAreAllTaken) {
  EXPECT_THAT(Chosen(HandMade(5), {}), testing::ElementsAre(0));
  EXPECT_THAT(Chosen(HandMade(64 * 6 - 1), {}), testing::ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(Chosen(HandMade(100), {.window_size = 128}), testing::IsEmpty());
  EXPECT_THAT(Chosen(HandMade(192), {.window_size = 128}), testing::ElementsAre(0));
}

TEST(CudaScoreTopkTest, NanIsNeverChosen) {
  HandMade world(1000);
  world.SetMass(4 * 7 + 1, 1.0);
  world.SetScore(4 * 9 + 1, kNan);
  const float lse = 0;
  // With a sound log-sum-exp only the block with the NaN is out.
  const std::vector<int32_t> chosen = Chosen(
      world, {.num_selected_blocks = 15, .num_initial_blocks = 0, .num_local_blocks = 0}, &lse);
  EXPECT_EQ(chosen.size(), 15);
  EXPECT_THAT(chosen, testing::Not(testing::Contains(9)));
  // Without, the softmax is NaN as a whole: the forced blocks stay.
  EXPECT_THAT(Chosen(world, {.num_selected_blocks = 6}), testing::ElementsAre(0, 14, 15));
  HandMade forced(1000);
  forced.SetScore(4 * 14 + 1, kNan);
  EXPECT_THAT(Chosen(forced, {.num_selected_blocks = 4}, &lse), testing::IsSupersetOf({0, 14, 15}));
}

TEST(CudaScoreTopkTest, NoVisibleWindow) {
  EXPECT_THAT(Chosen(HandMade(60, 64, 16, 16),
                     {.num_selected_blocks = 2, .num_initial_blocks = 0, .num_local_blocks = 0}),
              testing::ElementsAre(0, 1));
}

// Several warps choose, and several CTAs score the blocks of one row.
TEST(CudaScoreTopkTest, ManyCandidates) {
  std::mt19937 random(9);
  for (const int64_t num_blocks : {1030, 2600}) {
    HandMade world(8 * num_blocks - 1, 8, 8, 8);
    for (int64_t i = 0; i < num_blocks; ++i) {
      world.SetScore(i, static_cast<float>(random() % 100) / 10);
    }
    for (const int n : {1, 16, 700}) Chosen(world, {.num_selected_blocks = n});
    cuda_host::InEveryOrder([&] { return Chosen(world, {.num_selected_blocks = 100}); });
  }
}

// More keys than shared memory has room for.
TEST(CudaScoreTopkTest, KeysThatStayInTheWorkspace) {
  const int64_t num_blocks = 33000;
  HandMade world(8 * num_blocks - 1, 8, 8, 8);
  for (int64_t i = 0; i < num_blocks; i += 7) world.SetScore(i, static_cast<float>(i % 1001) / 200);
  Chosen(world, {.num_selected_blocks = 20});
}

TEST(CudaScoreTopkTest, EveryBarrierIsMissed) {
  HandMade many(8 * 1030 - 1, 8, 8, 8);
  for (int64_t i = 0; i < 1030; ++i) many.SetScore(i, static_cast<float>(i * 37 % 1030) / 100);
  AttentionWorld world({.name = "",
                        .dtype = DType::kInt8,
                        .group = 3,
                        .rotary_dim = 32,
                        .sequences = {{1500, 1}},
                        .num_clusters = 8});
  ScoreTopkParams params = many.MakeParams({.num_selected_blocks = 100, .lse_windows = 4});
  cuda_host::ExpectEveryBarrierIsMissed([&] {
    // Log-sum-exps over coarse windows, many blocks; far clusters.
    std::vector<int32_t> lists(101);
    params.selected = lists.data();
    params.num_selected = &lists[100];
    RunTopk(params, 1);
    const std::vector<int32_t> clusters =
        Lists(Choose(world, {.num_selected_blocks = 5, .window_size = 128, .max_page_distance = 3},
                     world.segments(), 1));
    lists.insert(lists.end(), clusters.begin(), clusters.end());
    return lists;
  });
}

}  // namespace
}  // namespace nsa::kernels
