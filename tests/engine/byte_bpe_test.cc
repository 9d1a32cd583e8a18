#include "engine/tokenizer/byte_bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <map>
#include <random>
#include <thread>
#include <utility>

#include "engine/tokenizer/pre_tokenizer.h"
#include "engine/tokenizer/utf8.h"
#include "tests/engine/tokenizer_goldens.h"

namespace nsa::engine {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<ByteBpe> TinyBpe(const std::string& pre) {
  Vocabulary vocabulary = ReadGoldenVocabulary("tiny_bpe.gguf");
  vocabulary.pre = pre;
  vocabulary.add_bos = false;
  auto bpe = ByteBpe::Create(std::move(vocabulary));
  EXPECT_TRUE(bpe.ok()) << bpe.status();
  return *std::move(bpe);
}

TEST(ByteBpe, GivesTheIdsOfTokenizersForEverySplitPattern) {
  const std::vector<std::string> texts = GoldenTexts();
  ASSERT_GT(Goldens()["byte_bpe"].size(), 5u);
  for (const auto& [pre, goldens] : Goldens()["byte_bpe"].items()) {
    const auto bpe = TinyBpe(pre);
    ASSERT_EQ(goldens.size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::vector<int32_t> ids = bpe->Encode(texts[i], {});
      EXPECT_EQ(ids, Ids(goldens[i])) << pre << ", text " << i << ": " << texts[i];
      EXPECT_EQ(bpe->Decode(ids, false), ReplaceInvalidUtf8(texts[i])) << pre << ", text " << i;
    }
  }
}

TEST(ByteBpe, GivesTheIdsOfTokenizersForTheDefaultModel) {
  const char* model = std::getenv("NSA_TEST_MODEL");
  if (model == nullptr) GTEST_SKIP() << "NSA_TEST_MODEL is not set to the default model's file";
  const auto tokenizer = LoadGguf(model);
  EXPECT_EQ(tokenizer->kind(), "bpe/smollm");
  EXPECT_EQ(tokenizer->vocabulary_size(), 49152);
  EXPECT_THAT(tokenizer->stop_ids(), ::testing::ElementsAre(0, 2));
  const std::vector<std::string> texts = GoldenTexts();
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer->Encode(texts[i], {}), Ids(Goldens()["smollm2"][i])) << texts[i];
  }
}

// Merges one pair at a time, looking at all of them each time.
std::vector<std::string> NaiveMerge(
    std::string_view piece, const std::map<std::pair<std::string, std::string>, int>& ranks) {
  std::vector<std::string> symbols;
  for (char c : piece) symbols.emplace_back(1, c);
  while (true) {
    int best_rank = std::numeric_limits<int>::max();
    size_t best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = ranks.find({symbols[i], symbols[i + 1]});
      if (it != ranks.end() && it->second < best_rank) {
        best_rank = it->second;
        best = i;
      }
    }
    if (best_rank == std::numeric_limits<int>::max()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
}

// Random merges over three letters, so that ties, overlaps and chains abound; pieces on both sides
// of the length where the algorithm changes.
TEST(ByteBpe, MergesAsTheDefinitionDoes) {
  std::mt19937 random(7);
  for (int round = 0; round < 30; ++round) {
    Vocabulary vocabulary;
    vocabulary.pre = "gpt-2";
    vocabulary.tokens = {"a", "b", "c"};
    std::map<std::pair<std::string, std::string>, int> ranks;
    while (vocabulary.merges.size() < 40) {
      const auto pick = [&] { return vocabulary.tokens[random() % vocabulary.tokens.size()]; };
      const std::string left = pick();
      const std::string right = pick();
      if (!ranks.emplace(std::pair(left, right), vocabulary.merges.size()).second) continue;
      vocabulary.merges.push_back(left + " " + right);
      const std::string joined = left + right;
      if (std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), joined) ==
          vocabulary.tokens.end()) {
        vocabulary.tokens.push_back(joined);
      }
    }
    vocabulary.types.assign(vocabulary.tokens.size(), TokenType::kNormal);
    const std::vector<std::string> tokens = vocabulary.tokens;
    auto bpe = ByteBpe::Create(std::move(vocabulary));
    ASSERT_TRUE(bpe.ok()) << bpe.status();
    for (size_t size = 1; size < 100; ++size) {
      std::string piece;
      for (size_t i = 0; i < size; ++i) piece.push_back("abc"[random() % 3]);
      std::vector<std::string> pieces;
      for (int32_t id : (*bpe)->Encode(piece, {})) pieces.push_back(tokens[id]);
      ASSERT_EQ(pieces, NaiveMerge(piece, ranks)) << piece;
    }
  }
}

