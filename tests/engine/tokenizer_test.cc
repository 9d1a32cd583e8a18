#include "engine/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <utility>

#include "engine/tokenizer/special_tokens.h"
#include "tests/engine/tokenizer_goldens.h"

namespace nsa::engine {
namespace {

using ::testing::HasSubstr;

std::vector<std::pair<int32_t, std::string>> Split(const SpecialTokens& tokens,
                                                   std::string_view text, bool parse = true) {
  std::vector<std::pair<int32_t, std::string>> fragments;
  for (const auto& f : tokens.Split(text, parse)) fragments.emplace_back(f.token_id, f.text);
  return fragments;
}

TEST(SpecialTokens, TakesTheLeftmostAndOfThoseTheLongest) {
  SpecialTokens tokens;
  tokens.Add("<a>", 1, false);
  tokens.Add("<a><b>", 2, false);
  tokens.Add("b>c", 3, true);
  using Fragments = std::vector<std::pair<int32_t, std::string>>;
  EXPECT_EQ(Split(tokens, ""), Fragments({}));
  EXPECT_EQ(Split(tokens, "x"), Fragments({{-1, "x"}}));
  EXPECT_EQ(Split(tokens, "<a><b>"), Fragments({{2, "<a><b>"}}));
  EXPECT_EQ(Split(tokens, "<a><b"), Fragments({{1, "<a>"}, {-1, "<b"}}));
  EXPECT_EQ(Split(tokens, "<<a>>"), Fragments({{-1, "<"}, {1, "<a>"}, {-1, ">"}}));
  EXPECT_EQ(Split(tokens, "<a><b>c"), Fragments({{2, "<a><b>"}, {-1, "c"}}));
  EXPECT_EQ(Split(tokens, "<a><b>c", false), Fragments({{-1, "<a><"}, {3, "b>c"}}));
  EXPECT_EQ(Split(tokens, "<a><a>"), Fragments({{1, "<a>"}, {1, "<a>"}}));
}

TEST(SpecialTokens, SplitsNothingWithoutTokens) {
  EXPECT_EQ(Split(SpecialTokens(), "<a>").size(), 1u);
}

// A GGUF file of string metadata alone.
std::string WriteGguf(const std::vector<std::pair<std::string, std::string>>& strings) {
  const std::string path = testing::TempDir() + "/tokenizer_test_" +
                           testing::UnitTest::GetInstance()->current_test_info()->name() + ".gguf";
  std::ofstream file(path, std::ios::binary);
  const auto put = [&](auto value) {
    file.write(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  const auto put_string = [&](const std::string& text) {
    put(uint64_t{text.size()});
    file << text;
  };
  file << "GGUF";
  put(uint32_t{3});
  put(uint64_t{0});
  put(uint64_t{strings.size()});
  for (const auto& [key, value] : strings) {
    put_string(key);
    put(uint32_t{8});
    put_string(value);
  }
  return path;
}

absl::Status LoadError(const std::vector<std::pair<std::string, std::string>>& strings) {
  const std::string path = WriteGguf(strings);
  auto file = GgufFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  if (!file.ok()) return file.status();
  const absl::Status status = LoadTokenizer(**file).status();
  std::remove(path.c_str());
  return status;
}

TEST(LoadTokenizer, NamesTheKindsThatItKnows) {
  const absl::Status status = LoadError({{"tokenizer.ggml.model", "bert"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(HasSubstr("bert"), HasSubstr("gpt2"), HasSubstr("llama")));
}

TEST(LoadTokenizer, ReportsWhatIsMissing) {
  EXPECT_THAT(std::string(LoadError({{"general.name", "x"}}).message()),
              HasSubstr("tokenizer.ggml.model"));
  EXPECT_THAT(std::string(LoadError({{"tokenizer.ggml.model", "gpt2"}}).message()),
              HasSubstr("tokenizer.ggml.tokens"));
  EXPECT_THAT(std::string(LoadError({{"tokenizer.ggml.model", "llama"},
                                     {"tokenizer.ggml.tokens", "not an array"}})
                              .message()),
              HasSubstr("tokenizer.ggml.tokens"));
}

TEST(LoadTokenizer, OutlivesTheFile) {
  // LoadGguf closes the file before it returns.
  const auto tokenizer = LoadGguf(GoldenPath("tiny_bpe.gguf"));
  EXPECT_EQ(tokenizer->kind(), "bpe/smollm");
  const std::vector<int32_t> ids = tokenizer->Encode("Hello, world!<|im_end|>", {});
  EXPECT_EQ(tokenizer->Decode(ids, false), "Hello, world!<|im_end|>");
  EXPECT_EQ(tokenizer->Decode(ids, true), "Hello, world!");
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_THAT(tokenizer->stop_ids(), ::testing::ElementsAre(0, 2));
}

TEST(Vocabulary, EndsATurnAtControlTokensOnly) {
  Vocabulary vocabulary;
  vocabulary.tokens = {"<|im_end|>", "<|eot_id|>", "x"};
  vocabulary.types = {TokenType::kNormal, TokenType::kControl, TokenType::kControl};
  vocabulary.stop_ids = {2};
  AddStopTokensByName(vocabulary);
  EXPECT_THAT(vocabulary.stop_ids, ::testing::ElementsAre(1, 2));
}

}  // namespace
}  // namespace nsa::engine
