#include "kernels/cuda/split_attention.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

/// full_attn, or win_attn with a window, by the reference or by the kernels.
struct Op {
  int64_t window_size = -1;  // −1: full_attn
  bool page_aligned = false;

  void Reference(const AttentionQuery& query, const BranchOutput& result) const {
    if (window_size < 0) return reference::FullAttn({query, result});
    reference::WinAttn({query, window_size, page_aligned, result});
  }
  void Cuda(const AttentionQuery& query, const BranchOutput& result,
            std::vector<float>& workspace) const {
    cuda::Stream stream;
    const cuda::SegmentsShape shape = cuda::ShapeOf(query.segments, query.num_segments);
    const cuda::Workspace space = {workspace.data(), static_cast<int64_t>(workspace.size())};
    if (window_size < 0) return cuda::FullAttn(stream, {query, result}, shape, space);
    cuda::WinAttn(stream, {query, window_size, page_aligned, result}, shape, space);
  }
};

constexpr Op kOps[] = {{}, {1, false}, {63, false}, {512, false}, {128, true}, {512, true}};

/// Output and log-sum-exp in one vector. `is_split`: splits have CTAs of their own.
std::vector<float> Attend(const AttentionWorld& world, const Op& op,
                          const std::vector<AttentionSegment>& segments, bool is_split) {
  AttentionResult result = world.MakeResult();
  std::vector<float> workspace(is_split ? 4'000'000 : 0);
  op.Cuda(world.Query(segments), result.branch(), workspace);
  result.out.insert(result.out.end(), result.lse.begin(), result.lse.end());
  return result.out;
}

/// Against the reference; with and without splits, and row by row, the same bits.
void ExpectExact(const AttentionWorld& world, const Op& op) {
  AttentionResult expected = world.MakeResult();
  op.Reference(world.Query(world.segments()), expected.branch());
  const std::vector<float> whole = Attend(world, op, world.segments(), false);
  const auto middle = whole.begin() + static_cast<int64_t>(expected.out.size());
  ExpectClose({whole.begin(), middle}, expected.out, ToleranceOf(world.test_case()));
  ExpectClose({middle, whole.end()}, expected.lse, ToleranceOf(world.test_case()));
  EXPECT_TRUE(SameBits(Attend(world, op, world.segments(), true), whole)) << "splits show";
  std::vector<AttentionSegment> chunks = CutSegments(world.segments(), 1);
  std::shuffle(chunks.begin(), chunks.end(), std::mt19937(5));
  EXPECT_TRUE(SameBits(Attend(world, op, chunks, true), whole)) << "chunks show";
}

/// The shared cases, with few rows: around the borders of pages and of splits.
AttentionCase Small(AttentionCase c) {
  c.sequences = {{0, 1}, {63, 2}, {37, 0}, {511, 2}, {1090, 1}};
  return c;
}

TEST_P(AttentionTest, CudaAttentionIsExact) {
  const AttentionWorld world(Small(GetParam()));
  for (const Op& op : kOps) {
    SCOPED_TRACE(op.window_size);
    ExpectExact(world, op);
  }
}

