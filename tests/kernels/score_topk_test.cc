#include "kernels/ops/score_topk.h"

#include <map>
#include <set>

#include "kernels/ops/cmp_attn.h"
#include "kernels/reference/paged_attention.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Settings of one call; the rest comes from the case.
struct TopkOptions {
  int num_selected_blocks = 6;
  int num_initial_blocks = 1;
  int num_local_blocks = 2;
  int64_t window_size = 0;
  int64_t max_page_distance = -1;
  int64_t decay_page_distance = -1;
  BlockScore block_score = BlockScore::kOverlapSum;
  GroupReduction group_reduction = GroupReduction::kSum;
  bool given_lse = false;
  bool given_scores = false;
  bool n_per_row = false;
};

std::vector<TopkOptions> AllOptions(const AttentionCase& c) {
  if (c.num_clusters > 0) {  // of full pages, so beside a window that selection never reads
    return {{.num_selected_blocks = 3, .window_size = 64},
            {.num_selected_blocks = 5,
             .window_size = 128,
             .max_page_distance = 3,
             .decay_page_distance = 5,
             .n_per_row = true},
            {.num_selected_blocks = 4,
             .num_initial_blocks = 0,
             .window_size = 192,
             .group_reduction = GroupReduction::kMean}};
  }
  std::vector<TopkOptions> options = {
      {},
      {.num_selected_blocks = 3,
       .num_initial_blocks = 0,
       .num_local_blocks = 1,
       .group_reduction = GroupReduction::kMean,
       .given_lse = true},
      {.num_selected_blocks = 7, .given_lse = true, .given_scores = true, .n_per_row = true},
      {.num_selected_blocks = 5, .window_size = 128, .max_page_distance = 3, .n_per_row = true},
      {.num_selected_blocks = 4, .decay_page_distance = 2},
      {.num_selected_blocks = 9,
       .window_size = 256,
       .max_page_distance = 31,
       .block_score = BlockScore::kOverlapMax,
       .given_lse = true},
      {.num_selected_blocks = 1,
       .num_initial_blocks = 0,
       .num_local_blocks = 0,
       .block_score = BlockScore::kOverlapMax},
  };
  // Absolute keys know no limit of distances.
  std::erase_if(options,
                [&c](const TopkOptions& o) { return c.absolute_rows && o.max_page_distance >= 0; });
  return options;
}

ScoreTopkParams Params(const AttentionCase& c, const AttentionQuery& query,
                       const TopkOptions& options) {
  ScoreTopkParams params;
  params.query = query;
  params.length = c.length;
  params.stride = c.stride;
  params.num_clusters = c.num_clusters;
  // Selection in the disjoint mode is by pages wherever distances are limited.
  params.sel_block_size = c.sel_block_size;
  params.max_page_distance = options.max_page_distance;
  params.decay_page_distance = options.decay_page_distance;
  params.block_score = options.block_score;
  params.group_reduction = options.group_reduction;
  params.num_selected_blocks = options.num_selected_blocks;
  params.num_initial_blocks = options.num_initial_blocks;
  params.num_local_blocks = options.num_local_blocks;
  params.window_size = options.window_size;
  return params;
}

/// n of each row, where it is per row.
std::vector<int32_t> RowN(const AttentionWorld& world, const TopkOptions& options) {
  std::vector<int32_t> n(world.num_rows());
  for (size_t i = 0; i < n.size(); ++i) {
    n[i] = static_cast<int32_t>(i * 7 % options.num_selected_blocks) + 1;
  }
  return n;
}

AttentionOp TopkOp(const AttentionWorld& world, const TopkOptions& options) {
  const AttentionCase& c = world.test_case();
  const std::vector<int32_t> row_n = RowN(world, options);
  const int64_t num_pages = world.num_pages();
  const int64_t num_rows = world.num_rows();
  return [=](Backend& backend, const AttentionQuery& query, AttentionResult& result) {
    ScoreTopkParams params = Params(c, query, options);
    if (options.n_per_row) params.row_num_selected_blocks = row_n.data();
    if (options.given_lse) {
      CmpAttnParams cmp;
      cmp.query = query;
      cmp.length = c.length;
      cmp.stride = c.stride;
      cmp.max_page_distance = options.max_page_distance;
      cmp.result.lse = result.lse.data();
      if (options.given_scores) {
        cmp.scores.stride = CmpScoreStride(num_pages, c.stride);
        result.cmp_scores.assign(num_rows * query.num_q_heads * cmp.scores.stride, kNan);
        cmp.scores.data = result.cmp_scores.data();
        params.cmp_scores = cmp.scores;
      }
      backend.CmpAttn(cmp);
      params.cmp_lse = result.lse.data();
    }
    params.selected = result.selected.data();
    params.num_selected = result.num_selected.data();
    backend.ScoreTopk(params);
  };
}

