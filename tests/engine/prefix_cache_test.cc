#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace nsa::engine {
namespace {

constexpr int64_t kPage = kernels::kPageSize;

/// `num_pages` pages, of which page i is full of `letters[i]`, and one token more.
std::vector<int32_t> Text(const std::string& letters) {
  std::vector<int32_t> tokens;
  for (const char letter : letters) tokens.insert(tokens.end(), kPage, letter);
  tokens.push_back(0);
  return tokens;
}

/// A sequence as the scheduler keeps it.
struct User {
  std::vector<int32_t> tokens;
  std::vector<int32_t> pages;
  PrefixChain chain;
};

class PrefixCacheTest : public testing::Test {
 protected:
  /// Begins behind what is known, takes pages for the rest, computes it and makes it known.
  User Run(const std::string& letters, const std::string& root = "") {
    User user{.tokens = Text(letters), .pages = {}, .chain = {}};
    PrefixMatch match = cache_.Find(PrefixCache::Begin(root), user.tokens);
    cache_.Use(match);
    num_found_ = static_cast<int>(match.pages.size());
    user.pages = std::move(match.pages);
    user.chain = match.chain;
    for (size_t i = user.pages.size(); i < letters.size(); ++i) {
      const auto page = cache_.Allocate();
      EXPECT_TRUE(page.has_value());
      user.pages.push_back(*page);
      const std::span<const int32_t> tokens(user.tokens);
      user.pages[i] = cache_.Extend(user.chain, tokens.subspan(i * kPage, kPage), *page);
    }
    EXPECT_TRUE(cache_.Consistent());
    return user;
  }
  void End(const User& user) {
    for (size_t i = user.pages.size(); i > 0; --i) cache_.Release(user.pages[i - 1]);
    EXPECT_TRUE(cache_.Consistent());
  }
  int Found(const std::string& letters, const std::string& root = "") {
    return static_cast<int>(cache_.Find(PrefixCache::Begin(root), Text(letters)).pages.size());
  }