TEST_P(AttentionTest, CudaAttentionHasNoRaces) {
  const AttentionWorld world(Small(GetParam()));
  for (const bool is_split : {true, false}) {
    cuda_host::InEveryOrder([&] { return Attend(world, kOps[0], world.segments(), is_split); });
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);
INSTANTIATE_TEST_SUITE_P(Rounded, AttentionTest, testing::ValuesIn(RoundedCases()), CaseName);

// A precision that nobody asked for would cost two thirds of the tensor cores' time.
TEST(CudaAttentionTest, RoundingShows) {
  for (AttentionCase c : RoundedCases()) {
    SCOPED_TRACE(c.name);
    const AttentionWorld rounded(Small(c));
    c.precision = AttentionPrecision::kFloat32;
    const AttentionWorld exact(Small(c));
    EXPECT_FALSE(SameBits(Attend(rounded, {}, rounded.segments(), false),
                          Attend(exact, {}, exact.segments(), false)));
  }
}

// Many splits, and scores so far apart that most weights underflow.
TEST(CudaAttentionTest, LongContextWithSteepScores) {
  AttentionWorld world(
      {.name = "", .dtype = DType::kBF16, .num_kv_heads = 1, .sequences = {{4094, 3}}});
  for (float& x : world.q()) x *= 60;
  ExpectExact(world, {});
}

// Beyond what a float16 holds.
TEST(CudaAttentionTest, Float16WithHugeQueries) {
  AttentionWorld world({.name = "", .dtype = DType::kF16, .sequences = {{600, 2}}});
  for (float& x : world.q()) x *= 1e6;
  ExpectExact(world, {});
  for (float& x : world.q()) x *= 1e-12;
  ExpectExact(world, {});
}

// The kernels that 16-bit caches have where tensor cores cannot read them.
TEST(CudaAttentionTest, ThePlainTwinOfTensorCores) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const AttentionWorld world({.name = "", .dtype = dtype, .sequences = {{62, 3}, {1090, 2}}});
    const AttentionQuery query = world.Query(world.segments());
    AttentionResult expected = world.MakeResult(), actual = world.MakeResult();
    reference::FullAttn({query, expected.branch()});
    cuda::Stream stream;
    cuda::LaunchSplitAttention(
        stream, "twin", {.query = query, .result = actual.branch(), .uses_tensor_cores = false},
        cuda::ShapeOf(query.segments, query.num_segments), {});
    ExpectClose(actual.out, expected.out, kTolerance);
    ExpectClose(actual.lse, expected.lse, kTolerance);
  }
}

TEST(CudaAttentionTest, EveryBarrierIsMissed) {
  struct Shape {
    DType dtype;
    int group, num_rows;
  };
  // Warps that share lines, and (the last two) warps with lines of their own.
  for (const Shape& shape : {Shape{DType::kF32, 4, 1},
                             {DType::kF32, 4, 7},
                             {DType::kBF16, 4, 1},
                             {DType::kBF16, 4, 7},
                             {DType::kF8E4M3, 4, 7},
                             {DType::kF8E4M3, 16, 3},
                             {DType::kBF16, 16, 6}}) {
    const AttentionWorld world({.name = "",
                                .dtype = shape.dtype,
                                .num_kv_heads = 1,
                                .group = shape.group,
                                .sequences = {{1084, shape.num_rows}}});
    for (const bool is_split : {true, false}) {
      cuda_host::ExpectEveryBarrierIsMissed(
          [&] { return Attend(world, kOps[0], world.segments(), is_split); });
    }
  }
}

TEST(CudaAttentionTest, WideTilesHaveNoRaces) {
  for (const int group : {7, 16}) {
    const AttentionWorld world({.name = "",
                                .dtype = DType::kBF16,
                                .num_kv_heads = 1,
                                .group = group,
                                .sequences = {{505, 18}}});
    for (const bool is_split : {true, false}) {
      cuda_host::InEveryOrder([&] { return Attend(world, kOps[0], world.segments(), is_split); });
    }
  }
}

// As many rows as a CTA can have, whose windows begin in two pages, and in two splits.
TEST(CudaAttentionTest, TilesOfManyRows) {
  const AttentionWorld world({.name = "",
                              .dtype = DType::kBF16,
                              .num_kv_heads = 1,
                              .group = 1,
                              .sequences = {{1000, 135}},
                              .precision = AttentionPrecision::kSixteenBits});
  for (const Op& op : {Op{}, Op{72, false}, Op{128, true}, Op{512, false}}) {
    SCOPED_TRACE(op.window_size);
    const std::vector<float> rows = Attend(world, op, CutSegments(world.segments(), 1), false);
    for (const bool is_split : {true, false}) {
      EXPECT_TRUE(SameBits(Attend(world, op, world.segments(), is_split), rows)) << is_split;
    }
  }
}

