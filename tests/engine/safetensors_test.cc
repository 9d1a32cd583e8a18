#include "engine/weights/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "kernels/quant.h"
#include "tests/engine/gguf_builder.h"
#include "tests/engine/gguf_mutations.h"

namespace nsa::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string File(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(bytes.data(), &size, sizeof(size));
  return bytes + header + data;
}

std::string Refusal(const std::string& bytes) {
  const TempFile temp(bytes);
  const auto file = SafetensorsFile::Open(temp.path());
  EXPECT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << file.status();
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(temp.path()));
  return std::string(file.status().message());
}

constexpr char kTwo[] =
    R"({"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]},"__metadata__":{"format":"pt"},)"
    R"("a.weight":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}  )";

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirData) {
  const TempFile temp(File(kTwo, "abcdefghijkl"));
  const auto file = SafetensorsFile::Open(temp.path());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto& tensors = (*file)->tensors();
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "a.weight");
  EXPECT_EQ(tensors[0].type, kernels::WeightType::kF32);
  EXPECT_EQ(tensors[0].shape, (std::vector<int64_t>{2}));
  EXPECT_EQ(tensors[0].num_bytes, 8);
  EXPECT_EQ(std::memcmp(tensors[0].data, "abcdefgh", 8), 0);
  EXPECT_EQ(tensors[1].name, "b");
  EXPECT_EQ(tensors[1].type, kernels::WeightType::kBF16);
  EXPECT_EQ(tensors[1].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(std::memcmp(tensors[1].data, "ijkl", 4), 0);
}

TEST(Safetensors, KnowsTypesThatNoModelReads) {
  const std::string header = R"({"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                             R"("f":{"dtype":"F4","shape":[4],"data_offsets":[8,10]},)"
                             R"("s":{"dtype":"F32","shape":[],"data_offsets":[10,14]},)"
                             R"("e":{"dtype":"U8","shape":[0,5],"data_offsets":[14,14]}})";
  const TempFile temp(File(header, std::string(14, 'x')));
  const auto file = SafetensorsFile::Open(temp.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors()[0].type, WeightTensor::kUnreadable);
  EXPECT_EQ((*file)->tensors()[0].type_name, "I64");
  EXPECT_EQ((*file)->tensors().size(), 4u);
}

TEST(Safetensors, RefusesALyingHeader) {
  EXPECT_THAT(Refusal("short"), HasSubstr("shorter than eight bytes"));
  EXPECT_THAT(Refusal(File("", "")), HasSubstr("'{'"));
  EXPECT_THAT(Refusal(File(" {}", "")), HasSubstr("'{'"));
  EXPECT_THAT(Refusal(std::string(8, '\xFF') + "{}"), HasSubstr("header of"));
  EXPECT_THAT(Refusal(File("{\"a\":", "")), HasSubstr("no JSON"));
  EXPECT_THAT(Refusal(File("{}", "x")), HasSubstr("expected 1"));
  EXPECT_THAT(Refusal(File("{}{}", "")), HasSubstr("no JSON"));
  EXPECT_THAT(Refusal(File("{\"a\":1}", "")), HasSubstr("'a'"));
  EXPECT_THAT(Refusal(File("{\"a\":{\"a\":{}}}", "")), HasSubstr("unknown field 'a'"));
  EXPECT_THAT(Refusal(File("{\"a\":{}}", "")), HasSubstr("expected dtype"));
}

std::string One(const std::string& fields, const std::string& data = "xxxx") {
  return File("{\"a\":{" + fields + "}}", data);
}

TEST(Safetensors, NamesTheTensorAndWhatIsWrong) {
  EXPECT_THAT(Refusal(One(R"("dtype":"Q4","shape":[1],"data_offsets":[0,4])")),
              AllOf(HasSubstr("'a'"), HasSubstr("'Q4'")));
  EXPECT_THAT(Refusal(One(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])")),
              AllOf(HasSubstr("'a'"), HasSubstr("expected 8")));
  EXPECT_THAT(Refusal(One(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])")),
              AllOf(HasSubstr("'a'"), HasSubstr("truncated")));
  EXPECT_THAT(Refusal(One(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])")),
              HasSubstr("expected to begin at 0"));
  EXPECT_THAT(Refusal(One(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])", "xxxxx")),
              HasSubstr("end at byte 4"));
  EXPECT_THAT(Refusal(One(R"("dtype":"F32","shape":[1],"data_offsets":[0])")),
              HasSubstr("no two numbers"));
  EXPECT_THAT(Refusal(One(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])")),
              HasSubstr("more than two"));
  EXPECT_THAT(Refusal(One(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])")),
              HasSubstr("negative"));
  EXPECT_THAT(Refusal(One(R"("dtype":"F32","shape":[4294967296,4294967296,4294967296],)"
                          R"("data_offsets":[0,4])")),
              HasSubstr("overflows"));
  EXPECT_THAT(Refusal(One(R"("dtype":"F4","shape":[1],"data_offsets":[0,4])")),
              HasSubstr("whole bytes"));
  EXPECT_THAT(Refusal(One(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])")),
              HasSubstr("twice"));
  const std::string twice = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  EXPECT_THAT(Refusal(File("{" + twice + "," + twice + "}", "xxxx")), HasSubstr("twice"));
  const std::string overlap = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                              R"("b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})";
  EXPECT_THAT(Refusal(File(overlap, "xxxxxx")), HasSubstr("expected to begin at 4"));
}

/// What an accepted file promises.
void Check(const std::string& bytes) {
  const TempFile temp(bytes);
  const auto file = SafetensorsFile::Open(temp.path());
  if (!file.ok()) {
    EXPECT_LE(file.status().message().size(), temp.path().size() + 500);
    return;
  }
  int64_t sum = 0;
  for (const WeightTensor& tensor : (*file)->tensors()) {
    ASSERT_GE(tensor.num_bytes, 0);
    for (int64_t i = 0; i < tensor.num_bytes; ++i) sum += static_cast<int64_t>(tensor.data[i]);
  }
  EXPECT_GE(sum, 0);
}

TEST(SafetensorsMutations, SurvivesEveryByteOfTheHeader) {
  const std::string bytes = File(kTwo, "abcdefghijkl");
  MutateBytes(bytes, bytes.size() - 12, Check);
  for (size_t size = 0; size < bytes.size(); ++size) Check(bytes.substr(0, size));
}

TEST(SafetensorsMutations, SurvivesRandomEdits) {
  MutateAtRandom(File(kTwo, "abcdefghijkl"), 5000, Check);
}

}  // namespace
}  // namespace nsa::engine