  PagePool pool_{6};
  PrefixCache cache_{&pool_};
  int num_found_ = 0;
};

TEST_F(PrefixCacheTest, KnowsChainsOfWholePages) {
  const User user = Run("abc");
  EXPECT_EQ(Found("abc"), 3);
  EXPECT_EQ(Found("abd"), 2);
  EXPECT_EQ(Found("b"), 0);    // nothing stands alone
  EXPECT_EQ(Found("aac"), 1);  // the same page elsewhere is another
  EXPECT_EQ(Found("abc", "salt"), 0);
  // The last token is always computed.
  EXPECT_EQ(
      cache_.Find(PrefixCache::Begin(""), std::span(user.tokens).first(2 * kPage)).pages.size(),
      1u);
  EXPECT_EQ(cache_.Find(PrefixCache::Begin(""), {}).pages.size(), 0u);
  EXPECT_EQ(cache_.Find(PrefixChain{}, user.tokens).pages.size(), 0u);
  End(user);
  EXPECT_EQ(Found("abc"), 3);
  EXPECT_EQ(cache_.num_idle(), 3);
  EXPECT_EQ(cache_.num_available(), 6);
}

TEST_F(PrefixCacheTest, TheLongestUnusedGoesFirstAndEndsBeforeBeginnings) {
  End(Run("abc"));
  End(Run("xy"));
  End(Run("ab"));                 // used again, so "c" is the oldest
  const User three = Run("123");  // one page is free: two must go
  EXPECT_EQ(Found("abc"), 2);
  EXPECT_EQ(Found("xy"), 1);
  End(three);
  EXPECT_EQ(cache_.num_available(), 6);
}

TEST_F(PrefixCacheTest, PagesInUseStay) {
  const User held = Run("abcd");
  End(Run("xy"));
  const User more = Run("12");
  EXPECT_EQ(Found("abcd"), 4);
  EXPECT_EQ(Found("xy"), 0);
  EXPECT_FALSE(cache_.Allocate().has_value());
  End(held);
  End(more);
}

TEST_F(PrefixCacheTest, WhatIsKnownIsNotKeptTwice) {
  User first = Run("a");
  // Both computed "ab" without knowing of each other.
  User second = Run("a");
  EXPECT_EQ(num_found_, 1);
  const int32_t own = *cache_.Allocate(), other = *cache_.Allocate();
  const std::vector<int32_t> b(kPage, 'b');
  EXPECT_EQ(cache_.Extend(first.chain, b, own), own);
  EXPECT_EQ(cache_.Extend(second.chain, b, other), own);
  EXPECT_EQ(pool_.num_users(own), 3);
  EXPECT_EQ(pool_.num_users(other), 0);
  first.pages.push_back(own);
  second.pages.push_back(own);
  End(first);
  End(second);
  EXPECT_EQ(cache_.num_idle(), 2);
}

TEST_F(PrefixCacheTest, ClearForgetsAllAndFreesWhatIsIdle) {
  End(Run("xy"));
  User held = Run("ab");
  EXPECT_EQ(cache_.Clear(), 2);
  EXPECT_TRUE(cache_.Consistent());
  EXPECT_EQ(Found("ab"), 0);
  EXPECT_EQ(pool_.num_active(), 2);
  // Its chain is lost: what it computes from now on stays its own.
  const int32_t page = *cache_.Allocate();
  EXPECT_EQ(cache_.Extend(held.chain, std::vector<int32_t>(kPage, 'c'), page), page);
  EXPECT_FALSE(held.chain.enabled);
  held.pages.push_back(page);
  End(held);
  EXPECT_EQ(pool_.num_free(), 6);
}

/// Random sequences over few letters beside a list of what is in use.
TEST(PrefixCachePropertyTest, RandomUseKeepsUsersChainsAndOrder) {
  std::mt19937 random(7);
  PagePool pool(12);
  PrefixCache cache(&pool);
  std::vector<User> users;
  int64_t num_found = 0;
  for (int step = 0; step < 20'000; ++step) {
    const uint32_t what = random() % 10;
    if (what < 5 && users.size() < 5) {
      std::string letters;
      for (uint32_t i = random() % 5 + 1; i > 0; --i)
        letters += static_cast<char>('a' + random() % 2);
      User user{.tokens = Text(letters), .pages = {}, .chain = {}};
      const std::string root(random() % 3, 'r');
      PrefixMatch match = cache.Find(PrefixCache::Begin(root), user.tokens);
      cache.Use(match);
      num_found += static_cast<int64_t>(match.pages.size());
      user.pages = std::move(match.pages);
      user.chain = match.chain;
      users.push_back(std::move(user));
    } else if (what < 8 && !users.empty()) {
      User& user = users[random() % users.size()];
      const size_t next = user.pages.size();
      if ((next + 1) * kPage > user.tokens.size()) continue;
      const auto page = cache.Allocate();
      if (!page.has_value()) continue;
      user.pages.push_back(cache.Extend(
          user.chain, std::span<const int32_t>(user.tokens).subspan(next * kPage, kPage), *page));
    } else if (what == 8 && !users.empty()) {
      const size_t index = random() % users.size();
      for (size_t i = users[index].pages.size(); i > 0; --i) {
        cache.Release(users[index].pages[i - 1]);
      }
      users.erase(users.begin() + static_cast<int64_t>(index));
    } else if (random() % 50 == 0) {
      cache.Clear();
    }
    ASSERT_TRUE(cache.Consistent()) << step;
    std::map<int32_t, int> num_users;
    for (const User& user : users) {
      for (const int32_t page : user.pages) ++num_users[page];
    }
    for (int32_t page = 0; page < pool.num_pages(); ++page) {
      ASSERT_EQ(pool.num_users(page), num_users[page] + (cache.IsKnown(page) ? 1 : 0)) << step;
    }
  }
  EXPECT_GT(num_found, 1000);
}

}  // namespace
}  // namespace nsa::engine