TEST_P(AttentionTest, ScoreTopkIsRowInvariant) {
  const AttentionWorld world(GetParam());
  for (const TopkOptions& options : AllOptions(GetParam())) {
    ExpectRowInvariant(world, TopkOp(world, options),
                       world.MakeResult(options.num_selected_blocks));
  }
}

/// The clusters of all candidates.
std::vector<reference::VisibleRow> ClusterRows(const AttentionSegment& segment, int64_t position,
                                               int64_t num_candidates, int num_clusters,
                                               const TopkOptions& options) {
  std::vector<reference::VisibleRow> rows;
  for (int64_t i = 0; i < num_candidates * num_clusters; ++i) {
    const int64_t page = i / num_clusters;
    int64_t distance = position / kPageSize - page;
    if (options.max_page_distance >= 0) distance = std::min(distance, options.max_page_distance);
    rows.push_back({segment.page_table[page], static_cast<int>(i % num_clusters), distance});
  }
  return rows;
}

/// Block scores less what distance takes.
std::vector<double> Decayed(const AttentionCase& c, const TopkOptions& options, int64_t position,
                            std::vector<double> scores) {
  for (size_t block = 0; options.decay_page_distance > 0 && block < scores.size(); ++block) {
    const auto page = static_cast<int64_t>(block) * c.sel_block_size / kPageSize;
    const int64_t distance = std::max(position / kPageSize - page, options.decay_page_distance);
    scores[block] *= static_cast<double>(options.decay_page_distance) / distance;
  }
  return scores;
}

/// Scores of one (row, KV head)'s blocks, in double, written down from Eq. 8 to 10 anew.
std::vector<double> OracleScores(const AttentionWorld& world, const TopkOptions& options,
                                 const AttentionSegment& segment, int64_t row, int64_t position,
                                 int kv_head, int64_t num_candidates) {
  const AttentionCase& c = world.test_case();
  const AttentionQuery query = world.Query(world.segments());
  const auto visible = c.num_clusters > 0
                           ? ClusterRows(segment, position, num_candidates, c.num_clusters, options)
                           : reference::VisibleWindows(query.kv, segment, position, c.length,
                                                       c.stride, options.max_page_distance);
  const reference::PagedRows rows = reference::CmpRows(query.kv, kPageSize / c.CmpRowsPerPage());
  std::vector<double> p(visible.size(), 0.0);
  for (int head = kv_head * c.group; head < (kv_head + 1) * c.group; ++head) {
    auto scores =
        reference::Scores(query, rows, kv_head, reference::LoadQuery(query, row, head, position),
                          visible, options.max_page_distance);
    for (size_t i = 0; c.num_clusters > 0 && i < scores.size(); ++i) {
      scores[i] += reference::LoadElement(
          DType::kF32, rows.Head(visible[i].page, kv_head) + query.kv.cmp_bias_offset,
          visible[i].row);
    }
    double sum = 0;
    for (const float s : scores) sum += std::exp(static_cast<double>(s));
    for (size_t i = 0; i < p.size(); ++i) p[i] += std::exp(static_cast<double>(scores[i])) / sum;
  }
  std::vector<double> block_scores(num_candidates, 0.0);
  for (size_t i = 0; c.num_clusters > 0 && i < p.size(); ++i) {
    block_scores[i / static_cast<size_t>(c.num_clusters)] += p[i];
  }
  if (c.num_clusters > 0) return Decayed(c, options, position, block_scores);
  for (int64_t token = 0; token < num_candidates * c.sel_block_size; token += c.stride) {
    // Each stride of a block gets the mass of each window that covers it.
    for (int64_t i = 0; i < static_cast<int64_t>(p.size()); ++i) {
      if (i * c.stride > token || i * c.stride + c.length <= token) continue;
      double& score = block_scores[token / c.sel_block_size];
      score = options.block_score == BlockScore::kOverlapSum ? score + p[i] : std::max(score, p[i]);
    }
  }
  return Decayed(c, options, position, block_scores);
}

/// Checks one list against the oracle: forced blocks are in, no better block is out.
void ExpectBestBlocks(const std::vector<int32_t>& list, int64_t num_candidates, int n,
                      const std::set<int32_t>& forced, const std::vector<double>& scores) {
  const std::set<int32_t> chosen(list.begin(), list.end());
  ASSERT_TRUE(std::is_sorted(list.begin(), list.end()));
  ASSERT_EQ(chosen.size(), list.size());
  ASSERT_EQ(static_cast<int64_t>(list.size()), std::min<int64_t>(n, num_candidates));
  double worst_in = std::numeric_limits<double>::infinity();
  double best_out = -1;
  for (int32_t block = 0; block < num_candidates; ++block) {
    if (forced.contains(block)) {
      ASSERT_TRUE(chosen.contains(block) || static_cast<int>(forced.size()) > n) << block;
    } else if (chosen.contains(block)) {
      worst_in = std::min(worst_in, scores[block]);
    } else {
      best_out = std::max(best_out, scores[block]);
    }
  }
  ASSERT_GE(worst_in, best_out - 1e-5);
}

