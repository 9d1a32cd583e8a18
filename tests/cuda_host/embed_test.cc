#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/reference/reference.h"
#include "tests/cuda_host/orders.h"

namespace nsa::kernels {
namespace {

TEST(CudaEmbedTest, EqualsTheReference) {
  std::mt19937 random(1);
  constexpr int64_t kVocabulary = 50;
  for (const int64_t columns : {1, 33, 576, 2100}) {
    for (const WeightType type : {WeightType::kF32, WeightType::kF16, WeightType::kBF16}) {
      std::vector<uint8_t> table(kVocabulary * RowBytes(type, columns));
      for (uint8_t& byte : table) byte = static_cast<uint8_t>(random() % 120);  // no NaN
      for (const int64_t num_rows : {0, 1, 9}) {
        std::vector<int32_t> ids(num_rows);
        for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocabulary);
        if (num_rows > 1) ids[0] = 0, ids[1] = kVocabulary - 1;
        std::vector<float> expected(num_rows * columns);
        EmbedParams p = {{table.data(), type, kVocabulary, columns},
                         ids.data(),
                         expected.data(),
                         num_rows,
                         columns == 33 ? 2.5f : 1.0f};
        reference::Embed(p);
        EXPECT_EQ(cuda_host::InEveryOrder([&] {
                    std::vector<float> y(expected.size());
                    p.y = y.data();
                    cuda::Stream stream;
                    cuda::Embed(stream, p);
                    return y;
                  }),
                  expected);
      }
    }
  }
}

TEST(CudaEmbedTest, RefusesAnIdOutsideTheTable) {
  const float table[4] = {};
  float y[2];
  cuda::Stream stream;
  for (const int32_t id : {-1, 2}) {
    EXPECT_THROW(cuda::Embed(stream, {{table, WeightType::kF32, 2, 2}, &id, y, 1}),
                 cuda_host::Error);
  }
}

}  // namespace
}  // namespace nsa::kernels
