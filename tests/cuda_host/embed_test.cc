#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {
namespace {

/// Makes a table's 16-bit and 32-bit floats finite, by the top bit of their exponents.
void ClearNans(WeightType type, std::vector<uint8_t>& table) {
  const int block_bytes = FindWeightBlock(type)->num_bytes;
  std::vector<int> high_bytes = {1};
  if (type == WeightType::kF32) high_bytes = {3};
  if (type == WeightType::kQ6_K) high_bytes = {209};
  if (type == WeightType::kQ4_1 || type == WeightType::kQ5_1 || type == WeightType::kQ4_K ||
      type == WeightType::kQ5_K) {
    high_bytes = {1, 3};
  }
  for (size_t begin = 0; begin < table.size(); begin += block_bytes) {
    for (const int at : high_bytes) table[begin + at] &= 0xBF;
  }
}

constexpr WeightType kTypes[] = {WeightType::kF32,  WeightType::kF16,  WeightType::kBF16,
                                 WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ5_0,
                                 WeightType::kQ5_1, WeightType::kQ8_0, WeightType::kQ4_K,
                                 WeightType::kQ5_K, WeightType::kQ6_K};

// Bit for bit. Bytes are such that no scale is NaN, which has many.
TEST(CudaEmbedTest, EqualsTheReference) {
  std::mt19937 random(1);
  constexpr int64_t kVocabulary = 50;
  for (const WeightType type : kTypes) {
    for (const int64_t columns : {1, 33, 576, 768, 2304}) {
      const WeightBlock& block = *FindWeightBlock(type);
      if (columns % block.num_elements != 0) continue;
      SCOPED_TRACE(block.name);
      std::vector<uint8_t> table(kVocabulary * RowBytes(type, columns));
      for (uint8_t& byte : table) byte = static_cast<uint8_t>(random());
      ClearNans(type, table);
      for (const int64_t num_rows : {0, 1, 9}) {
        std::vector<int32_t> ids(num_rows);
        for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocabulary);
        if (num_rows > 1) ids[0] = 0, ids[1] = kVocabulary - 1;
        std::vector<float> expected(num_rows * columns);
        EmbedParams p = {{table.data(), type, kVocabulary, columns},
                         ids.data(),
                         expected.data(),
                         num_rows,
                         columns == 768 ? 2.5f : 1.0f};
        reference::Embed(p);
        EXPECT_TRUE(SameBits(cuda_host::InEveryOrder([&] {
                               std::vector<float> y(expected.size());
                               p.y = y.data();
                               cuda::Stream stream;
                               cuda::Embed(stream, p);
                               return y;
                             }),
                             expected));
      }
    }
  }
}

TEST(CudaEmbedTest, TakesTokensFromTheirPlaces) {
  std::mt19937 random(2);
  constexpr int64_t kVocabulary = 50, kColumns = 1100;
  std::vector<float> table(kVocabulary * kColumns);
  for (float& value : table) value = static_cast<float>(random() % 1000);
  std::vector<int32_t> ids(20), places(20), sampled(20);
  for (size_t i = 0; i < ids.size(); ++i) {
    places[i] = static_cast<int32_t>(random() % 21) - 1;
    ids[i] = places[i] < 0 ? static_cast<int32_t>(random() % kVocabulary) : -7;
    sampled[i] = static_cast<int32_t>(random() % (kVocabulary + 2)) - 2;
  }
  std::vector<float> expected(20 * kColumns, 7);
  EmbedParams p = {.table = {table.data(), WeightType::kF32, kVocabulary, kColumns},
                   .ids = ids.data(),
                   .y = expected.data(),
                   .num_rows = 20,
                   .places = places.data(),
                   .sampled = sampled.data()};
  reference::Embed(p);
  EXPECT_TRUE(SameBits(cuda_host::InEveryOrder([&] {
                         std::vector<float> y(expected.size(), 7);
                         p.y = y.data();
                         cuda::Stream stream;
                         cuda::Embed(stream, p);
                         return y;
                       }),
                       expected));
}

TEST(CudaEmbedTest, RefusesAnIdOutsideTheTable) {
  const float table[4] = {};
  float y[2];
  cuda::Stream stream;
  for (const int32_t id : {-1, 2}) {
    cuda_host::ExpectError(
        [&] { cuda::Embed(stream, {{table, WeightType::kF32, 2, 2}, &id, y, 1}); });
  }
}

}  // namespace
}  // namespace nsa::kernels
