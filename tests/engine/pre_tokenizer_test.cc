#include "engine/tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>

namespace nsa::engine {
namespace {

using ::testing::ElementsAre;
using Behavior = SplitStage::Behavior;

std::unique_ptr<PreTokenizer> Make(const std::string& pattern,
                                   Behavior behavior = Behavior::kIsolated) {
  auto made = PreTokenizer::FromStages({{.pattern = pattern, .behavior = behavior}}, false);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

std::string Joined(const std::vector<std::string_view>& pieces) {
  std::string text;
  for (const std::string_view piece : pieces) text += piece;
  return text;
}

TEST(PreTokenizer, CutsByEachBehavior) {
  EXPECT_THAT(Make("-")->Split("a-b--c"), ElementsAre("a", "-", "b", "-", "-", "c"));
  EXPECT_THAT(Make("-", Behavior::kMergedWithPrevious)->Split("a-b--c"),
              ElementsAre("a-", "b-", "-", "c"));
  EXPECT_THAT(Make("-", Behavior::kMergedWithNext)->Split("a-b--c"),
              ElementsAre("a", "-b", "-", "-c"));
  EXPECT_THAT(Make("-", Behavior::kOnlyMatches)->Split("a-b--c"), ElementsAre("-", "-", "-"));
  EXPECT_THAT(Make("-", Behavior::kOnlyGaps)->Split("a-b--c"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(Make("x*")->Split("ab"), ElementsAre("ab"));
  EXPECT_THAT(Make("-")->Split(""), ElementsAre());
}

TEST(PreTokenizer, RefusesWhatPcre2Refuses) {
  EXPECT_FALSE(PreTokenizer::FromStages({{.pattern = "("}}, false).ok());
  EXPECT_FALSE(PreTokenizer::FromStages({{.pattern = "\\C"}}, false).ok());
  EXPECT_FALSE(
      PreTokenizer::FromStages({{.pattern = "((((a{1,99}){1,99}){1,99}){1,99})"}}, false).ok());
  EXPECT_FALSE(PreTokenizer::FromStages({{.pattern = std::string(1000, '(')}}, false).ok());
}

// Patterns of a checkpoint that take exponential time, alone or over and over, and one that moves
// the begin of its match behind its end.
TEST(PreTokenizer, BoundsTheWorkOfAForeignPattern) {
  std::string often;
  for (int i = 0; i < 40'000; ++i) often += std::string(22, 'a') + "c";
  const std::pair<std::string, std::string> cases[] = {
      {"(a+)+b|.", std::string(100'000, 'a')},
      {"(?:a+)+b|.", often},
      {"(a|aa)+$|.", often},
      {"(?:(?1)|x)(a(?1)?b?)|.", often},
      {"(x)?(?=(?2))((?(1)y|a\\Kaa))|a", often},
      {"(?:a|b|ab)*?c\\b", std::string(1 << 20, 'a')}};
  for (const auto& [pattern, text] : cases) {
    auto made = PreTokenizer::FromStages({{.pattern = pattern}}, false);
    if (!made.ok()) continue;  // PCRE2 sees through some
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(Joined((*made)->Split(text)), text) << pattern;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    EXPECT_LT(seconds.count(), 60) << pattern;
  }
}

TEST(PreTokenizer, CutsALongTextWithAPatternOfACheckpoint) {
  const std::string pattern = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+";
  std::string text;
  for (int i = 0; i < 50'000; ++i) text += " word" + std::to_string(i);
  text += std::string(1 << 20, 'x') + std::string(1 << 20, ' ');
  const auto pieces = Make(pattern)->Split(text);
  EXPECT_EQ(Joined(pieces), text);
  EXPECT_GT(pieces.size(), 100'000u);
  EXPECT_EQ(pieces.back(), std::string(1 << 20, ' '));
}

}  // namespace
}  // namespace nsa::engine
