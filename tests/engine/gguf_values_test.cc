// Typed access to a GGUF file's metadata.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include "engine/weights/gguf.h"
#include "tests/engine/gguf_builder.h"

namespace nsa::engine {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using B = GgufBuilder;

class GgufValues : public testing::Test {
 protected:
  GgufValues() : temp_(SmallGguf(3)) {
    auto file = GgufFile::Open(temp_.path());
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
  }

  TempFile temp_;
  std::unique_ptr<GgufFile> file_;
};

TEST_F(GgufValues, TakesIntegersOfAnyWidthAndSign) {
  EXPECT_EQ(file_->GetInt("u8").value(), 200);
  EXPECT_EQ(file_->GetInt("i8").value(), -100);
  EXPECT_EQ(file_->GetInt("u16").value(), 60000);
  EXPECT_EQ(file_->GetInt("i16").value(), -30000);
  EXPECT_EQ(file_->GetInt("u32").value(), 4000000000);
  EXPECT_EQ(file_->GetInt("i32").value(), -2000000000);
  EXPECT_EQ(file_->GetInt("i64").value(), std::numeric_limits<int64_t>::min());
}

TEST_F(GgufValues, TakesFloatsOfBothWidths) {
  EXPECT_EQ(file_->GetFloat("f32").value(), 0.5);
  EXPECT_EQ(file_->GetFloat("f64").value(), 1e300);
  EXPECT_THAT(file_->GetFloats("f32s").value(), ElementsAre(1.5));
  EXPECT_THAT(file_->GetFloats("f64s").value(), ElementsAre(2.5, -2.5));
}

TEST_F(GgufValues, TakesBoolsTextsAndArrays) {
  EXPECT_TRUE(file_->GetBool("bool").value());
  EXPECT_EQ(file_->GetString("general.architecture").value(), "llama");
  EXPECT_THAT(file_->GetStrings("texts").value(), ElementsAre("", "ab", "c"));
  EXPECT_THAT(file_->GetInts("u8s").value(), ElementsAre(0, 255));
  EXPECT_THAT(file_->GetInts("i8s").value(), ElementsAre(-128, 127));
  EXPECT_THAT(file_->GetInts("u16s").value(), ElementsAre(65535));
  EXPECT_THAT(file_->GetInts("i16s").value(), ElementsAre(-32768));
  EXPECT_THAT(file_->GetInts("u32s").value(), ElementsAre(1, 2));
  EXPECT_THAT(file_->GetInts("i32s").value(), ElementsAre(-1, 1));
  EXPECT_THAT(file_->GetInts("u64s").value(), ElementsAre(3));
  EXPECT_THAT(file_->GetInts("i64s").value(), ElementsAre(-3));
}

TEST_F(GgufValues, AMissingKeyIsNotFound) {
  const absl::Status statuses[] = {
      file_->GetInt("none").status(),     file_->GetFloat("none").status(),
      file_->GetBool("none").status(),    file_->GetString("none").status(),
      file_->GetStrings("none").status(), file_->GetInts("none").status(),
      file_->GetFloats("none").status()};
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(temp_.path()), HasSubstr("'none'")));
  }
}

TEST_F(GgufValues, NothingIsConverted) {
  const auto expect_wrong = [this](const absl::Status& status, const std::string& key) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key << ": " << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(temp_.path()), HasSubstr("'" + key + "'")));
  };
  for (const char* key : {"f32", "f64", "bool", "general.architecture", "u8s", "texts", "bools"}) {
    expect_wrong(file_->GetInt(key).status(), key);
  }
  expect_wrong(file_->GetInt("u64").status(), "u64");  // 2^64 - 1 is out of range
  for (const char* key : {"u8", "i64", "bool", "general.architecture", "f32s"}) {
    expect_wrong(file_->GetFloat(key).status(), key);
  }
  for (const char* key : {"u8", "f32", "bools", "general.architecture"}) {
    expect_wrong(file_->GetBool(key).status(), key);
  }
  for (const char* key : {"u8", "bool", "texts"}) expect_wrong(file_->GetString(key).status(), key);
  for (const char* key : {"general.architecture", "u8s", "bools", "f32"}) {
    expect_wrong(file_->GetStrings(key).status(), key);
  }
  for (const char* key : {"f32s", "bools", "texts", "u8"}) {
    expect_wrong(file_->GetInts(key).status(), key);
  }
  for (const char* key : {"u8s", "bools", "texts", "f32"}) {
    expect_wrong(file_->GetFloats(key).status(), key);
  }
}

TEST(GgufValuesOfFiles, AnElementOutOfRangeSpoilsItsArray) {
  GgufBuilder builder;
  builder.Header(3, 0, 1).Array<uint64_t>("big", B::kU64, {1, uint64_t{1} << 63});
  const TempFile temp(builder.bytes());
  auto file = GgufFile::Open(temp.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->GetInts("big").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(GgufValuesOfFiles, KeepsEmptyArraysAndOddFloats) {
  GgufBuilder builder;
  builder.Header(2, 0, 4).TextArray("no texts", {}).Array<uint32_t>("no ints", B::kU32, {});
  builder.Value("nan", B::kF32, std::nanf("")).TextValue("", "the empty key");
  const TempFile temp(builder.bytes());
  auto file = GgufFile::Open(temp.path());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->GetStrings("no texts").value().empty());
  EXPECT_TRUE((*file)->GetInts("no ints").value().empty());
  EXPECT_TRUE(std::isnan((*file)->GetFloat("nan").value()));
  EXPECT_EQ((*file)->GetString("").value(), "the empty key");
}

}  // namespace
}  // namespace nsa::engine
