#include "engine/tokenizer/sentencepiece.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>
#include <utility>

#include "engine/tokenizer/utf8.h"
#include "tests/engine/tokenizer_goldens.h"

namespace nsa::engine {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Tokenizer> Unigram() {
  auto tokenizer = LoadSentencePieceModel(GoldenPath("tiny_unigram.model"));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

constexpr EncodeOptions kPlain = {.add_special_tokens = false, .parse_special_tokens = false};

TEST(SentencePiece, GivesTheIdsAndTextsOfSentencepieceForAModelFile) {
  const auto tokenizer = Unigram();
  EXPECT_EQ(tokenizer->kind(), "sentencepiece/unigram");
  const std::vector<std::string> texts = GoldenTexts();
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::vector<int32_t> ids = tokenizer->Encode(texts[i], kPlain);
    EXPECT_EQ(ids, Ids(Goldens()["unigram"][i])) << texts[i];
    EXPECT_EQ(tokenizer->Decode(ids, false), Goldens()["unigram_decoded"][i].get<std::string>())
        << texts[i];
  }
}

TEST(SentencePiece, GivesTheIdsOfSentencepieceForAGgufVocabulary) {
  const auto tokenizer = LoadGguf(GoldenPath("tiny_spm.gguf"));
  EXPECT_EQ(tokenizer->kind(), "sentencepiece/bpe");
  const std::vector<std::string> texts = GoldenTexts();
  ASSERT_GT(Goldens()["spm_gguf_plain"].size(), 20u);
  for (const auto& [index, ids] : Goldens()["spm_gguf_plain"].items()) {
    EXPECT_EQ(tokenizer->Encode(texts[std::stoul(index)], kPlain), Ids(ids)) << index;
  }
}

TEST(SentencePiece, GivesTheIdsOfLlamaCppForAGgufVocabularyWithSpecialTokens) {
  const auto tokenizer = LoadGguf(GoldenPath("tiny_spm.gguf"));
  const std::vector<std::string> texts = GoldenTexts();
  const size_t num_valid = Goldens()["num_valid"];
  ASSERT_EQ(Goldens()["spm_gguf"].size(), num_valid);
  for (size_t i = 0; i < num_valid; ++i) {  // valid UTF-8 comes first
    EXPECT_EQ(tokenizer->Encode(texts[i], {}), Ids(Goldens()["spm_gguf"][i])) << texts[i];
  }
}

TEST(SentencePiece, JoinsStreamedPiecesToTheWholeForRandomIds) {
  std::mt19937 random(5);
  const std::unique_ptr<Tokenizer> tokenizers[] = {Unigram(),
                                                   LoadGguf(GoldenPath("tiny_spm.gguf"))};
  for (const auto& tokenizer : tokenizers) {
    for (int round = 0; round < 5000; ++round) {
      const bool skip = round % 2 == 0;
      std::vector<int32_t> ids(random() % 20);
      // Byte tokens often: they make the broken characters.
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % (random() % 2 ? 262 : 900));
      Detokenizer detokenizer(tokenizer.get(), skip);
      std::string text;
      for (int32_t id : ids) {
        const std::string piece = detokenizer.Append(id);
        ASSERT_EQ(ValidUtf8Prefix(piece), piece.size());
        text += piece;
      }
      text += detokenizer.Flush();
      ASSERT_EQ(text, tokenizer->Decode(ids, skip)) << testing::PrintToString(ids);
    }
  }
}

TEST(SentencePiece, ParsesControlTokensOnlyWhereAsked) {
  const auto tokenizer = LoadGguf(GoldenPath("tiny_spm.gguf"));
  for (int32_t id : tokenizer->Encode("<s>a</s><unk>", kPlain))
    EXPECT_FALSE(tokenizer->IsSpecial(id));
  const auto ids = tokenizer->Encode("<s>a</s>", {.add_special_tokens = false});
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
  EXPECT_THAT(tokenizer->Encode("", {}), ::testing::ElementsAre(1));
  EXPECT_THAT(tokenizer->Encode("", kPlain), ::testing::IsEmpty());
  EXPECT_THAT(tokenizer->stop_ids(), ::testing::ElementsAre(2));
  EXPECT_EQ(tokenizer->bos_id(), 1);
}

