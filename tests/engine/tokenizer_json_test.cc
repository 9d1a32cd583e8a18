#include "engine/tokenizer/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "tests/engine/tiny_folder.h"

namespace nsa::engine {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const json& document,
                                                const TokenizerSettings& settings = {}) {
  const auto file = JsonConfig::Parse(document.dump(), "tokenizer.json");
  if (!file.ok()) return file.status();
  return LoadTokenizerJson(*file, settings);
}

std::unique_ptr<Tokenizer> Make(const json& document, const TokenizerSettings& settings = {}) {
  auto made = Load(document, settings);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

std::string Refusal(const json& document, const TokenizerSettings& settings = {}) {
  const auto made = Load(document, settings);
  EXPECT_FALSE(made.ok());
  const std::string message(made.status().message());
  EXPECT_THAT(message, HasSubstr("tokenizer.json: "));
  return message;
}

json Bytes(const std::string& pointer, const json& value) {
  json document = TinyFolder::ByteTokenizer();
  document[json::json_pointer(pointer)] = value;
  return document;
}
json Characters(const std::string& pointer, const json& value) {
  json document = TinyFolder::CharacterTokenizer();
  document[json::json_pointer(pointer)] = value;
  return document;
}

TEST(TokenizerJson, ReadsBytesAndCharacters) {
  const auto bytes = Make(TinyFolder::ByteTokenizer());
  EXPECT_THAT(bytes->Encode("the a", {}), ElementsAre(256, 259, ' ', 'a'));
  EXPECT_THAT(bytes->Encode("a  </s> <tool>  b", {}),
              ElementsAre(256, 'a', 257, ' ', 260, 'b'));  // with the spaces that tokens take
  EXPECT_EQ(bytes->kind(), "bpe/tokenizer.json");
  const auto characters = Make(TinyFolder::CharacterTokenizer());
  EXPECT_THAT(characters->Encode("ab  a", {}), ElementsAre(1, 3, 6, 3, 7));
  EXPECT_EQ(characters->Decode({1, 3, 6, 3, 7}, true), "ab  a");
  EXPECT_EQ(characters->kind(), "bpe/characters");
}

TEST(TokenizerJson, LeavesUnusedIdsOut) {
  const auto tokenizer = Make(TinyFolder::ByteTokenizer());
  EXPECT_EQ(tokenizer->vocabulary_size(), 261);
  const json far = Bytes("/added_tokens/2/id", 100'000);
  EXPECT_THAT(Refusal(far), AllOf(HasSubstr("<tool>"), HasSubstr("100000")));
}

TEST(TokenizerJson, LeavesAddedTokensWithoutARowOut) {
  TokenizerSettings settings;
  settings.max_tokens = 260;
  const auto tokenizer = Make(TinyFolder::ByteTokenizer(), settings);
  EXPECT_EQ(tokenizer->vocabulary_size(), 260);
  for (const int32_t id : tokenizer->Encode("<tool>", {})) EXPECT_LT(id, 260);
}

TEST(TokenizerJson, HearsTheFlagsBesideIt) {
  TokenizerSettings settings;
  settings.bos_token = "<s>";
  settings.eos_token = "</s>";
  settings.add_bos = false;
  EXPECT_THAT(Make(TinyFolder::ByteTokenizer(), settings)->Encode("a", {}), ElementsAre('a'));
  settings.add_bos = true;
  settings.add_eos = true;
  EXPECT_THAT(Make(Bytes("/post_processor", nullptr), settings)->Encode("a", {}),
              ElementsAre(256, 'a', 257));
  settings.bos_token = "";
  EXPECT_THAT(Refusal(Bytes("/post_processor", nullptr), settings), HasSubstr("begin-of-sequence"));
}

TEST(TokenizerJson, CollectsEndTokens) {
  TokenizerSettings settings;
  settings.eos_token = "</s>";
  settings.stop_ids = {256, 257, 256};
  EXPECT_THAT(Make(TinyFolder::ByteTokenizer(), settings)->stop_ids(), ElementsAre(256, 257));
  settings.stop_ids = {261};
  EXPECT_THAT(Refusal(TinyFolder::ByteTokenizer(), settings), HasSubstr("end token 261"));
  settings.stop_ids = {-1};
  EXPECT_THAT(Refusal(TinyFolder::ByteTokenizer(), settings), HasSubstr("end token -1"));
}

TEST(TokenizerJson, NamesAFieldOfAWrongType) {
  EXPECT_THAT(Refusal(Characters("/model/byte_fallback", "yes")),
              AllOf(HasSubstr("model.byte_fallback is"), HasSubstr("true or false")));
  EXPECT_THAT(Refusal(Bytes("/pre_tokenizer/pretokenizers/0/individual_digits", 1)),
              HasSubstr("pre_tokenizer.pretokenizers[0].individual_digits"));
  EXPECT_THAT(Refusal(Bytes("/added_tokens/1/special", "x")), HasSubstr("added_tokens[1].special"));
  EXPECT_THAT(Refusal(Bytes("/added_tokens", 1)), HasSubstr("added_tokens is '1'"));
  EXPECT_THAT(Refusal(Bytes("/normalizer", "NFC")), HasSubstr("normalizer is"));
  EXPECT_THAT(Refusal(Characters("/decoder/decoders/3/start", -1)), HasSubstr("start is '-1'"));
}

TEST(TokenizerJson, RefusesWhatItWouldReadOtherwise) {
  EXPECT_THAT(Refusal(Bytes("/model/type", "Unigram")), HasSubstr("Unigram"));
  EXPECT_THAT(Refusal(Bytes("/model/dropout", 0.1)), HasSubstr("dropout"));
  EXPECT_THAT(Refusal(Bytes("/model/end_of_word_suffix", "</w>")), HasSubstr("end_of_word"));
  EXPECT_THAT(Refusal(Bytes("/normalizer/type", "Precompiled")), HasSubstr("Precompiled"));
  EXPECT_THAT(Refusal(Bytes("/added_tokens/0/single_word", true)), HasSubstr("single_word"));
  EXPECT_THAT(Refusal(Bytes("/post_processor/special_tokens/<s>/ids", {5})),
              HasSubstr("ids other than its own, 256"));
  EXPECT_THAT(Refusal(Bytes("/pre_tokenizer/pretokenizers/1/behavior", "Contiguous")),
              HasSubstr("Contiguous"));
  EXPECT_THAT(Refusal(Bytes("/pre_tokenizer/pretokenizers/1/pattern/Regex", "[a&&b]")),
              HasSubstr("intersection"));
  EXPECT_THAT(Refusal(Characters("/decoder/decoders/0/content", "_")), HasSubstr("Replace"));
  EXPECT_THAT(Refusal(Characters("/decoder/decoders/3/start", 2)), HasSubstr("Strip"));
  EXPECT_THAT(Refusal(Characters("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}})),
              HasSubstr("Metaspace"));
}

TEST(TokenizerJson, RefusesIdsThatContradict) {
  EXPECT_THAT(Refusal(Bytes("/model/vocab/the", 258)), HasSubstr("both have id 258"));
  EXPECT_THAT(Refusal(Bytes("/model/vocab/the", -1)), HasSubstr("-1"));
  EXPECT_THAT(Refusal(Bytes("/model/vocab/the", "259")), HasSubstr("259"));
  EXPECT_THAT(Refusal(Bytes("/added_tokens/0/content", "")), HasSubstr("no content"));
  EXPECT_THAT(Refusal(Bytes("/added_tokens/1/content", std::string(600, 'x'))),
              HasSubstr("600 bytes"));
  EXPECT_THAT(Refusal(Bytes("/model/merges", {"t q"})), HasSubstr("merges[0]"));
  EXPECT_THAT(Refusal(Bytes("/model/merges", {{"t", "h", "e"}})), HasSubstr("model.merges[0]"));
}

// Each doubles the text; together they would fill any memory.
TEST(TokenizerJson, BoundsHowFarATextGrows) {
  json steps = json::array();
  for (int i = 0; i < 40; ++i) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  }
  const json growing = {{"type", "Sequence"}, {"normalizers", steps}};
  EXPECT_THAT(Refusal(Characters("/normalizer", growing)), HasSubstr("times as long"));
  EXPECT_THAT(Refusal(Characters("/normalizer",
                                 {{"type", "Prepend"}, {"prepend", std::string(1 << 20, 'a')}})),
              HasSubstr("times as long"));
  json many = json::array();
  for (int i = 0; i < 100; ++i) many.push_back({{"type", "NFC"}});
  EXPECT_THAT(Refusal(Bytes("/normalizer", {{"type", "Sequence"}, {"normalizers", many}})),
              HasSubstr("100 steps"));
  json splits = json::array();
  for (int i = 0; i < 100; ++i) splits.push_back({{"type", "Digits"}});
  EXPECT_THAT(Refusal(Bytes("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", splits}})),
              HasSubstr("100 splits"));
  EXPECT_THAT(
      Refusal(Bytes("/pre_tokenizer/pretokenizers/1/pattern/Regex", std::string(20'000, 'a'))),
      HasSubstr("20000 bytes"));
  // What families publish passes: compatible forms, then visible spaces.
  const json usual = {{"type", "Sequence"},
                      {"normalizers",
                       {{{"type", "NFKC"}},
                        {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}};
  Make(Characters("/normalizer", usual));
}

TEST(TokenizerJson, RefusesDeepAndMeaninglessFiles) {
  json deep = {{"type", "NFC"}};
  for (int i = 0; i < 200; ++i) deep = {{"type", "Sequence"}, {"normalizers", {deep}}};
  const auto file = JsonConfig::Parse(Bytes("/normalizer", deep).dump(), "tokenizer.json");
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("deeper"));
  EXPECT_THAT(Refusal(json::object()), HasSubstr("'model' is missing"));
  EXPECT_THAT(Refusal({{"model", {{"type", "BPE"}}}}), HasSubstr("model.vocab"));
  EXPECT_THAT(Refusal({{"model", {{"type", "BPE"}, {"vocab", json::object()}}}}),
              HasSubstr("0 tokens"));
}

}  // namespace
}  // namespace nsa::engine