void ExpectOracle(const AttentionWorld& world, const TopkOptions& options,
                  const AttentionResult& result) {
  const AttentionCase& c = world.test_case();
  const std::vector<int32_t> row_n = RowN(world, options);
  for (const AttentionSegment& segment : world.segments()) {
    for (int32_t i = 0; i < segment.num_rows; ++i) {
      const int64_t t = segment.position + i;
      const int64_t row = segment.row_begin + i;
      const int64_t num_candidates =
          options.window_size > 0
              ? PageAlignedWindowStart(t, options.window_size) / c.sel_block_size
              : t / c.sel_block_size + 1;
      const int n = options.n_per_row ? row_n[row] : options.num_selected_blocks;
      std::set<int32_t> forced;
      for (int b = 0; b < std::min<int64_t>(options.num_initial_blocks, num_candidates); ++b) {
        forced.insert(b);
      }
      for (int64_t b = std::max<int64_t>(0, num_candidates - options.num_local_blocks);
           options.window_size == 0 && b < num_candidates; ++b) {
        forced.insert(static_cast<int32_t>(b));
      }
      for (int head = 0; head < c.num_kv_heads; ++head) {
        const int64_t index = row * c.num_kv_heads + head;
        const auto begin = result.selected.begin() + index * options.num_selected_blocks;
        const auto end = begin + result.num_selected[index];
        ASSERT_TRUE(std::all_of(end, begin + options.num_selected_blocks,
                                [](int32_t b) { return b == -1; }));
        ASSERT_NO_FATAL_FAILURE(
            ExpectBestBlocks({begin, end}, num_candidates, n, forced,
                             OracleScores(world, options, segment, row, t, head, num_candidates)))
            << "position " << t << " head " << head;
      }
    }
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

/// One query whose window scores are set by hand: key of window i is (score, 0, …), query (1, 0,
/// …).
class HandMade {
 public:
  explicit HandMade(int64_t position, int length = 32, int stride = 16, int sel_block_size = 64)
      : c_{.name = "",
           .num_kv_heads = 1,
           .group = 1,
           .head_dim_k = 16,
           .head_dim_v = 16,
           .rotary_dim = 0,
           .length = length,
           .stride = stride,
           .sel_block_size = sel_block_size},
        cache_(c_, position / kPageSize + 1),
        rope_(0, 1),
        table_(position / kPageSize + 1),
        q_(16, 0.0f) {
    std::iota(table_.begin(), table_.end(), 0);
    q_[0] = 1;
    segment_ = {table_.data(), position, 0, 1};
    query_ = {q_.data(), 16, 1, 1.0f, &segment_, 1, cache_.view(), rope_.view()};
    for (int64_t i = 0; i < NumVisibleWindows(position, length, stride); ++i) SetScore(i, -40);
  }
  void SetScore(int64_t window, float score) {
    const CmpSlot slot = FindCmpSlot(window, c_.length, c_.stride);
    const PagedKv& kv = cache_.view();
    float* keys = reinterpret_cast<float*>(kv.cmp_slots + slot.page_index * kv.cmp_page_stride);
    const int rows = kPageSize / c_.stride;
    for (int dim = 0; dim < 16; ++dim) keys[dim * rows + slot.slot] = dim == 0 ? score : 0.0f;
  }
  /// Window `window` gets a share of `mass` before normalisation.
  void SetMass(int64_t window, double mass) {
    SetScore(window, static_cast<float>(std::log(mass)));
  }

  std::vector<int32_t> Choose(Backend& backend, const TopkOptions& options,
                              const float* lse = nullptr) const {
    ScoreTopkParams params = Params(c_, query_, options);
    params.cmp_lse = lse;
    std::vector<int32_t> selected(options.num_selected_blocks, -99);
    int32_t num_selected = -99;
    params.selected = selected.data();
    params.num_selected = &num_selected;
    backend.ScoreTopk(params);
    EXPECT_THAT(std::vector<int32_t>(selected.begin() + num_selected, selected.end()),
                testing::Each(-1));
    selected.resize(num_selected);
    return selected;
  }

 private:
  AttentionCase c_;
  TestCache cache_;
  TestRope rope_;
  std::vector<int32_t> table_;
  std::vector<float> q_;
  AttentionSegment segment_;
  AttentionQuery query_;
};

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
