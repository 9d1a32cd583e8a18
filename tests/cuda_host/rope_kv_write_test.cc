#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

/// Several sequences of new rows, written into a fresh cache.
struct NewRows {
  explicit NewRows(const AttentionCase& test_case)
      : c(test_case), rope(c.rotary_dim, 4), table(12) {
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(1));
    int32_t row = 0;
    const int32_t* next = table.data();
    for (const SequenceRows& s : {SequenceRows{0, 7}, {63, 1}, {64, 0}, {100, 40}}) {
      segments.push_back({next, s.position, row, s.num_rows});
      row += s.num_rows;
      next += (s.position + s.num_rows) / kPageSize + 1;
    }
    k = RandomFloats(row * KStride(), 2);
    v = RandomFloats(row * VStride(), 3);
    k[5] = std::numeric_limits<float>::quiet_NaN();
    v[6] = -std::numeric_limits<float>::infinity();
    v[7] = 1e30f;
    v[8] = 1e-42f;
    k[KStride() + 1] = 1e-6f;
  }
  int64_t KStride() const { return int64_t{c.num_kv_heads} * c.head_dim_k + 2; }
  int64_t VStride() const { return int64_t{c.num_kv_heads} * c.head_dim_v + 3; }

  std::vector<std::byte> Write(const std::vector<AttentionSegment>& chunks, bool reference) const {
    TestCache cache(c, static_cast<int64_t>(table.size()));
    const auto num_segments = static_cast<int>(chunks.size());
    const RopeKvWriteParams params = {k.data(),      KStride(),    v.data(),     VStride(),
                                      chunks.data(), num_segments, cache.view(), rope.view()};
    cuda::Stream stream;
    if (reference) {
      reference::RopeKvWrite(params);
    } else {
      cuda::RopeKvWrite(stream, params, cuda::ShapeOf(chunks.data(), num_segments));
    }
    return cache.slots();
  }

  AttentionCase c;
  TestRope rope;
  std::vector<int32_t> table;
  std::vector<AttentionSegment> segments;
  std::vector<float> k, v;
};

/// NaNs of 16 bits all as the device writes them.
std::vector<std::byte> WithOneNan(DType dtype, std::vector<std::byte> bytes) {
  if (dtype != DType::kF16 && dtype != DType::kBF16) return bytes;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    uint16_t bits;
    std::memcpy(&bits, &bytes[i], 2);
    if (!std::isnan(dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits))) continue;
    if (bits == 0xFFFF) continue;  // nobody wrote there
    bits = 0x7FFF;
    std::memcpy(&bytes[i], &bits, 2);
  }
  return bytes;
}

TEST_P(AttentionTest, CudaRopeKvWriteEqualsReference) {
  const NewRows rows(GetParam());
  const DType dtype = rows.c.dtype;
  const std::vector<std::byte> expected = WithOneNan(dtype, rows.Write(rows.segments, true));
  EXPECT_TRUE(SameBits(cuda_host::InEveryOrder([&] { return rows.Write(rows.segments, false); }),
                       expected));
  for (const int32_t chunk : {1, 7}) {
    std::vector<AttentionSegment> chunks = CutSegments(rows.segments, chunk);
    std::shuffle(chunks.begin(), chunks.end(), std::mt19937(5));
    EXPECT_TRUE(SameBits(rows.Write(chunks, false), expected)) << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

}  // namespace
}  // namespace nsa::kernels
