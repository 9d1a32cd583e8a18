#include "engine/weights/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/quant.h"
#include "tests/engine/gguf_builder.h"

namespace nsa::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using B = GgufBuilder;

std::string GoldenPath(const std::string& name) {
  const char* root = std::getenv("NSA_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) + "/tests/golden/gguf/" + name;
}

std::string ToHex(const std::byte* data, int64_t num_bytes) {
  std::string hex;
  for (int64_t i = 0; i < num_bytes; ++i) {
    for (const int nibble : {static_cast<int>(data[i]) >> 4, static_cast<int>(data[i]) & 15}) {
      hex += "0123456789abcdef"[nibble];
    }
  }
  return hex;
}

nlohmann::json ToJson(const GgufValue& value) {
  return std::visit(
      [](const auto& stored) {
        using Stored = std::decay_t<decltype(stored)>;
        if constexpr (std::is_same_v<Stored, std::string_view>) {
          return nlohmann::json(std::string(stored));
        } else if constexpr (std::is_same_v<Stored, GgufValue::Strings>) {
          return nlohmann::json(std::vector<std::string>(stored.begin(), stored.end()));
        } else {
          return nlohmann::json(stored);
        }
      },
      value.value);
}

TEST(GgufFile, ReadsWhatThePythonPackageWrites) {
  auto file = GgufFile::Open(GoldenPath("little.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->version(), 3u);
  std::ifstream text(GoldenPath("gguf.json"));
  const auto golden = nlohmann::json::parse(text);
  ASSERT_GE(golden["values"].size(), 26u);
  for (const auto& [key, expected] : golden["values"].items()) {
    const GgufValue* value = (*file)->FindValue("test." + key);
    ASSERT_NE(value, nullptr) << key;
    EXPECT_EQ(ToJson(*value), expected) << key;
  }
  ASSERT_EQ((*file)->weights().tensors().size(), golden["tensors"].size());
  ASSERT_EQ(golden["tensors"].size(), 11u);
  for (size_t i = 0; i < golden["tensors"].size(); ++i) {
    const auto& expected = golden["tensors"][i];
    const WeightTensor* tensor = (*file)->weights().Find(expected["name"].get<std::string>());
    ASSERT_EQ(tensor, &(*file)->weights().tensors()[i]) << expected["name"];
    EXPECT_EQ(static_cast<uint32_t>(tensor->type), expected["type"].get<uint32_t>())
        << tensor->name;
    EXPECT_EQ(tensor->shape, expected["shape"].get<std::vector<int64_t>>()) << tensor->name;
    EXPECT_EQ(ToHex(tensor->data, tensor->num_bytes), expected["data"].get<std::string>())
        << tensor->name;
  }
}

TEST(GgufFile, ReadsBothVersions) {
  for (const uint32_t version : {2u, 3u}) {
    size_t header_bytes = 0;
    const std::string bytes = SmallGguf(version, &header_bytes);
    const TempFile temp(bytes);
    auto file = GgufFile::Open(temp.path());
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->version(), version);
    EXPECT_EQ((*file)->path(), temp.path());
    EXPECT_EQ((*file)->file_bytes(), static_cast<int64_t>(bytes.size()));
    EXPECT_EQ((*file)->FindValue("none"), nullptr);
    EXPECT_EQ((*file)->weights().Find("none"), nullptr);
    const WeightTensor* tensor = (*file)->weights().Find("ccc");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->shape, (std::vector<int64_t>{2, 1, 5}));
    EXPECT_EQ(tensor->num_bytes, 20);
    EXPECT_EQ(std::memcmp(tensor->data, bytes.data() + header_bytes + 64, 20), 0);
  }
}

TEST(GgufFile, ReadsAFileOfNothing) {
  const TempFile temp(GgufBuilder().Header(3, 0, 0).bytes());
  auto file = GgufFile::Open(temp.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->weights().tensors().empty());
}

TEST(GgufFile, AlignsTo32ByDefault) {
  GgufBuilder builder;
  builder.Header(3, 2, 0).Tensor("a", {1}, 0, 0).Tensor("b", {1}, 0, 32).Pad(32).Data(36);
  const TempFile temp(builder.bytes());
  auto file = GgufFile::Open(temp.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->weights().tensors()[1].data - (*file)->weights().tensors()[0].data, 32);
}

TEST(GgufFile, TensorsNeedNotBeInTheOrderOfTheirData) {
  GgufBuilder builder;
  builder.Header(3, 2, 0).Tensor("a", {1}, 0, 32).Tensor("b", {8}, 0, 0).Pad(32).Data(36);
  const TempFile temp(builder.bytes());
  auto file = GgufFile::Open(temp.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->weights().tensors()[0].name, "a");
  EXPECT_EQ((*file)->weights().tensors()[0].data - (*file)->weights().tensors()[1].data, 32);
}

/// The message of a file that must be refused as invalid, without the path before it.
std::string Refusal(std::string_view bytes) {
  const TempFile temp(bytes);
  const absl::Status status = GgufFile::Open(temp.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  const std::string message(status.message());
  EXPECT_THAT(message, StartsWith(temp.path()));
  return message.substr(std::min(message.size(), temp.path().size()));
}

std::string At(size_t byte) { return "(byte " + std::to_string(byte) + ")"; }

TEST(GgufHeader, NamesWhatIsWrong) {
  EXPECT_THAT(Refusal(""), HasSubstr("empty"));
  EXPECT_THAT(Refusal("GG"), AllOf(HasSubstr("the magic"), HasSubstr("4 bytes needed, 2 left")));
  EXPECT_THAT(Refusal("GGML\3\0\0\0\0\0\0\0\0"), AllOf(HasSubstr("GGUF"), HasSubstr(At(0))));
  for (const uint32_t version : {0u, 1u, 4u, 0xFFFFFFFFu}) {
    EXPECT_THAT(Refusal(GgufBuilder().Header(version, 0, 0).bytes()),
                AllOf(HasSubstr("version " + std::to_string(version)), HasSubstr("expected 2 or 3"),
                      HasSubstr(At(4))));
  }
}

TEST(GgufHeader, NamesBigEndianFiles) {
  std::ifstream file(GoldenPath("big.gguf"), std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  ASSERT_GT(bytes.size(), 24u);
  EXPECT_THAT(Refusal(bytes), HasSubstr("big-endian"));
}

TEST(GgufHeader, CountsMustFitTheFile) {
  constexpr uint64_t kCounts[] = {
      3, 1u << 31, uint64_t{1} << 32, uint64_t{1} << 58, uint64_t{1} << 63, ~uint64_t{0}};
  for (const uint64_t count : kCounts) {
    EXPECT_THAT(Refusal(GgufBuilder().Header(3, count, 0).Data(64).bytes()),
                HasSubstr(std::to_string(count) + " tensors"));
    EXPECT_THAT(Refusal(GgufBuilder().Header(3, 0, count | 7).Data(64).bytes()),
                HasSubstr(std::to_string(count | 7) + " metadata values"));
  }
}

TEST(GgufMetadata, NamesTheKeyAndThePlace) {
  const auto refusal = [](GgufBuilder& values) {
    return Refusal(GgufBuilder().Header(3, 0, 1).bytes() + values.Data(64).bytes());
  };
  const size_t kType = 24 + 8 + 3, kBody = kType + 4;  // after the header and the key
  EXPECT_THAT(
      refusal(GgufBuilder().Value("key", 13, 0)),
      AllOf(HasSubstr("metadata key 'key'"), HasSubstr("value type 13"), HasSubstr(At(kType))));
  EXPECT_THAT(refusal(GgufBuilder().Value("key", B::kBool, uint8_t{2})),
              AllOf(HasSubstr("metadata key 'key'"), HasSubstr("bool is 2"), HasSubstr(At(kBody))));
  EXPECT_THAT(refusal(GgufBuilder().Key("key", B::kArray).Put(B::kArray).Put(uint64_t{1})),
              AllOf(HasSubstr("metadata key 'key'"), HasSubstr("arrays of arrays")));
  EXPECT_THAT(refusal(GgufBuilder().Key("key", B::kArray).Put(99u).Put(uint64_t{1})),
              AllOf(HasSubstr("element type 99"), HasSubstr("expected 0 to 12")));
  EXPECT_THAT(refusal(GgufBuilder().Array<uint8_t>("key", B::kBool, {0, 1, 7})),
              AllOf(HasSubstr("bool is 7"), HasSubstr(At(kBody + 12 + 2))));
  // Lengths that would wrap around when multiplied or added to the offset.
  constexpr uint64_t kLengths[] = {
      65,           uint64_t{1} << 32, (uint64_t{1} << 61) + 1, uint64_t{1} << 63,
      ~uint64_t{0}, ~uint64_t{0} - 40};
  for (const uint64_t length : kLengths) {
    const std::string number = std::to_string(length);
    EXPECT_THAT(refusal(GgufBuilder().Put(length)), HasSubstr(number + " bytes needed"));
    EXPECT_THAT(refusal(GgufBuilder().Key("key", B::kString).Put(length)),
                AllOf(HasSubstr("metadata key 'key'"), HasSubstr(number + " bytes needed")));
    for (const uint32_t type : {B::kU8, B::kBool, B::kF64, B::kI16, B::kString}) {
      EXPECT_THAT(refusal(GgufBuilder().Key("key", B::kArray).Put(type).Put(length)),
                  AllOf(HasSubstr("metadata key 'key'"), HasSubstr("array of " + number)));
    }
  }
}

TEST(GgufMetadata, RefusesAKeyTwice) {
  GgufBuilder builder;
  builder.Header(3, 0, 3).Value("a", B::kU8, uint8_t{1}).Value("b", B::kU8, uint8_t{1});
  const size_t at = builder.size() + 8;
  builder.TextValue("a", "x");
  EXPECT_THAT(Refusal(builder.bytes()),
              AllOf(HasSubstr("'a'"), HasSubstr("twice"), HasSubstr(At(at))));
}

TEST(GgufMetadata, ShowsNoRawBytesOfTheFile) {
  const std::string key = "\n\x1b[31m'\xFF" + std::string(100000, 'k');
  const std::string message =
      Refusal(GgufBuilder().Header(3, 0, 1).Value(key, 77, uint64_t{0}).bytes());
  EXPECT_THAT(message, HasSubstr("'\\n\\x1b[31m\\'\\xffkkk"));
  EXPECT_LT(message.size(), 400u);
}

TEST(GgufMetadata, AlignmentIsAPowerOfTwo) {
  for (const uint32_t alignment : {0u, 3u, 33u, 1u << 21, 1u << 31, 0xFFFFFFFFu}) {
    GgufBuilder builder;
    builder.Header(3, 0, 1).Value("general.alignment", B::kU32, alignment);
    EXPECT_THAT(Refusal(builder.bytes()),
                AllOf(HasSubstr("general.alignment"), HasSubstr(std::to_string(alignment)),
                      HasSubstr("power of two")));
  }
  EXPECT_THAT(Refusal(GgufBuilder().Header(3, 0, 1).TextValue("general.alignment", "32").bytes()),
              AllOf(HasSubstr("general.alignment"), HasSubstr("integer")));
  EXPECT_THAT(
      Refusal(
          GgufBuilder().Header(3, 0, 1).Value("general.alignment", B::kI64, int64_t{-32}).bytes()),
      HasSubstr("-32"));
  for (const uint32_t alignment : {1u, 2u, 64u, 4096u}) {
    GgufBuilder builder;
    builder.Header(3, 2, 1).Value("general.alignment", B::kU32, alignment);
    builder.Tensor("a", {1}, 0, 0).Tensor("b", {1}, 0, std::max(alignment, 4u));
    const TempFile temp(builder.Pad(alignment).Data(4 + std::max(alignment, 4u)).bytes());
    EXPECT_TRUE(GgufFile::Open(temp.path()).ok()) << alignment;
  }
}

/// A file of one tensor with `data_bytes` of data.
std::string OneTensor(const std::vector<uint64_t>& sizes, uint32_t type, uint64_t offset,
                      size_t data_bytes) {
  GgufBuilder builder;
  builder.Header(3, 1, 0).Tensor("w.x", sizes, type, offset).Pad(32).Data(data_bytes);
  return builder.bytes();
}

TEST(GgufTensor, NamesUnsupportedTypes) {
  for (const uint32_t type : {4u, 5u, 9u, 10u, 11u, 15u, 16u, 24u, 29u, 31u, 39u, 0xFFFFFFFFu}) {
    EXPECT_THAT(Refusal(OneTensor({256}, type, 0, 4096)),
                AllOf(HasSubstr("'w.x'"), HasSubstr("type " + std::to_string(type)),
                      HasSubstr("F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K"),
                      HasSubstr(At(24 + 8 + 3 + 4 + 8))));
  }
}

TEST(GgufTensor, ChecksShapes) {
  EXPECT_THAT(Refusal(OneTensor({}, 0, 0, 64)),
              AllOf(HasSubstr("'w.x'"), HasSubstr("0 dimensions")));
  EXPECT_THAT(Refusal(OneTensor({1, 1, 1, 1, 1}, 0, 0, 64)),
              AllOf(HasSubstr("5 dimensions"), HasSubstr("1 to 4")));
  EXPECT_THAT(Refusal(OneTensor({4, 0}, 0, 0, 64)),
              AllOf(HasSubstr("'w.x'"), HasSubstr("dimension 1 is 0"), HasSubstr(At(24 + 15 + 8))));
  const uint64_t half = uint64_t{1} << 32;
  const std::vector<std::vector<uint64_t>> overflowing = {{~uint64_t{0}},
                                                          {uint64_t{1} << 63},
                                                          {uint64_t{1} << 62},
                                                          {half, half},
                                                          {half, half, half, half},
                                                          {1, ~uint64_t{0}},
                                                          {3, uint64_t{0xAAAAAAAAAAAAAAAB}}};
  for (const auto& sizes : overflowing) {
    EXPECT_THAT(Refusal(OneTensor(sizes, 0, 0, 64)),
                AllOf(HasSubstr("'w.x'"), HasSubstr("product below 2^54")));
  }
  for (const uint64_t row : {1u, 31u, 33u}) {
    EXPECT_THAT(
        Refusal(OneTensor({row, 32}, 8, 0, 4096)),
        AllOf(HasSubstr(std::to_string(row)), HasSubstr("Q8_0"), HasSubstr("multiple of 32")));
  }
  EXPECT_THAT(Refusal(OneTensor({128, 2}, 14, 0, 4096)), HasSubstr("multiple of 256"));
}

TEST(GgufTensor, StaysInsideTheFile) {
  const size_t kAt = 24 + 15 + 8 + 4;  // of the offset field
  EXPECT_TRUE(GgufFile::Open(TempFile(OneTensor({16}, 0, 0, 64)).path()).ok());
  EXPECT_THAT(Refusal(OneTensor({16}, 0, 0, 63)),
              AllOf(HasSubstr("'w.x'"), HasSubstr("64 bytes"), HasSubstr("63"),
                    HasSubstr("truncated"), HasSubstr(At(kAt))));
  EXPECT_THAT(Refusal(OneTensor({16}, 0, 32, 64)), HasSubstr("64 bytes at offset 32"));
  EXPECT_THAT(Refusal(OneTensor({16}, 0, 16, 96)),
              AllOf(HasSubstr("offset 16"), HasSubstr("multiple of 32"), HasSubstr(At(kAt))));
  for (const uint64_t offset : {uint64_t{1} << 63, ~uint64_t{31}, ~uint64_t{63}}) {
    EXPECT_THAT(Refusal(OneTensor({16}, 0, offset, 64)),
                HasSubstr("offset " + std::to_string(offset)));
  }
  EXPECT_THAT(Refusal(OneTensor({uint64_t{1} << 53}, 0, 0, 64)),
              HasSubstr(std::to_string(uint64_t{1} << 55) + " bytes"));
  // The header ends the file: no padding and no data section at all.
  EXPECT_THAT(Refusal(GgufBuilder().Header(3, 1, 0).Tensor("w", {1}, 0, 0).bytes()),
              HasSubstr("truncated"));
}

TEST(GgufTensor, RefusesOverlapAndANameTwice) {
  GgufBuilder overlap;
  overlap.Header(3, 3, 0).Tensor("a", {9}, 0, 32).Tensor("b", {1}, 0, 64).Tensor("c", {8}, 0, 0);
  EXPECT_THAT(Refusal(overlap.Pad(32).Data(256).bytes()),
              AllOf(HasSubstr("'a'"), HasSubstr("'b'"), HasSubstr("offset 64")));
  GgufBuilder same;
  same.Header(3, 2, 0).Tensor("a", {1}, 0, 0).Tensor("b", {1}, 0, 0).Pad(32).Data(64);
  EXPECT_THAT(Refusal(same.bytes()), AllOf(HasSubstr("'a'"), HasSubstr("'b'")));
  GgufBuilder twice;
  twice.Header(3, 2, 0).Tensor("a", {1}, 0, 0).Tensor("a", {1}, 0, 32).Pad(32).Data(64);
  EXPECT_THAT(Refusal(twice.bytes()), AllOf(HasSubstr("'a'"), HasSubstr("twice")));
}

TEST(GgufFile, ReadsTheDefaultModel) {
  const char* path = std::getenv("NSA_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "NSA_TEST_MODEL does not name the default model's file";
  auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->weights().tensors().size(), 272u);
  EXPECT_EQ((*file)->GetString("general.architecture").value(), "llama");
  EXPECT_EQ((*file)->GetInt("llama.block_count").value(), 30);
  EXPECT_EQ((*file)->GetStrings("tokenizer.ggml.tokens").value().size(), 49152u);
  EXPECT_EQ((*file)->GetStrings("tokenizer.ggml.merges").value().size(), 48900u);
  const WeightTensor* embedding = (*file)->weights().Find("token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->shape, (std::vector<int64_t>{49152, 576}));
  EXPECT_EQ(embedding->num_bytes, 49152 * kernels::RowBytes(embedding->type, 576));
}

}  // namespace
}  // namespace nsa::engine
