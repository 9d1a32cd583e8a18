#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"

namespace nsa::engine {
namespace {

// Token i stands for bytes[i]; those from first_special on are special.
class FakeTokenizer : public Tokenizer {
 public:
  FakeTokenizer(std::vector<std::string> bytes, int32_t first_special, bool strips)
      : bytes_(std::move(bytes)), first_special_(first_special), strips_(strips) {}

  std::vector<int32_t> Encode(std::string_view, const EncodeOptions&) const override { return {}; }
  std::string TokenBytes(int32_t id) const override { return bytes_[id]; }
  std::string Decode(const std::vector<int32_t>&, bool) const override { return ""; }
  int32_t vocabulary_size() const override { return static_cast<int32_t>(bytes_.size()); }
  bool IsSpecial(int32_t id) const override { return id >= first_special_; }
  int32_t bos_id() const override { return -1; }
  const std::vector<int32_t>& stop_ids() const override { return no_ids_; }
  std::string kind() const override { return "fake"; }
  bool strips_leading_space() const override { return strips_; }

 private:
  std::vector<std::string> bytes_;
  int32_t first_special_;
  bool strips_;
  std::vector<int32_t> no_ids_;
};

FakeTokenizer ByteTokenizer() {
  std::vector<std::string> bytes;
  for (int b = 0; b < 256; ++b) bytes.emplace_back(1, static_cast<char>(b));
  return FakeTokenizer(std::move(bytes), 256, false);
}

std::string ReadStream(const Tokenizer& tokenizer, std::string_view bytes) {
  Detokenizer detokenizer(&tokenizer, false);
  std::string text;
  for (char c : bytes) text += detokenizer.Append(static_cast<uint8_t>(c));
  return text + detokenizer.Flush();
}

#define R "\xEF\xBF\xBD"

// What Python's bytes.decode(errors="replace") gives.
TEST(Detokenizer, ReplacesInvalidBytesAsPythonDoes) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a\x80"
       "b",
       "a" R "b"},
      {"\xC0\x80", R R},              // overlong NUL
      {"\xE0\x80\x80", R R R},        // overlong, three bytes
      {"\xE0\x9F\xBF", R R R},        //
      {"\xF0\x80\x80\x80", R R R R},  // overlong, four bytes
      {"\xF0\x8F\xBF\xBF", R R R R},  //
      {"\xED\xA0\x80", R R R},        // a surrogate
      {"\xED\xA0\xBD\xED\xB8\x80", R R R R R R},
      {"\xED\x9F\xBF", "\xED\x9F\xBF"},          // the last before them
      {"\xEE\x80\x80", "\xEE\x80\x80"},          // the first after them
      {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},  // U+10FFFF
      {"\xF4\x90\x80\x80", R R R R},             // over it
      {"\xF5\x80\x80\x80", R R R R},
      {"\xF8\x88\x80\x80\x80", R R R R R},
      {"\xFE\xFF", R R},
      {"\xE2\x82", R},       // cut at the end
      {"\xE2\x82x", R "x"},  // cut by another character
      {"\xE2\x82\xE2\x82\xAC", R "\xE2\x82\xAC"},
      {"\xF0\x9F\x98", R},
      {"\xF0\x9F", R},
      {"\xF0", R},
      {"\xF0\x9F\x98\xC3", R R},
      {"\xC3\xC3\xA9", R "\xC3\xA9"},
      {std::string("\0\x7F", 2), std::string("\0\x7F", 2)},
  };
  const FakeTokenizer tokenizer = ByteTokenizer();
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(ReadStream(tokenizer, bytes), text) << testing::PrintToString(bytes);
    EXPECT_EQ(ReplaceInvalidUtf8(bytes), text) << testing::PrintToString(bytes);
  }
}

#undef R

