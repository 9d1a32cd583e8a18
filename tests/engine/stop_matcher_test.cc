#include "engine/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace nsa::engine {
namespace {

TEST(StopMatcher, WithoutStopsAllPasses) {
  StopMatcher matcher({}, false);
  EXPECT_EQ(matcher.Append("abc").text, "abc");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, StopAcrossPieces) {
  StopMatcher matcher({"STOP"}, false);
  EXPECT_EQ(matcher.Append("go ST").text, "go ");
  EXPECT_EQ(matcher.Append("O").text, "");
  const auto result = matcher.Append("P and more");
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.stop_string, "STOP");
}

TEST(StopMatcher, HeldBackTextComesWhenItIsNoStop) {
  StopMatcher matcher({"STOP"}, false);
  EXPECT_EQ(matcher.Append("ST").text, "");
  EXPECT_EQ(matcher.Append("AR").text, "STAR");
  EXPECT_EQ(matcher.Append("S").text, "");
  EXPECT_EQ(matcher.Flush(), "S");
}

TEST(StopMatcher, SelfOverlappingStop) {
  StopMatcher matcher({"aab"}, false);
  EXPECT_EQ(matcher.Append("aa").text, "");
  EXPECT_EQ(matcher.Append("a").text, "a");
  const auto result = matcher.Append("b");
  EXPECT_EQ(result.stop_string, "aab");
}

TEST(StopMatcher, FirstToBeginWinsThenFirstListed) {
  StopMatcher matcher({"yz", "xy", "xyz"}, true);
  const auto result = matcher.Append("wxyz");
  EXPECT_EQ(result.stop_string, "xy");
  EXPECT_EQ(result.text, "wxy");
}

TEST(StopMatcher, NeverCutsACharacter) {
  // "é" is C3 A9; a stop that begins with A9 must not pull its second byte away.
  StopMatcher matcher({"\xA9!"}, false);
  const auto result = matcher.Append("caf\xC3\xA9");
  EXPECT_EQ(result.text, "caf");
  EXPECT_EQ(matcher.Append("s").text, "\xC3\xA9s");
}

/// Whatever the cuts, the text is what a search in the whole text gives.
TEST(StopMatcher, EqualsSearchInTheWholeText) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::string whole;
    for (int i = 0; i < 30; ++i) whole += static_cast<char>('a' + random() % 3);
    std::string stop;
    for (uint32_t i = 0; i < 1 + random() % 5; ++i) stop += static_cast<char>('a' + random() % 3);
    StopMatcher matcher({stop}, false);
    std::string shown;
    bool stopped = false;
    for (size_t at = 0; at < whole.size() && !stopped;) {
      const size_t length = 1 + random() % 4;
      const auto result = matcher.Append(whole.substr(at, length));
      shown += result.text;
      stopped = result.stop_string.has_value();
      at += length;
    }
    if (!stopped) shown += matcher.Flush();
    ASSERT_EQ(shown, whole.substr(0, whole.find(stop))) << whole << " stop " << stop;
  }
}

}  // namespace
}  // namespace nsa::engine
