#include "engine/tokenizer/oniguruma.h"

#include <gtest/gtest.h>

namespace nsa::engine {
namespace {

TEST(Oniguruma, WritesWhiteSpaceAsUnicodeHasIt) {
  EXPECT_EQ(ToPcre2("\\s+(?!\\S)"), "[\\t-\\r\\x{85}\\p{Z}]+(?![^\\t-\\r\\x{85}\\p{Z}])");
  EXPECT_EQ(ToPcre2("[^\\s\\p{L}]"), "[^\\t-\\r\\x{85}\\p{Z}\\p{L}]");
}

TEST(Oniguruma, KeepsTheRest) {
  EXPECT_EQ(ToPcre2("(?i:'s|'t) ?\\p{N}{1,3}|\\\\s|\\[\\]"),
            "(?i:'s|'t) ?\\p{N}{1,3}|\\\\s|\\[\\]");
  EXPECT_EQ(ToPcre2("[\\u4e00-\\u9fa5]"), "[\\x{4e00}-\\x{9fa5}]");
  EXPECT_EQ(ToPcre2("\\h[\\h]"), "[0-9a-fA-F][0-9a-fA-F]");
  EXPECT_EQ(ToPcre2("\\"), "\\");
}

TEST(Oniguruma, QuotesText) { EXPECT_EQ(QuotePattern("a.b ▁"), "a\\.b ▁"); }

}  // namespace
}  // namespace nsa::engine
