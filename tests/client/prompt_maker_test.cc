#include "client/load/prompt_maker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace nsa::client {
namespace {

using ::testing::Each;
using ::testing::SizeIs;

PlannedRequest Request(int64_t index, int64_t prompt, int64_t group = 0, int64_t prefix = 0) {
  return {.index = index, .prompt_tokens = prompt, .prefix_group = group, .prefix_tokens = prefix};
}

std::vector<int32_t> Head(const std::vector<int32_t>& ids, int count) {
  return {ids.begin(), ids.begin() + count};
}

TEST(PromptMakerTest, IdsAreOfTheVocabulary) {
  const PromptMaker maker(1, 9, {});
  const auto ids = maker.Make(Request(0, 500));
  EXPECT_THAT(ids, SizeIs(500));
  EXPECT_EQ(std::set<int32_t>(ids.begin(), ids.end()).size(), 9U);
  EXPECT_THAT(ids, Each(::testing::AllOf(::testing::Ge(0), ::testing::Lt(9))));
}

TEST(PromptMakerTest, SeedAndIndexDecide) {
  const PromptMaker maker(1, 1000, {}), same(1, 1000, {}), other(2, 1000, {});
  EXPECT_EQ(maker.Make(Request(3, 50)), same.Make(Request(3, 50)));
  EXPECT_NE(maker.Make(Request(3, 50)), maker.Make(Request(4, 50)));
  EXPECT_NE(maker.Make(Request(3, 50)), other.Make(Request(3, 50)));
  PlannedRequest warmup = Request(3, 50);
  warmup.warmup = true;
  EXPECT_NE(maker.Make(Request(3, 50)), maker.Make(warmup));
}

TEST(PromptMakerTest, GroupsShareTheirPrefixAndNoMore) {
  const PromptMaker maker(1, 1000, {});
  const auto one = maker.Make(Request(0, 60, 5, 40));
  const auto two = maker.Make(Request(1, 60, 5, 40));
  const auto shorter = maker.Make(Request(2, 60, 5, 20));
  const auto elsewhere = maker.Make(Request(3, 60, 6, 40));
  EXPECT_EQ(Head(one, 40), Head(two, 40));
  EXPECT_NE(one[40], two[40]);
  EXPECT_EQ(Head(one, 20), Head(shorter, 20));
  EXPECT_NE(Head(one, 20), Head(elsewhere, 20));
  EXPECT_THAT(maker.Make(Request(4, 30, 5, 30)), SizeIs(30));
}

TEST(PromptMakerTest, GivenIdsAreThePrompt) {
  PlannedRequest request = Request(0, 3, 5, 2);
  request.token_ids = {900, 1, 900};
  EXPECT_THAT(PromptMaker(1, 10, {}).Make(request), ::testing::ElementsAre(900, 1, 900));
  EXPECT_THAT(PromptMaker(1, 10, {4, 4}).Make(request), ::testing::ElementsAre(900, 1, 900));
}

TEST(PromptMakerTest, TextIsCutInOrderAndAroundItsEnd) {
  const std::vector<int32_t> text = {7, 8, 9, 10, 11};
  const PromptMaker maker(1, 1000, text);
  std::set<int32_t> first;
  for (int64_t index = 0; index < 100; ++index) {
    const auto ids = maker.Make(Request(index, 12));
    ASSERT_THAT(ids, SizeIs(12));
    first.insert(ids[0]);
    for (size_t i = 1; i < ids.size(); ++i) {
      ASSERT_EQ(ids[i], ids[i - 1] == 11 ? 7 : ids[i - 1] + 1);
    }
  }
  EXPECT_THAT(first, SizeIs(5));
}

}  // namespace
}  // namespace nsa::client
