#include "engine/tokenizer/tokenizer_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "engine/tokenizer/sentencepiece.h"
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
}

/// A ModelProto (sentencepiece_model.proto) of merges, with what `normalizer` adds to its spec.
std::string ModelProto(const Vocabulary& vocabulary, const std::string& normalizer) {
  const auto field = [](int number, const std::string& bytes) {  // up to 2^14 bytes
    std::string text(1, static_cast<char>(number << 3 | 2));
    text.push_back(static_cast<char>((bytes.size() & 0x7F) | 0x80));
    text.push_back(static_cast<char>(bytes.size() >> 7));
    return text + bytes;
  };
  std::string proto;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    std::string piece = field(1, vocabulary.tokens[id]) + "\x15";
    const float score = vocabulary.scores[id];
    piece.append(reinterpret_cast<const char*>(&score), sizeof(score));
    piece += '\x18';
    piece.push_back(static_cast<char>(vocabulary.types[id]));
    proto += field(1, piece);
  }
  const std::string merges("\x18\x02", 2);                    // model_type: BPE
  const std::string fallback("\x98\x02\x01", 3);              // byte_fallback
  const std::string as_it_is("\x18\x01\x20\x00\x28\x01", 6);  // a space in front, all spaces kept
  return proto + field(2, merges + fallback) + field(3, as_it_is + normalizer);
}

TEST(TokenizerExportTest, ASentencePieceModelAloneReadsBackTheSame) {
  const TinyFolder folder;
  folder.Remove("tokenizer.json");
  Vocabulary vocabulary = ReadGoldenVocabulary("tiny_spm.gguf");
  const std::string proto = ModelProto(vocabulary, "");
  folder.Write("tokenizer.model", proto);
  const auto tokenizer = SentencePiece::FromModelProto(proto);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  auto files = Export(folder.path(), **tokenizer);
  files["generation_config.json"] =
      nlohmann::json({{"eos_token_id", (*tokenizer)->stop_ids()}}).dump();
  ExpectSame(**tokenizer, *ReadBack(files));
}

TEST(TokenizerExportTest, ModelsThatCannotBeToldAreNamed) {
  const TinyFolder folder;
  folder.Remove("tokenizer.json");
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto unigram = LoadSentencePieceModel(GoldenPath("tiny_unigram.model"));
  const Vocabulary vocabulary = ReadGoldenVocabulary("tiny_spm.gguf");
  const auto joins = SentencePiece::FromModelProto(ModelProto(vocabulary, {"\x20\x01", 2}));
  ASSERT_TRUE(unigram.ok() && joins.ok()) << unigram.status() << joins.status();
  for (const Tokenizer* tokenizer : {unigram->get(), static_cast<Tokenizer*>(joins->get())}) {
    const auto files = ExportTokenizer(**checkpoint, *tokenizer);
    EXPECT_EQ(files.status().code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(files.status().message()), HasSubstr("no tokenizer.json"));
    EXPECT_THAT(std::string(files.status().message()), HasSubstr(tokenizer->kind()));
  }
}

}  // namespace
}  // namespace nsa::engine
