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
#include "tests/kernels/new_kv_rows.h"

namespace nsa::kernels {
namespace {

struct NewRows : NewKvRows {
  explicit NewRows(const AttentionCase& test_case)
      : NewKvRows(test_case, {{0, 7}, {63, 1}, {64, 0}, {100, 40}}) {
    k[KStride() + 1] = 1e-6f;
  }

  std::vector<std::byte> Write(const std::vector<AttentionSegment>& chunks, bool reference) const {
    const TestCache cache = EmptyCache();
    const RopeKvWriteParams params = Params(chunks, cache);
    cuda::Stream stream;
    if (reference) {
      reference::RopeKvWrite(params);
    } else {
      cuda::RopeKvWrite(stream, params, cuda::ShapeOf(chunks.data(), params.num_segments));
    }
    return cache.slots();
  }
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