TEST(CudaAttentionTest, NoRows) {
  AttentionWorld world({.name = "", .dtype = DType::kBF16, .sequences = {{70, 1}}});
  std::vector<AttentionSegment> segments = world.segments();
  segments[0].num_rows = 0;
  const std::vector<float> untouched = world.MakeResult().out;
  const std::vector<float> result = Attend(world, {}, segments, false);
  for (size_t i = 0; i < untouched.size(); ++i) ASSERT_EQ(result[i], untouched[i]);
}

// Tiles of several rows: chunks that begin and end anywhere, over borders of pages and of splits,
// in groups that divide 16 and 32 or do not, give the bits of rows one by one.
TEST(CudaAttentionTest, RowsOfATileAreAsThoughAlone) {
  struct Shape {
    int group, head_dim_k, head_dim_v;
  };
  for (const Shape& shape : {Shape{1, 64, 64},
                             {3, 192, 128},
                             {7, 64, 64},
                             {16, 128, 128},
                             {16, 192, 128},
                             {20, 64, 64}}) {
    SCOPED_TRACE(testing::Message() << "group " << shape.group << ", " << shape.head_dim_k);
    const AttentionWorld world({.name = "",
                                .dtype = DType::kBF16,
                                .num_kv_heads = 1,
                                .group = shape.group,
                                .head_dim_k = shape.head_dim_k,
                                .head_dim_v = shape.head_dim_v,
                                .sequences = {{505, 15}, {0, 2}, {70, 1}}});
    for (const Op& op : {Op{}, Op{72, false}}) {
      const std::vector<float> rows = Attend(world, op, CutSegments(world.segments(), 1), false);
      for (const int num_rows : {4, 64}) {
        const auto chunks = CutSegments(world.segments(), num_rows);
        for (const bool is_split : {true, false}) {
          EXPECT_TRUE(SameBits(Attend(world, op, chunks, is_split), rows)) << num_rows;
        }
      }
    }
  }
}

// A value that is not finite reaches those rows alone that read its token.
TEST(CudaAttentionTest, AWildValueReachesNoRowBeforeIt) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    AttentionWorld world({.name = "", .dtype = dtype, .sequences = {{70, 20}}});
    const AttentionCase& c = world.test_case();
    const std::vector<float> wild(int64_t{c.num_kv_heads} * c.head_dim_v,
                                  std::numeric_limits<float>::quiet_NaN());
    const AttentionSegment token = {world.segments()[0].page_table, 84, 0, 1};
    RopeKvWriteParams write;
    write.k = wild.data();
    write.v = wild.data();
    write.segments = &token;
    write.num_segments = 1;
    write.kv = world.kv();
    write.rope = world.rope().view();
    world.reference().RopeKvWrite(write);
    const std::vector<float> rows = Attend(world, {}, CutSegments(world.segments(), 1), false);
    const std::vector<float> tiles = Attend(world, {}, world.segments(), false);
    const int64_t row_floats = int64_t{world.num_q_heads()} * c.head_dim_v;
    for (int64_t i = 0; i < 20 * row_floats; ++i) {
      ASSERT_EQ(std::isnan(tiles[i]), i >= 14 * row_floats) << i;
      ASSERT_TRUE(std::isnan(tiles[i]) || tiles[i] == rows[i]) << i;
    }
  }
}

TEST(CudaAttentionTest, OneWildQueryLeavesTheOthersAlone) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const AttentionCase c = {.name = "", .dtype = dtype, .sequences = {{600, 3}}};
    AttentionWorld world(c);
    const std::vector<float> expected = Attend(world, {}, world.segments(), true);
    world.q()[world.q_stride()] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> actual = Attend(world, {}, world.segments(), true);
    const int64_t head = int64_t{world.num_q_heads()} * c.head_dim_v;  // the first of row 1
    for (int64_t i = 0; i < 3 * head; ++i) {
      if (i >= head && i < head + c.head_dim_v) {
        ASSERT_TRUE(std::isnan(actual[i])) << i;
      } else {
        ASSERT_EQ(actual[i], expected[i]) << i;
      }
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
