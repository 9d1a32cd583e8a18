#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/scatter_world.h"

namespace nsa::kernels {
namespace {

constexpr int64_t kNumTokens = ScatterWorld::kNumTokens;

void Cuda(const CmpScatterParams& params) {
  cuda::Stream stream;
  cuda::CmpScatter(stream, params);
}

/// The compressed rows after calls of `chunk` tokens.
std::vector<std::byte> Scatter(const AttentionCase& c, int64_t chunk, int64_t rows_per_call) {
  ScatterWorld world(c);
  for (int64_t t = 0; t < kNumTokens; t += chunk) {
    world.Scatter(Cuda, t, std::min(kNumTokens, t + chunk), rows_per_call);
  }
  return world.cache.cmp_slots();
}

// Bit for bit, bytes that no closed window owns included.
TEST_P(AttentionTest, CudaCmpScatterEqualsTheReferenceInAnyChunks) {
  for (const bool absolute : {false, true}) {
    AttentionCase c = GetParam();
    c.absolute_rows = absolute;
    ScatterWorld whole(c);
    whole.Scatter(reference::CmpScatter, 0, kNumTokens, 10'000);
    const std::vector<std::byte>& expected = whole.cache.cmp_slots();
    EXPECT_TRUE(SameBits(cuda_host::InEveryOrder([&] { return Scatter(c, kNumTokens, 10'000); }),
                         expected));
    EXPECT_TRUE(SameBits(Scatter(c, 1, 10'000), expected));
    EXPECT_TRUE(SameBits(Scatter(c, 64, 3), expected));
  }
}

INSTANTIATE_TEST_SUITE_P(, AttentionTest, testing::ValuesIn(AttentionCases()), CaseName);

}  // namespace
}  // namespace nsa::kernels
