#include "kernels/cuda/mma_compressed.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/split_attention.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/cmp_call.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

/// `is_split`: splits have CTAs of their own.
CmpLeft Attend(const AttentionWorld& world, const std::vector<AttentionSegment>& segments,
               const CmpWanted& wanted, bool is_split = true, bool uses_tensor_cores = true) {
  CmpLeft left;
  const CmpAttnParams p = CmpParamsOf(world, segments, wanted, left);
  std::vector<float> workspace(is_split ? 1'000'000 : 0);
  cuda::Stream stream;
  cuda::LaunchSplitAttention(stream, "compressed",
                             {.query = p.query,
                              .reads = cuda::Reads::kCompressed,
                              .max_page_distance = p.max_page_distance,
                              .length = p.length,
                              .stride = p.stride,
                              .scores = p.scores,
                              .result = p.result,
                              .uses_tensor_cores = uses_tensor_cores},
                             cuda::ShapeOf(segments.data(), static_cast<int>(segments.size())),
                             {workspace.data(), static_cast<int64_t>(workspace.size())});
  return left;
}

void ExpectLikeReference(const AttentionWorld& world, const CmpWanted& wanted,
                         const CmpLeft& actual) {
  CmpLeft expected;
  reference::CmpAttn(CmpParamsOf(world, world.segments(), wanted, expected));
  ExpectClose(actual, expected, ToleranceOf(world.test_case()));
}

/// Near the reference; the same bits in every tile, with and without splits.
void ExpectExact(const AttentionWorld& world, const CmpWanted& wanted) {
  const CmpLeft left = Attend(world, world.segments(), wanted);
  ExpectLikeReference(world, wanted, left);
  const std::vector<float> all = left.All();
  EXPECT_TRUE(SameBits(Attend(world, world.segments(), wanted, false).All(), all)) << "splits show";
  for (const int32_t max_rows : {1, 5}) {
    std::vector<AttentionSegment> chunks = CutSegments(world.segments(), max_rows);
    std::shuffle(chunks.begin(), chunks.end(), std::mt19937(5));
    EXPECT_TRUE(SameBits(Attend(world, chunks, wanted, max_rows == 5).All(), all)) << max_rows;
  }
}

struct Shape {
  int group, head_dim_k, head_dim_v, length, stride;
  DType dtype = DType::kBF16;
  bool absolute = true;
  AttentionPrecision precision = AttentionPrecision::kFloat32;
};
std::vector<Shape> Shapes() {
  constexpr auto kRounded = AttentionPrecision::kSixteenBits;
  return {{1, 64, 64, 32, 16},
          {3, 128, 128, 64, 32, DType::kF16},
          {4, 192, 128, 64, 64},
          {16, 128, 128, 32, 16},
          {16, 64, 64, 16, 16, DType::kF16, false},
          {20, 96, 80, 8, 8, DType::kBF16, false},
          {4, 64, 48, 64, 32, DType::kBF16, false},
          {3, 128, 64, 64, 64, DType::kF16, false},
          {5, 32, 32, 4, 1, DType::kBF16, false},
          {70, 32, 32, 32, 16},
          {16, 128, 128, 32, 16, DType::kBF16, true, kRounded},
          {3, 128, 64, 64, 64, DType::kF16, false, kRounded}};
}
/// One row and many, before there is a window, over borders of pages and of tiles of 64 rows.
AttentionCase CaseOf(const Shape& shape, bool has_values = true) {
  const int64_t tile = int64_t{64} * shape.stride;
  const std::vector<SequenceRows> sequences = {{0, 3}, {tile - 3, 9}, {62, 1}};
  return {.name = "",
          .dtype = shape.dtype,
          .num_kv_heads = shape.group > 8 ? 1 : 2,
          .group = shape.group,
          .head_dim_k = shape.head_dim_k,
          .head_dim_v = shape.head_dim_v,
          .rotary_dim = shape.head_dim_k / 2,
          .length = shape.length,
          .stride = shape.stride,
          .sequences = sequences,
          .compressed_values = has_values,
          .absolute_rows = shape.absolute,
          .precision = shape.precision};
}
class CudaCompressedTest : public testing::TestWithParam<Shape> {
 protected:
  /// In pages: no limit, or some pages before it and some at it.
  CmpWanted All() const { return {.max_page_distance = GetParam().absolute ? -1 : 2}; }
};

TEST_P(CudaCompressedTest, IsExact) { ExpectExact(AttentionWorld(CaseOf(GetParam())), All()); }