TEST(ByteBpe, KeepsPlainSpecialTokensOutOfTheIdsUnlessAsked) {
  const auto bpe = TinyBpe("smollm");
  const std::string text = "<|im_start|>user<think><|im_end|>";
  const std::vector<int32_t> parsed = bpe->Encode(text, {.parse_special_tokens = true});
  const std::vector<int32_t> plain = bpe->Encode(text, {.parse_special_tokens = false});
  EXPECT_EQ(parsed.front(), 1);
  EXPECT_EQ(parsed.back(), 2);
  for (int32_t id : plain) EXPECT_FALSE(bpe->IsSpecial(id)) << id;
  // User-defined tokens are part of the language, not of the protocol.
  EXPECT_THAT(plain, ::testing::Contains(3));
  EXPECT_EQ(bpe->Decode(plain, true), text);
  EXPECT_EQ(bpe->Decode(parsed, true), "user<think>");
  EXPECT_EQ(bpe->Decode(parsed, false), text);
}

TEST(ByteBpe, PutsSequenceTokensAroundTheTextWhereTheCheckpointAsks) {
  Vocabulary vocabulary = ReadGoldenVocabulary("tiny_bpe.gguf");
  vocabulary.add_bos = true;
  vocabulary.add_eos = true;
  auto bpe = ByteBpe::Create(std::move(vocabulary));
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  EXPECT_THAT((*bpe)->Encode("", {}), ::testing::ElementsAre(1, 2));
  EXPECT_THAT((*bpe)->Encode("", {.add_special_tokens = false}), ::testing::IsEmpty());
}

TEST(ByteBpe, TakesALlama3CheckpointToWantABeginToken) {
  Vocabulary vocabulary = ReadGoldenVocabulary("tiny_bpe.gguf");
  vocabulary.pre = "llama-bpe";
  vocabulary.add_bos.reset();
  auto bpe = ByteBpe::Create(std::move(vocabulary));
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  EXPECT_THAT((*bpe)->Encode("", {}), ::testing::ElementsAre(1));
}

