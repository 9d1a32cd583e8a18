#include "engine/tokenizer/character_bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>

namespace nsa::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// 0 <unk>, 1 <s>, 2 </s>, 3 ▁, 4 a, 5 b, 6 ab, 7 ▁ab, 8 é, then bytes.
constexpr int32_t kFirstByte = 9;

Vocabulary Tokens(int num_bytes) {
  Vocabulary vocabulary;
  vocabulary.tokens = {"<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab", "é"};
  vocabulary.types.assign(vocabulary.tokens.size(), TokenType::kNormal);
  vocabulary.types[0] = TokenType::kUnknown;
  vocabulary.types[1] = vocabulary.types[2] = TokenType::kControl;
  for (int byte = 0; byte < num_bytes; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocabulary.tokens.emplace_back(name);
    vocabulary.types.push_back(TokenType::kNormal);
  }
  vocabulary.merges = {"a b", "▁ ab"};
  vocabulary.unknown_id = 0;
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  return vocabulary;
}

CharacterBpe::Options WithBytes() {
  CharacterBpe::Options options;
  options.byte_fallback = true;
  return options;
}

std::unique_ptr<CharacterBpe> Make(Vocabulary vocabulary, CharacterBpe::Options options) {
  auto made = CharacterBpe::Create(std::move(vocabulary), std::move(options));
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

constexpr EncodeOptions kPlain = {.add_special_tokens = false, .parse_special_tokens = false};

TEST(CharacterBpe, MergesCharactersBestFirst) {
  const auto bpe = Make(Tokens(256), WithBytes());
  EXPECT_THAT(bpe->Encode("▁ab", kPlain), ElementsAre(7));
  EXPECT_THAT(bpe->Encode("▁aab", kPlain), ElementsAre(3, 4, 6));
  EXPECT_THAT(bpe->Encode("éba", kPlain), ElementsAre(8, 5, 4));
  EXPECT_THAT(bpe->Encode("", kPlain), ElementsAre());
}

TEST(CharacterBpe, FallsBackToBytes) {
  const auto bpe = Make(Tokens(256), WithBytes());
  EXPECT_THAT(bpe->Encode("aß", kPlain), ElementsAre(4, kFirstByte + 0xC3, kFirstByte + 0x9F));
  EXPECT_EQ(bpe->Decode({4, kFirstByte + 0xC3, kFirstByte + 0x9F}, false), "aß");
  EXPECT_EQ(bpe->Decode({kFirstByte + 0xC3, 4}, false), "\uFFFDa");
  EXPECT_EQ(bpe->TokenBytes(kFirstByte + 0xC3), "\xC3");
}

TEST(CharacterBpe, NeedsEveryByteOfACharacter) {
  const auto some = Make(Tokens(0xC0), WithBytes());  // without 0xC3
  EXPECT_THAT(some->Encode("ßß", kPlain), ElementsAre(0, 0));
  CharacterBpe::Options fusing = WithBytes();
  fusing.fuse_unknown = true;
  EXPECT_THAT(Make(Tokens(0), std::move(fusing))->Encode("ßßaß", kPlain), ElementsAre(0, 4, 0));
  Vocabulary nameless = Tokens(0);
  nameless.unknown_id = -1;
  EXPECT_THAT(Make(std::move(nameless), WithBytes())->Encode("ßaß", kPlain), ElementsAre(4));
}

TEST(CharacterBpe, TakesBytesForCharactersWithoutTheFallback) {
  const auto bpe = Make(Tokens(256), {});
  EXPECT_THAT(bpe->Encode("ß", kPlain), ElementsAre(0));
  EXPECT_EQ(bpe->TokenBytes(kFirstByte), "<0x00>");
}

TEST(CharacterBpe, NormalizesTheHeadOfTheTextByItself) {
  CharacterBpe::Options options = WithBytes();
  options.normalizer.AddReplace(" ", "▁");
  options.first_normalizer = options.normalizer;
  options.first_normalizer.AddPrepend("▁", "▁");
  options.strips_leading_space = true;
  const auto bpe = Make(Tokens(256), std::move(options));
  EXPECT_THAT(bpe->Encode("ab ab</s>ab", {}), ElementsAre(7, 7, 2, 6));
  EXPECT_EQ(bpe->Decode({7, 7, 2, 6}, false), "ab ab</s>ab");
  EXPECT_EQ(bpe->Decode({7, 7, 2, 6}, true), "ab abab");
}

TEST(CharacterBpe, AddsTokensAroundAndParsesThemWithin) {
  Vocabulary vocabulary = Tokens(256);
  vocabulary.add_bos = true;
  vocabulary.add_eos = true;
  const auto bpe = Make(std::move(vocabulary), WithBytes());
  EXPECT_THAT(bpe->Encode("a</s>b", {}), ElementsAre(1, 4, 2, 5, 2));
  const auto plain = bpe->Encode("</s>", kPlain);
  EXPECT_EQ(plain.size(), 4u);
  EXPECT_TRUE(bpe->IsSpecial(0));
  EXPECT_TRUE(bpe->IsSpecial(2));
  EXPECT_FALSE(bpe->IsSpecial(4));
}

TEST(CharacterBpe, ReadsInvalidUtf8AsReplacementCharacters) {
  const auto bpe = Make(Tokens(256), WithBytes());
  const auto ids = bpe->Encode("a\xFF", kPlain);
  EXPECT_EQ(bpe->Decode(ids, false), "a\uFFFD");
}

TEST(CharacterBpe, TakesAMegabyteWithoutASplit) {
  const auto bpe = Make(Tokens(256), WithBytes());
  const auto begin = std::chrono::steady_clock::now();
  std::string text;
  for (int i = 0; i < 500'000; ++i) text += i % 3 == 0 ? "ab" : "a";
  EXPECT_EQ(bpe->Decode(bpe->Encode(text, kPlain), false), text);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(seconds.count(), 20);
}

TEST(CharacterBpe, RefusesWhatIsNotConsistent) {
  const auto refusal = [](Vocabulary vocabulary) {
    const auto made = CharacterBpe::Create(std::move(vocabulary), WithBytes());
    EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(made.status().message());
  };
  Vocabulary unknown_part = Tokens(0);
  unknown_part.merges.push_back("a \n" + std::string(1000, 'x'));
  EXPECT_THAT(refusal(unknown_part), HasSubstr("merges[2] is 'a \\nxxx"));
  EXPECT_LT(refusal(unknown_part).size(), 300u);
  Vocabulary one_part = Tokens(0);
  one_part.merges.push_back("ab");
  EXPECT_THAT(refusal(one_part), HasSubstr("two parts"));
  Vocabulary twice = Tokens(0);
  twice.tokens[5] = "a";
  EXPECT_THAT(refusal(twice), HasSubstr("4 and 5 are both 'a'"));
  Vocabulary no_bos = Tokens(0);
  no_bos.add_bos = true;
  no_bos.bos_id = -1;
  EXPECT_THAT(refusal(no_bos), HasSubstr("begin-of-sequence"));
  Vocabulary long_special = Tokens(0);
  long_special.tokens[2] = std::string(513, 'x');
  EXPECT_THAT(refusal(long_special), HasSubstr("513 bytes"));
}

}  // namespace
}  // namespace nsa::engine