TEST_P(CudaCompressedTest, ScoresAreTheSameWhateverElseIsWanted) {
  const AttentionWorld world(CaseOf(GetParam()));
  CmpWanted wanted = All();
  const CmpLeft all = Attend(world, world.segments(), wanted);
  wanted.out = false;
  const CmpLeft without_values = Attend(world, world.segments(), wanted);
  EXPECT_TRUE(SameBits(without_values.scores, all.scores));
  EXPECT_TRUE(SameBits(without_values.lse, all.lse));
  wanted.lse = false;
  EXPECT_TRUE(SameBits(Attend(world, world.segments(), wanted).scores, all.scores));
  const auto rows = CutSegments(world.segments(), 1);
  EXPECT_TRUE(SameBits(Attend(world, rows, wanted).scores, all.scores));
  const AttentionWorld without(CaseOf(GetParam(), false));
  EXPECT_TRUE(SameBits(Attend(without, without.segments(), wanted).scores, all.scores));
}

/// What score_topk is given of cmp_attn.
enum class Given { kNothing, kLse, kScores };

/// Lists and their lengths.
std::vector<int32_t> Choose(const AttentionWorld& world, const CmpWanted& wanted, Given given,
                            GroupReduction reduction, const std::vector<AttentionSegment>& segments,
                            int64_t rows_at_once) {
  CmpLeft left = Attend(world, world.segments(), wanted);
  const AttentionCase& c = world.test_case();
  const int64_t num_lists = int64_t{world.num_rows()} * c.num_kv_heads;
  std::vector<int32_t> lists(num_lists * 5);
  ScoreTopkParams params;
  params.query = world.Query(segments);
  params.length = c.length;
  params.stride = c.stride;
  params.max_page_distance = wanted.max_page_distance;
  params.group_reduction = reduction;
  params.num_selected_blocks = 4;
  params.num_local_blocks = 1;
  params.selected = lists.data();
  params.num_selected = &lists[num_lists * 4];
  if (given != Given::kNothing) params.cmp_lse = left.lse.data();
  if (given == Given::kScores) {
    params.cmp_scores = {left.scores.data(), CmpScoreStride(world.num_pages(), c.stride)};
  }
  const auto shape = cuda::ShapeOf(segments.data(), static_cast<int>(segments.size()));
  std::vector<float> workspace(rows_at_once * cuda::ScoreTopkRowFloats(params, shape), kUntouched);
  cuda::Stream stream;
  cuda::ScoreTopk(stream, params, shape,
                  {workspace.data(), static_cast<int64_t>(workspace.size())});
  return lists;
}

TEST_P(CudaCompressedTest, TheChoiceIsTheSameFromWhateverIsGiven) {
  const AttentionWorld world(CaseOf(GetParam()));
  const auto rows = CutSegments(world.segments(), 1);
  for (const GroupReduction reduction : {GroupReduction::kSum, GroupReduction::kMean}) {
    const auto choose = [&](Given given, const auto& segments, int64_t rows_at_once) {
      return Choose(world, All(), given, reduction, segments, rows_at_once);
    };
    const auto kept = choose(Given::kScores, world.segments(), world.num_rows());
    for (const Given given : {Given::kLse, Given::kNothing}) {
      EXPECT_EQ(choose(given, world.segments(), world.num_rows()), kept);
      EXPECT_EQ(choose(given, world.segments(), 5), kept);
      EXPECT_EQ(choose(given, rows, world.num_rows()), kept);
    }
  }
  cuda_host::InEveryOrder(
      [&] { return Choose(world, All(), Given::kLse, GroupReduction::kSum, world.segments(), 7); });
}

TEST_P(CudaCompressedTest, HasNoRaces) {
  const AttentionWorld world(CaseOf(GetParam()));
  for (const bool has_out : {true, false}) {
    CmpWanted wanted = All();
    wanted.out = has_out;
    cuda_host::InEveryOrder([&] { return Attend(world, world.segments(), wanted).All(); });
  }
}

TEST_P(CudaCompressedTest, ThePlainTwin) {
  const AttentionWorld world(CaseOf(GetParam()));
  const CmpWanted wanted = All();
  const CmpLeft tiles = Attend(world, world.segments(), wanted);
  const CmpLeft plain = Attend(world, world.segments(), wanted, true, false);
  ExpectLikeReference(world, wanted, plain);
  EXPECT_FALSE(SameBits(plain.out, tiles.out)) << "tensor cores were not used";
}

INSTANTIATE_TEST_SUITE_P(, CudaCompressedTest, testing::ValuesIn(Shapes()));

/// Three splits of compressed rows, for one row or some.
AttentionCase Long(int num_rows, bool absolute) {
  return {.name = "",
          .dtype = DType::kBF16,
          .num_kv_heads = 1,
          .group = 4,
          .head_dim_k = 32,
          .head_dim_v = 32,
          .rotary_dim = 32,
          .length = 8,
          .stride = 4,
          .sequences = {{4094, num_rows}, {2046, num_rows}},
          .absolute_rows = absolute};
}

TEST(CudaCompressedTilesTest, ManySplits) {
  ExpectExact(AttentionWorld(Long(3, true)), {});
  ExpectExact(AttentionWorld(Long(3, false)), {.max_page_distance = 20});
}

