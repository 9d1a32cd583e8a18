#include "engine/tokenizer/tokenizer_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "engine/tokenizer/tokenizer_json.h"
#include "engine/tokenizer/utf8.h"
#include "engine/weights/checkpoint.h"
#include "engine/weights/json_config.h"
#include "tests/engine/tiny_folder.h"
#include "tests/engine/tokenizer_goldens.h"

namespace nsa::engine {
namespace {

using ::testing::HasSubstr;

std::map<std::string, std::string> Export(const std::string& path, const Tokenizer& tokenizer) {
  const auto checkpoint = Checkpoint::Open(path);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto files = ExportTokenizer(**checkpoint, tokenizer);
  EXPECT_TRUE(files.ok()) << files.status();
  std::map<std::string, std::string> named;
  for (const TokenizerFile& file : *files) named[file.name] = file.bytes;
  return named;
}

/// Read back as a folder's would be.
std::unique_ptr<Tokenizer> ReadBack(const std::map<std::string, std::string>& files) {
  const auto config = nlohmann::json::parse(files.at("tokenizer_config.json"));
  TokenizerSettings settings;
  settings.bos_token = config.value("bos_token", "");
  settings.eos_token = config.value("eos_token", "");
  settings.add_bos = config.at("add_bos_token").get<bool>();
  settings.add_eos = config.at("add_eos_token").get<bool>();
  const auto generation = nlohmann::json::parse(files.at("generation_config.json"));
  settings.stop_ids = generation.at("eos_token_id").get<std::vector<int64_t>>();
  const auto file = JsonConfig::Parse(files.at("tokenizer.json"), "tokenizer.json");
  EXPECT_TRUE(file.ok()) << file.status();
  auto tokenizer = LoadTokenizerJson(*file, settings);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

/// Both make the same ids of every golden text, with special tokens' names in it too, and the same
/// text of these ids.
void ExpectSame(const Tokenizer& expected, const Tokenizer& tokenizer) {
  ASSERT_EQ(tokenizer.vocabulary_size(), expected.vocabulary_size());
  EXPECT_EQ(tokenizer.stop_ids(), expected.stop_ids());
  std::vector<std::string> texts = GoldenTexts();
  for (int32_t id = 0; id < expected.vocabulary_size(); ++id) {
    if (expected.IsSpecial(id) && texts.size() < 400) {
      texts.push_back("a " + expected.TokenBytes(id) + " b" + expected.TokenBytes(id));
    }
  }
  for (const std::string& text : texts) {
    // What is not UTF-8 is each kind's own.
    if (ValidUtf8Prefix(text) != text.size()) continue;
    for (const bool special : {false, true}) {
      const EncodeOptions options{.add_special_tokens = special, .parse_special_tokens = true};
      const auto ids = expected.Encode(text, options);
      EXPECT_EQ(tokenizer.Encode(text, options), ids) << text.substr(0, 100);
      EXPECT_EQ(tokenizer.Decode(ids, true), expected.Decode(ids, true)) << text.substr(0, 100);
    }
  }
}

TEST(TokenizerExportTest, ByteLevelBpeReadsBackTheSame) {
  const std::string path = GoldenPath("tiny_bpe.gguf");
  const auto tokenizer = LoadGguf(path);
  ExpectSame(*tokenizer, *ReadBack(Export(path, *tokenizer)));
}

TEST(TokenizerExportTest, SentencePieceReadsBackTheSame) {
  const std::string path = GoldenPath("tiny_spm.gguf");
  const auto tokenizer = LoadGguf(path);
  ExpectSame(*tokenizer, *ReadBack(Export(path, *tokenizer)));
}

TEST(TokenizerExportTest, TheDefaultModelReadsBackTheSame) {
  const char* path = std::getenv("NSA_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "NSA_TEST_MODEL names no model file";
  const auto tokenizer = LoadGguf(path);
  const auto files = Export(path, *tokenizer);
  ExpectSame(*tokenizer, *ReadBack(files));
  const auto config = nlohmann::json::parse(files.at("tokenizer_config.json"));
  EXPECT_THAT(config.at("chat_template").get<std::string>(), HasSubstr("add_generation_prompt"));
  EXPECT_EQ(config.at("eos_token"), "<|im_end|>");
}

TEST(TokenizerExportTest, AFoldersFilesAreTakenAsTheyAre) {
  const TinyFolder folder;
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto tokenizer = LoadGguf(GoldenPath("tiny_bpe.gguf"));  // not asked
  const auto files = Export(folder.path(), *tokenizer);
  for (const auto& [name, bytes] : files) {
    std::ifstream file(folder.path() + "/" + name, std::ios::binary);
    const std::string there((std::istreambuf_iterator<char>(file)), {});
    EXPECT_EQ(bytes, there) << name;
  }
  EXPECT_TRUE(files.contains("tokenizer.json"));
  EXPECT_TRUE(files.contains("config.json"));
  folder.Remove("tokenizer.json");
  const auto without = ExportTokenizer(**checkpoint, *tokenizer);
  EXPECT_EQ(without.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(without.status().message()), HasSubstr("tokenizer.json"));
}

}  // namespace
}  // namespace nsa::engine
