#include "engine/prompt_lookup.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace nsa::engine {
namespace {

using Tokens = std::vector<int32_t>;

TEST(PromptLookupTest, CopiesWhatFollowedTheLastTokens) {
  PromptLookup lookup;
  EXPECT_EQ(lookup.Draft({1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3}, 16), (Tokens{4, 5, 6, 7}));
  EXPECT_EQ(PromptLookup().Draft({1, 2, 3, 4, 5, 1, 2, 3}, 2), (Tokens{4, 5})) << "the limit";
  EXPECT_EQ(PromptLookup().Draft({1, 2, 3, 4, 5, 1, 2, 3}, 0), Tokens{});
}

TEST(PromptLookupTest, NothingToCopyGivesNothing) {
  EXPECT_EQ(PromptLookup().Draft({}, 16), Tokens{});
  EXPECT_EQ(PromptLookup().Draft({1, 1}, 16), Tokens{});
  EXPECT_EQ(PromptLookup().Draft({1, 2, 3}, 16), Tokens{});
  EXPECT_EQ(PromptLookup().Draft({1, 2, 3, 9, 2, 3}, 16), Tokens{}) << "two tokens are too few";
}

TEST(PromptLookupTest, LongerMatchesWinAndOfEqualOnesTheLatest) {
  EXPECT_EQ(PromptLookup().Draft({7, 1, 2, 3, 4, 8, 1, 2, 3, 5, 9, 9, 7, 1, 2, 3}, 1), Tokens{4});
  EXPECT_EQ(PromptLookup().Draft({6, 1, 2, 3, 4, 8, 1, 2, 3, 5, 9, 9, 7, 1, 2, 3}, 1), Tokens{5});
}

TEST(PromptLookupTest, AShortPeriodIsGoneOnWith) {
  EXPECT_EQ(PromptLookup().Draft({4, 4, 4, 4}, 16), (Tokens{4, 4, 4, 4}));
  EXPECT_EQ(PromptLookup().Draft({1, 2, 1, 2, 1}, 16), (Tokens{2, 1, 2, 1}));
}

TEST(PromptLookupTest, DraftsGrowWhileTheyAreRightAndPauseWhenTheyAreNot) {
  PromptLookup lookup;
  const Tokens tokens(100, 5);
  EXPECT_EQ(lookup.Draft(tokens, 100).size(), 4u);
  lookup.Learn(4, 4);
  EXPECT_EQ(lookup.Draft(tokens, 100).size(), 8u);
  lookup.Learn(8, 8);
  EXPECT_EQ(lookup.Draft(tokens, 100).size(), 16u);
  lookup.Learn(16, 16);
  EXPECT_EQ(lookup.Draft(tokens, 100).size(), static_cast<size_t>(PromptLookup::kMaxDraft));
  lookup.Learn(16, 5);
  EXPECT_EQ(lookup.Draft(tokens, 100).size(), 6u);
  // Nothing right: a pause that doubles each time, then one token to try.
  for (const int pause : {1, 2, 4, 8, 16, 32, 32}) {
    lookup.Learn(6, 0);
    for (int i = 0; i < pause; ++i) EXPECT_TRUE(lookup.Draft(tokens, 100).empty()) << pause;
    EXPECT_EQ(lookup.Draft(tokens, 100).size(), 1u) << pause;
  }
  lookup.Learn(1, 1);
  lookup.Learn(2, 0);
  EXPECT_TRUE(lookup.Draft(tokens, 100).empty());
  EXPECT_EQ(lookup.Draft(tokens, 100).size(), 1u);
}

/// Token by token or all at once: the index is the same.
TEST(PromptLookupTest, GrowingTextIsIndexedAsItComes) {
  std::mt19937 random(1);
  Tokens tokens;
  PromptLookup growing;
  int num_drafts = 0;
  for (int i = 0; i < 2000; ++i) {
    tokens.push_back(static_cast<int32_t>(random() % 6));
    const Tokens draft = growing.Draft(tokens, 4);
    EXPECT_EQ(draft, PromptLookup().Draft(tokens, 4));
    num_drafts += draft.empty() ? 0 : 1;
  }
  EXPECT_GT(num_drafts, 1000);
}

}  // namespace
}  // namespace nsa::engine