// Scores so far apart that most weights underflow.
TEST(CudaCompressedTilesTest, SteepScores) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    AttentionCase c = Long(2, true);
    c.dtype = dtype;
    AttentionWorld world(c);
    for (float& x : world.q()) x *= 60;
    ExpectExact(world, {});
  }
}

TEST(CudaCompressedTilesTest, EveryBarrierIsMissed) {
  for (const bool absolute : {true, false}) {
    for (const int num_rows : {1, 9}) {
      AttentionCase c = Long(num_rows, absolute);
      c.sequences.resize(1);
      const AttentionWorld world(c);
      for (const bool has_out : {true, false}) {
        const CmpWanted wanted = {.max_page_distance = absolute ? -1 : 40, .out = has_out};
        cuda_host::ExpectEveryBarrierIsMissed(
            [&] { return Attend(world, world.segments(), wanted, num_rows == 1).All(); });
      }
    }
  }
}

/// The groups' masses of all rows, with log-sum-exps as cmp_attn leaves them.
std::vector<float> Masses(const AttentionWorld& world, const CmpWanted& wanted,
                          const std::vector<float>& lse) {
  CmpLeft left;
  const CmpAttnParams p = CmpParamsOf(world, world.segments(), wanted, left);
  const int64_t lists = int64_t{world.num_rows()} * world.test_case().num_kv_heads;
  std::vector<float> masses(lists * p.scores.stride + 512, kUntouched);
  cuda::Stream stream;
  cuda::LaunchSplitAttention(
      stream, "masses",
      {.query = p.query,
       .reads = cuda::Reads::kCompressed,
       .max_page_distance = p.max_page_distance,
       .length = p.length,
       .stride = p.stride,
       .masses = {masses.data(), p.scores.stride, lse.data(), false},
       .is_batch = true},
      cuda::ShapeOf(world.segments().data(), static_cast<int>(world.segments().size())), {});
  return masses;
}

TEST(CudaCompressedTilesTest, EveryBarrierOfMassesIsMissed) {
  for (const bool absolute : {true, false}) {
    for (const int num_rows : {1, 9}) {
      AttentionCase c = Long(num_rows, absolute);
      c.sequences.resize(1);
      const AttentionWorld world(c);
      const CmpWanted wanted = {.max_page_distance = absolute ? -1 : 40};
      const std::vector<float> lse = Attend(world, world.segments(), wanted).lse;
      cuda_host::ExpectEveryBarrierIsMissed([&] { return Masses(world, wanted, lse); });
    }
  }
}

/// Writes a NaN into all of the value of compressed row `row` of the first sequence.
void MakeWild(AttentionWorld& world, int64_t row) {
  const AttentionCase& c = world.test_case();
  const PagedKv& kv = world.kv();
  const int rows = c.CmpRowsPerPage();
  for (int head = 0; head < c.num_kv_heads; ++head) {
    std::byte* slot = kv.cmp_slots +
                      world.segments()[0].page_table[row / rows] * kv.cmp_page_stride +
                      head * kv.cmp_head_stride + kv.cmp_v_offset;
    std::memset(slot + row % rows * c.head_dim_v * 2, 0xFF, static_cast<size_t>(c.head_dim_v) * 2);
  }
}

// A value that is not finite reaches those rows alone that read its compressed row.
TEST(CudaCompressedTilesTest, AWildValueReachesNoRowBeforeIt) {
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    AttentionWorld world(
        {.name = "", .dtype = dtype, .sequences = {{1100, 40}}, .absolute_rows = true});
    MakeWild(world, 69);  // its window ends with token 1119
    const CmpLeft rows = Attend(world, CutSegments(world.segments(), 1), {});
    const CmpLeft tiles = Attend(world, world.segments(), {});
    const auto row_floats = static_cast<int64_t>(tiles.out.size()) / 40;
    for (int64_t i = 0; i < 40 * row_floats; ++i) {
      ASSERT_EQ(std::isnan(tiles.out[i]), i >= 19 * row_floats) << i;
      ASSERT_TRUE(std::isnan(tiles.out[i]) || tiles.out[i] == rows.out[i]) << i;
    }
    EXPECT_TRUE(SameBits(tiles.lse, rows.lse));
  }
}

TEST(CudaCompressedTilesTest, OneWildQueryLeavesTheOthersAlone) {
  AttentionWorld world(
      {.name = "", .dtype = DType::kBF16, .sequences = {{1100, 3}}, .absolute_rows = true});
  const std::vector<float> expected = Attend(world, world.segments(), {}).out;
  world.q()[world.q_stride()] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> actual = Attend(world, world.segments(), {}).out;
  const auto row = static_cast<int64_t>(expected.size()) / 3;
  const int64_t head = world.test_case().head_dim_v;  // the first of row 1
  for (int64_t i = 0; i < 3 * row; ++i) {
    if (i >= row && i < row + head) {
      ASSERT_TRUE(std::isnan(actual[i])) << i;
    } else {
      ASSERT_EQ(actual[i], expected[i]) << i;
    }
  }
}

}  // namespace
}  // namespace nsa::kernels