TEST(Detokenizer, HoldsBackOnlyWhatMayBecomeACharacter) {
  const FakeTokenizer tokenizer = ByteTokenizer();
  Detokenizer detokenizer(&tokenizer, false);
  EXPECT_EQ(detokenizer.Append('a'), "a");
  EXPECT_EQ(detokenizer.Append(0xF0), "");
  EXPECT_EQ(detokenizer.Append(0x9F), "");
  EXPECT_EQ(detokenizer.Append(0x98), "");
  EXPECT_EQ(detokenizer.Append(0x80), "\xF0\x9F\x98\x80");
  EXPECT_EQ(detokenizer.Append(0xE2), "");
  // No character has this after E2: both are known to be wrong or right at once.
  EXPECT_EQ(detokenizer.Append('b'),
            "\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(detokenizer.Append(0xFF), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.Append(0xE0), "");
  EXPECT_EQ(detokenizer.Append(0x80), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.Flush(), "");
  EXPECT_EQ(detokenizer.Append(0xC3), "");
  EXPECT_EQ(detokenizer.Flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.Flush(), "");
}

// Random text, damaged, cut into tokens at random places: every piece is valid text, and they join
// to the whole.
TEST(Detokenizer, JoinsToTheWholeWhereverTokensAreCut) {
  std::mt19937 random(11);
  const std::vector<std::string> characters = {
      "a", " ", "\xC3\xA9", "\xE6\xBC\xA2", "\xF0\x9F\x98\x80", "\xEF\xBF\xBD", "\n"};
  for (int round = 0; round < 20000; ++round) {
    std::string bytes;
    for (uint32_t i = random() % 12; i > 0; --i) {
      std::string part = characters[random() % characters.size()];
      if (random() % 3 == 0) part[random() % part.size()] = static_cast<char>(random());
      if (random() % 4 == 0) part.resize(1 + random() % part.size());
      bytes += part;
    }
    std::vector<std::string> tokens;
    std::string_view rest = bytes;
    while (!rest.empty()) {
      const size_t size = std::min<size_t>(1 + random() % 5, rest.size());
      tokens.emplace_back(rest.substr(0, size));
      rest.remove_prefix(size);
    }
    const size_t num_tokens = tokens.size();
    const FakeTokenizer tokenizer(std::move(tokens), static_cast<int32_t>(num_tokens), false);
    Detokenizer detokenizer(&tokenizer, false);
    std::string text;
    for (size_t i = 0; i <= num_tokens; ++i) {
      const std::string piece =
          i < num_tokens ? detokenizer.Append(static_cast<int32_t>(i)) : detokenizer.Flush();
      ASSERT_EQ(ValidUtf8Prefix(piece), piece.size()) << testing::PrintToString(bytes);
      text += piece;
    }
    ASSERT_EQ(text, ReplaceInvalidUtf8(bytes)) << testing::PrintToString(bytes);
  }
}

TEST(Detokenizer, DropsTheFirstSpaceOnceAndSkipsSpecialTokens) {
  const FakeTokenizer tokenizer({" Hello", " world", "  x", "<s>"}, 3, true);
  Detokenizer skipping(&tokenizer, true);
  EXPECT_EQ(skipping.Append(3), "");
  EXPECT_EQ(skipping.Append(0), "Hello");
  EXPECT_EQ(skipping.Append(3), "");
  EXPECT_EQ(skipping.Append(1), " world");
  Detokenizer showing(&tokenizer, false);
  EXPECT_EQ(showing.Append(3), "<s>");
  EXPECT_EQ(showing.Append(2), " x");
  EXPECT_EQ(showing.Append(2), "  x");
}

// A skipped token must not complete, cut or lose the character around it.
TEST(Detokenizer, KeepsACharacterTogetherAcrossASkippedToken) {
  const FakeTokenizer tokenizer({"\xE6\xBC", "\xA2", "<s>"}, 2, false);
  Detokenizer detokenizer(&tokenizer, true);
  EXPECT_EQ(detokenizer.Append(0), "");
  EXPECT_EQ(detokenizer.Append(2), "");
  EXPECT_EQ(detokenizer.Append(1), "\xE6\xBC\xA2");
}

}  // namespace
}  // namespace nsa::engine