TEST(SentencePiece, TakesHostileTextInLinearTime) {
  const std::unique_ptr<Tokenizer> tokenizers[] = {Unigram(),
                                                   LoadGguf(GoldenPath("tiny_spm.gguf"))};
  for (const auto& tokenizer : tokenizers) {
    for (const std::string part : {"a", " ", "e\n", "\xFF", "\xE6\xBC\xA2", "<", "the"}) {
      std::string text;
      while (text.size() < 300'000) text += part;
      const auto start = std::chrono::steady_clock::now();
      const std::vector<int32_t> ids = tokenizer->Encode(text, {});
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      EXPECT_LT(seconds.count(), 10) << tokenizer->kind() << " on many \"" << part << "\"";
      EXPECT_GT(ids.size(), 1000u);
    }
  }
}

TEST(SentencePiece, ReportsFilesThatAreNoModel) {
  EXPECT_EQ(LoadSentencePieceModel(GoldenPath("nonesuch.model")).status().code(),
            absl::StatusCode::kNotFound);
  const auto status = LoadSentencePieceModel(GoldenPath("make.py")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("make.py"));
  EXPECT_FALSE(SentencePiece::FromModelProto("").ok());
}

TEST(SentencePiece, TakesOrRefusesADamagedModelButNeverCrashes) {
  const std::string model = ReadFile(GoldenPath("tiny_unigram.model"));
  ASSERT_GT(model.size(), 10'000u);
  for (size_t size = 0; size < model.size(); size += 331) {
    const auto tokenizer = SentencePiece::FromModelProto(std::string_view(model).substr(0, size));
    if (tokenizer.ok()) (*tokenizer)->Encode("Hello \xF0\x9F\x98\x80 world", {});
  }
  std::mt19937 random(9);
  for (int round = 0; round < 300; ++round) {
    std::string damaged = model;
    for (int i = 0; i < 3; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
    const auto tokenizer = SentencePiece::FromModelProto(damaged);
    if (!tokenizer.ok()) continue;
    const auto ids = (*tokenizer)->Encode("Hello \xF0\x9F\x98\x80 <s> world", {});
    for (int32_t id : ids) {
      ASSERT_GE(id, 0);
      ASSERT_LT(id, (*tokenizer)->vocabulary_size());
    }
    (*tokenizer)->Decode(ids, true);
  }
}

// SentencePiece follows the trie's offsets as they are.
TEST(SentencePiece, RefusesATrieThatPointsOutside) {
  // A table of 256 units, the last field of the file; what stands twice in a message is joined.
  constexpr uint32_t kNumUnits = 256;
  const auto with_unit = [](uint32_t index, uint32_t unit) {
    std::vector<uint32_t> table(1 + kNumUnits);
    table[0] = kNumUnits * 4;
    table[1 + index] = unit;
    std::string field(reinterpret_cast<const char*>(table.data()), table.size() * 4);
    field.push_back('\0');  // the texts
    const auto tagged = [](char tag, const std::string& content) {
      const size_t size = content.size();
      return std::string{tag, static_cast<char>(0x80 | (size & 0x7F)),
                         static_cast<char>(size >> 7)} +
             content;
    };
    return ReadFile(GoldenPath("tiny_unigram.model")) + tagged('\x1A', tagged('\x12', field));
  };
  constexpr uint32_t kOutside = 1u << 18;  // an offset of 256
  EXPECT_TRUE(SentencePiece::FromModelProto(with_unit(0, 0)).ok());
  EXPECT_TRUE(SentencePiece::FromModelProto(with_unit(97, kOutside | 1u << 31)).ok());
  for (const uint32_t index : {0u, 1u, 97u, 255u}) {
    for (const uint32_t unit : {kOutside, 0x7FFFFFFFu, 1u << 30, 1u << 9 | 1u << 10}) {
      const auto tokenizer = SentencePiece::FromModelProto(with_unit(index, unit));
      EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("outside of itself"))
          << index << " " << unit;
    }
  }
}

TEST(SentencePiece, RefusesAGgufVocabularyThatIsNotConsistent) {
  const auto error_of = [](auto change) {
    Vocabulary vocabulary = ReadGoldenVocabulary("tiny_spm.gguf");
    change(vocabulary);
    const auto tokenizer = SentencePiece::FromVocabulary(std::move(vocabulary));
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(tokenizer.status().message());
  };
  EXPECT_THAT(error_of([](Vocabulary& v) { v.scores.clear(); }), HasSubstr("scores"));
  EXPECT_THAT(error_of([](Vocabulary& v) { v.scores.pop_back(); }), HasSubstr("scores"));
  EXPECT_THAT(error_of([](Vocabulary& v) { v.tokens[400] = v.tokens[401]; }), HasSubstr("unique"));
  EXPECT_THAT(error_of([](Vocabulary& v) {
                const auto byte = std::find(v.types.begin(), v.types.end(), TokenType::kByte);
                *byte = TokenType::kNormal;
              }),
              HasSubstr("byte"));
  EXPECT_THAT(error_of([](Vocabulary& v) {
                const auto byte = std::find(v.types.begin(), v.types.end(), TokenType::kByte);
                v.tokens[byte - v.types.begin()] = "<0xZZ>";
              }),
              HasSubstr("<0xZZ>"));
}

TEST(SentencePiece, MarksAnUnknownTokenWhereTheFileDoesNot) {
  Vocabulary vocabulary = ReadGoldenVocabulary("tiny_spm.gguf");
  vocabulary.types[0] = TokenType::kControl;
  const auto tokenizer = SentencePiece::FromVocabulary(std::move(vocabulary));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_TRUE((*tokenizer)->IsSpecial(0));
}

TEST(SentencePiece, GivesTheSameFromManyThreads) {
  const auto tokenizer = Unigram();
  const std::vector<std::string> texts = GoldenTexts();
  std::vector<std::thread> threads;
  std::atomic<int> num_wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        for (size_t i = 0; i < texts.size(); ++i) {
          num_wrong += tokenizer->Encode(texts[i], kPlain) != Ids(Goldens()["unigram"][i]);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
}

}  // namespace
}  // namespace nsa::engine
