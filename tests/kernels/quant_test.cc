#include "kernels/quant.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

namespace nsa::kernels {
namespace {

std::string ReadGolden(const char* name = "dequant.bin") {
  const char* root = std::getenv("NSA_SOURCE_DIR");
  std::ifstream file(std::string(root ? root : ".") + "/tests/golden/dequant/" + name,
                     std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Bits are compared, so that −0, the order of operations and every rounding count.
TEST(QuantTest, EqualsThePythonPackageBitForBit) {
  const std::string golden = ReadGolden();
  ASSERT_FALSE(golden.empty()) << "run from the repository's root or set NSA_SOURCE_DIR";
  size_t at = 0;
  int num_records = 0;
  for (; at < golden.size(); ++num_records) {
    uint32_t header[2];
    std::memcpy(header, golden.data() + at, sizeof(header));
    at += sizeof(header);
    const auto type = static_cast<WeightType>(header[0]);
    const int64_t count = header[1];
    ASSERT_NE(FindWeightBlock(type), nullptr);
    const auto num_bytes = static_cast<size_t>(RowBytes(type, count));
    std::vector<float> actual(static_cast<size_t>(count));
    std::vector<char> shifted(num_bytes + 1);  // an odd address
    std::memcpy(shifted.data() + 1, golden.data() + at, num_bytes);
    DequantizeRow(type, shifted.data() + 1, count, actual.data());
    at += num_bytes;
    for (float value : actual) {
      float expected;
      std::memcpy(&expected, golden.data() + at, sizeof(expected));
      at += sizeof(expected);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(value)) << FindWeightBlock(type)->name;
      } else {
        ASSERT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(expected))
            << FindWeightBlock(type)->name << " " << value << " " << expected;
      }
    }
  }
  EXPECT_EQ(num_records, 11);
}

TEST(QuantTest, RoundsAsThePythonPackageDoes) {
  const std::string golden = ReadGolden("quantise.bin");
  ASSERT_FALSE(golden.empty()) << "run from the repository's root or set NSA_SOURCE_DIR";
  uint32_t count = 0;
  std::memcpy(&count, golden.data(), sizeof(count));
  std::vector<float> values(count);
  std::memcpy(values.data(), golden.data() + 4, count * sizeof(float));
  size_t at = 4 + count * sizeof(float);
  int num_types = 0;
  for (; at < golden.size(); ++num_types) {
    uint32_t type = 0;
    std::memcpy(&type, golden.data() + at, sizeof(type));
    at += sizeof(type);
    const auto num_bytes = static_cast<size_t>(RowBytes(static_cast<WeightType>(type), count));
    std::string actual(num_bytes, '\0');
    QuantizeRow(static_cast<WeightType>(type), values.data(), count, actual.data());
    EXPECT_EQ(actual, golden.substr(at, num_bytes)) << type;
    at += num_bytes;
  }
  EXPECT_EQ(num_types, 4);
}

TEST(QuantTest, ABlockThatIsNotFiniteBecomesNan) {
  std::vector<float> values(64, 1.0f), back(64);
  values[40] = std::numeric_limits<float>::infinity();
  for (const WeightType type : {WeightType::kQ8_0, WeightType::kQ4_0}) {
    std::string bytes(static_cast<size_t>(RowBytes(type, 64)), '\0');
    QuantizeRow(type, values.data(), 64, bytes.data());
    DequantizeRow(type, bytes.data(), 64, back.data());
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(std::isnan(back[i]), i >= 32) << i;
  }
}

TEST(QuantTest, UnknownTypesHaveNoBlock) {
  for (uint32_t value : {4u, 5u, 9u, 10u, 11u, 15u, 29u, 31u, 0xffffffffu}) {
    EXPECT_EQ(FindWeightBlock(static_cast<WeightType>(value)), nullptr) << value;
  }
}

TEST(QuantTest, RowBytesCountsWholeBlocks) {
  EXPECT_EQ(RowBytes(WeightType::kQ4_1, 576), 360);
  EXPECT_EQ(RowBytes(WeightType::kQ6_K, 512), 420);
  EXPECT_EQ(RowBytes(WeightType::kBF16, 7), 14);
  EXPECT_EQ(RowBytes(WeightType::kQ8_0, 0), 0);
  EXPECT_DEATH(RowBytes(WeightType::kQ8_0, 33), "check failed");
}

TEST(QuantTest, EveryF16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToF32(static_cast<uint16_t>(bits));
    const uint16_t back = F32ToF16(value);
    if (std::isnan(value)) {
      EXPECT_GT(back & 0x7fff, 0x7c00);
    } else {
      ASSERT_EQ(back, bits);
    }
  }
  EXPECT_EQ(F16ToF32(0x0001), 0x1p-24f);
  EXPECT_EQ(F16ToF32(0x7bff), 65504.0f);
}

// Between two neighbours lies their middle: it goes to the even one, its neighbours to the nearer.
TEST(QuantTest, F32ToF16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = F16ToF32(static_cast<uint16_t>(bits));
    const float high = F16ToF32(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;
    ASSERT_EQ(F32ToF16(middle), bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(F32ToF16(std::nextafter(middle, 0.0f)), bits);
    ASSERT_EQ(F32ToF16(std::nextafter(middle, high)), bits + 1);
    ASSERT_EQ(F32ToF16(-std::nextafter(middle, high)), (bits + 1) | 0x8000);
  }
  EXPECT_EQ(F32ToF16(65519.99f), 0x7bff);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(F32ToF16(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_EQ(F32ToF16(1e-30f), 0);
}

TEST(QuantTest, F32ToBF16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7f7f; ++bits) {
    const uint32_t wide = bits << 16;
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>(wide)), bits);
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>(wide + 0x7fff)), bits);
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>(wide + 0x8000)), bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>(wide + 0x8001)), bits + 1);
  }
  EXPECT_EQ(F32ToBF16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace nsa::kernels
