#include "engine/tokenizer/oniguruma.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace nsa::engine {
namespace {

std::string Rewritten(std::string_view pattern) {
  const auto result = ToPcre2(pattern);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.value_or("");
}

TEST(Oniguruma, WritesWhiteSpaceAsUnicodeHasIt) {
  EXPECT_EQ(Rewritten("\\s+(?!\\S)"), "[\\t-\\r\\x{85}\\p{Z}]+(?![^\\t-\\r\\x{85}\\p{Z}])");
  EXPECT_EQ(Rewritten("[^\\s\\p{L}]"), "[^\\t-\\r\\x{85}\\p{Z}\\p{L}]");
}

TEST(Oniguruma, KeepsTheRest) {
  EXPECT_EQ(Rewritten("(?i:'s|'t) ?\\p{N}{1,3}|\\\\s|\\[\\]"),
            "(?i:'s|'t) ?\\p{N}{1,3}|\\\\s|\\[\\]");
  EXPECT_EQ(Rewritten("[\\u4e00-\\u9fa5]"), "[\\x{4e00}-\\x{9fa5}]");
  EXPECT_EQ(Rewritten("\\h[\\h]"), "[0-9a-fA-F][0-9a-fA-F]");
  EXPECT_EQ(Rewritten("\\p{L}+\\x{41}++|[\\P{N}]+"), "\\p{L}+\\x{41}++|[\\P{N}]+");
  EXPECT_EQ(Rewritten("\\"), "\\");
  EXPECT_EQ(Rewritten("[[:alpha:]x]+a++"), "[[:alpha:]x]+a++");
  EXPECT_EQ(Rewritten("(?<name>a)(?P<m>b)(?<!c)"), "(?<name>a)(?P<m>b)(?<!c)");
}

TEST(Oniguruma, TakesAnchorsForEndsOfLines) {
  EXPECT_EQ(Rewritten("^a$"), "(?m)^a$");
  EXPECT_EQ(Rewritten("[^a$]\\$"), "[^a$]\\$");
}

TEST(Oniguruma, TakesABracketThatClosesAtOnceForItself) {
  EXPECT_EQ(Rewritten("[]a]"), "[\\]a]");
  EXPECT_EQ(Rewritten("[^]a]"), "[^\\]a]");
}

TEST(Oniguruma, RefusesWhatMeansAnotherThing) {
  for (const char* pattern : {"[a-z&&[^b]]", "[a[b]]", "[a&&b]", "(?m:.)", "(?im)a", "\\Qa\\E",
                              "a{1,3}+", "(*ACCEPT)a", "\\C", "a\\Kb", "[[:alpha"}) {
    const auto result = ToPcre2(pattern);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kUnimplemented) << pattern;
    EXPECT_THAT(std::string(result.status().message()), testing::HasSubstr("byte")) << pattern;
  }
}

// What families publish means the same to both, or is rewritten.
TEST(Oniguruma, TakesPublishedPatterns) {
  for (
      const char* pattern :
      {R"re([!"#$%&'()*+,\-./:;<=>?@\[\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)re",
       R"re([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t)?)re",
       R"re((?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)re",
       R"re([一-龥\u3040-ゟ゠-ヿ]+|\s?[!-/:-~！-／：-～‘-‟　-。]+|\s+$)re"}) {
    EXPECT_TRUE(ToPcre2(pattern).ok()) << ToPcre2(pattern).status();
  }
}

TEST(Oniguruma, QuotesText) { EXPECT_EQ(QuotePattern("a.b ▁"), "a\\.b ▁"); }

}  // namespace
}  // namespace nsa::engine