TEST(ByteBpe, RefusesAVocabularyThatIsNotConsistent) {
  const auto error_of = [](auto change) {
    Vocabulary vocabulary = ReadGoldenVocabulary("tiny_bpe.gguf");
    change(vocabulary);
    const auto bpe = ByteBpe::Create(std::move(vocabulary));
    EXPECT_EQ(bpe.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(bpe.status().message());
  };
  EXPECT_THAT(error_of([](Vocabulary& v) { v.pre = "nonesuch"; }),
              ::testing::AllOf(HasSubstr("nonesuch"), HasSubstr("smollm"), HasSubstr("llama-bpe")));
  EXPECT_THAT(error_of([](Vocabulary& v) { v.merges[5] = "nospace"; }), HasSubstr("merges[5]"));
  EXPECT_THAT(error_of([](Vocabulary& v) { v.merges[6] = "zzz yyy"; }), HasSubstr("merges[6]"));
  EXPECT_THAT(error_of([](Vocabulary& v) { v.tokens[9] = v.tokens[8]; }), HasSubstr("unique"));
  EXPECT_THAT(error_of([](Vocabulary& v) { v.types.pop_back(); }), HasSubstr("token types"));
  EXPECT_THAT(error_of([](Vocabulary& v) { v.bos_id = 1 << 20; }), HasSubstr("begin"));
  EXPECT_THAT(error_of([](Vocabulary& v) {
                v.add_bos = true;
                v.bos_id = -1;
              }),
              HasSubstr("begin"));
  EXPECT_THAT(error_of([](Vocabulary& v) { v = Vocabulary(); }), HasSubstr("0 tokens"));
}

std::string Repeat(std::string_view part, size_t num_bytes) {
  std::string text;
  while (text.size() < num_bytes) text += part;
  return text;
}

// A quadratic step anywhere takes minutes at these sizes.
TEST(ByteBpe, TakesLinearTimeOnHostileText) {
  const std::vector<std::string> parts = {"a",    "ab", " ",        "1",        "\n",           "!",
                                          "\xFF", "'",  " \t",      "\r\n",     "\xE6\xBC\xA2", "A",
                                          "<",    "<|", "\xC2\xA0", "e\xCC\x81"};
  for (const std::string pre :
       {"default", "gpt-2", "smollm", "llama-bpe", "qwen2", "qwen35", "deepseek-llm",
        "deepseek-coder", "deepseek-v3", "falcon", "gpt-4o", "tekken"}) {
    const auto bpe = TinyBpe(pre);
    const bool large = pre == "smollm";
    for (const std::string& part : parts) {
      const std::string text = Repeat(part, large ? 1'000'000 : 100'000) + "x";
      const auto start = std::chrono::steady_clock::now();
      const std::vector<int32_t> ids = bpe->Encode(text, {});
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      EXPECT_LT(seconds.count(), large ? 20 : 2) << pre << " on many \"" << part << "\"";
      EXPECT_EQ(bpe->Decode(ids, false), ReplaceInvalidUtf8(text));
    }
    if (testing::Test::HasFailure()) break;
  }
}

TEST(ByteBpe, TakesAnyBytesAndGivesThemBack) {
  std::mt19937 random(3);
  std::vector<std::unique_ptr<ByteBpe>> all;
  for (const char* pre : {"smollm", "default", "llama-bpe", "deepseek-llm", "gpt-4o"}) {
    all.push_back(TinyBpe(pre));
  }
  for (int round = 0; round < 3000; ++round) {
    std::string text(random() % 60, '\0');
    const uint32_t spread = 1 + random() % 256;
    for (char& c : text) c = static_cast<char>((round % 2 == 0 ? 0xC0 : 0x20) + random() % spread);
    for (const auto& bpe : all) {
      const std::vector<int32_t> ids = bpe->Encode(text, {.parse_special_tokens = round % 3 == 0});
      ASSERT_EQ(bpe->Decode(ids, false), ReplaceInvalidUtf8(text)) << testing::PrintToString(text);
    }
  }
}

TEST(ByteBpe, GivesTheSameFromManyThreads) {
  const auto bpe = TinyBpe("smollm");
  const std::vector<std::string> texts = GoldenTexts();
  std::vector<std::thread> threads;
  std::atomic<int> num_wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        for (size_t i = 0; i < texts.size(); ++i) {
          num_wrong += bpe->Encode(texts[i], {}) != Ids(Goldens()["byte_bpe"]["smollm"][i]);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
}

TEST(PreTokenizer, CompilesEveryPatternThatItNames) {
  for (const std::string& name : PreTokenizer::KnownNames()) {
    auto pre_tokenizer = PreTokenizer::Create(name);
    ASSERT_TRUE(pre_tokenizer.ok()) << name << ": " << pre_tokenizer.status();
    EXPECT_THAT((*pre_tokenizer)->Split("a\n"), ::testing::ElementsAre("a", "\n")) << name;
  }
}

TEST(PreTokenizer, SeesTheEndOfAPieceAsTheEndOfTheText) {
  auto pre_tokenizer = PreTokenizer::Create("smollm");
  ASSERT_TRUE(pre_tokenizer.ok());
  // Digits are cut out first, so that both spaces before one are at their piece's end.
  EXPECT_THAT((*pre_tokenizer)->Split("a  1"), ::testing::ElementsAre("a", "  ", "1"));
  EXPECT_THAT((*pre_tokenizer)->Split("a  b"), ::testing::ElementsAre("a", " ", " b"));
  EXPECT_THAT((*pre_tokenizer)->Split(""), ::testing::IsEmpty());
}

TEST(PreTokenizer, LeavesMongolianVowelSeparatorInTheWord) {
  auto pre_tokenizer = PreTokenizer::Create("gpt-2");
  ASSERT_TRUE(pre_tokenizer.ok());
  EXPECT_THAT((*pre_tokenizer)->Split(" \xE1\xA0\x8E"), ::testing::ElementsAre(" \xE1\xA0\x8E"));
  EXPECT_THAT((*pre_tokenizer)
                  ->Split("a\xC2\x85\xE2\x80\xA8"
                          "b"),
              ::testing::ElementsAre("a", "\xC2\x85", "\xE2\x80\xA8", "b"));
}

}  // namespace
}  // namespace nsa::engine
