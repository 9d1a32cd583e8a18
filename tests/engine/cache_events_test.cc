#include "engine/cache_events.h"

#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/prefix_cache.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/notification.h"

namespace nsa::engine {
namespace {

constexpr int64_t kPage = kCachePageTokens;

/// What a router would know.
class Watcher final : public CacheWatcher {
 public:
  void OnCacheEvents(const CacheEvents& events, bool is_snapshot) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (is_snapshot) {
      EXPECT_FALSE(has_snapshot_) << "two snapshots";
      has_snapshot_ = true;
    } else {
      EXPECT_TRUE(has_snapshot_) << "changes of what is not known";
      EXPECT_FALSE(events->empty());
    }
    for (const CacheEvent& event : *events) {
      if (!event.stored) {
        EXPECT_EQ(known_.erase(event.hash), 1U) << "removed and not there";
        continue;
      }
      EXPECT_EQ(event.tokens.size(), static_cast<size_t>(kPage));
      EXPECT_TRUE(known_.insert(event.hash).second) << "stored twice";
      if (event.has_parent) {
        EXPECT_TRUE(known_.contains(event.parent_hash)) << "before its parent";
      }
      tokens_.insert(tokens_.end(), event.tokens.begin(), event.tokens.end());
    }
  }
  bool has_snapshot() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return has_snapshot_;
  }
  std::set<uint64_t> known() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return known_;
  }
  std::vector<int32_t> tokens() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return tokens_;
  }

 private:
  mutable std::mutex mutex_;
  bool has_snapshot_ = false;
  std::set<uint64_t> known_;
  std::vector<int32_t> tokens_;  // of all that was stored, in order
};

template <typename Condition>
bool Eventually(Condition condition) {
  for (const absl::Time end = absl::Now() + absl::Seconds(20); !condition();) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

class PrefixCacheEventsTest : public testing::Test {
 protected:
  /// Makes known pages of one letter each below `root`, and gives them back.
  void Store(const std::string& letters, const std::string& root = "") {
    PrefixChain chain = PrefixCache::Begin(root);
    std::vector<int32_t> pages;
    for (const char letter : letters) {
      const std::vector<int32_t> tokens(kPage, letter);
      const auto page = cache_.Allocate();
      ASSERT_TRUE(page.has_value());
      pages.push_back(cache_.Extend(chain, tokens, *page));
    }
    for (size_t i = pages.size(); i > 0; --i) cache_.Release(pages[i - 1]);
    ASSERT_TRUE(cache_.Consistent());
  }
  static std::string Letters(const std::vector<CacheEvent>& events) {
    std::string letters;
    for (const CacheEvent& event : events) {
      letters.push_back(event.stored ? static_cast<char>(event.tokens.front()) : '-');
    }
    return letters;
  }

  PagePool pool_{6};
  PrefixCache cache_{&pool_, PrefixCache::Begin("").hash};
};

TEST_F(PrefixCacheEventsTest, NotesNothingUnlessAsked) {
  Store("ab");
  EXPECT_TRUE(cache_.TakeEvents().empty());
  cache_.RecordEvents(true);
  Store("abc");
  const auto events = cache_.TakeEvents();
  EXPECT_EQ(Letters(events), "c") << "what is known already is no news";
  EXPECT_TRUE(events[0].has_parent);
  EXPECT_TRUE(cache_.TakeEvents().empty()) << "told once";
  Store("d");
  cache_.RecordEvents(false);
  EXPECT_TRUE(cache_.TakeEvents().empty());
}

TEST_F(PrefixCacheEventsTest, OtherRootsAreNotTold) {
  cache_.RecordEvents(true);
  Store("ab", "salt");
  Store("c");
  EXPECT_EQ(Letters(cache_.TakeEvents()), "c");
  EXPECT_EQ(Letters(cache_.KnownPages()), "c");
  cache_.Clear();
  EXPECT_EQ(Letters(cache_.TakeEvents()), "-");
}

TEST_F(PrefixCacheEventsTest, KnownPagesComeParentsFirst) {
  Store("abc");
  Store("abd");
  Store("ae");
  std::set<uint64_t> known;
  const auto pages = cache_.KnownPages();
  EXPECT_EQ(pages.size(), 5U);
  for (const CacheEvent& page : pages) {
    if (page.has_parent) {
      EXPECT_TRUE(known.contains(page.parent_hash));
    }
    EXPECT_TRUE(known.insert(page.hash).second);
  }
}

TEST_F(PrefixCacheEventsTest, WhatIsForgottenIsToldWithWhatContinuesIt) {
  Store("abcdef");
  cache_.RecordEvents(true);
  Store("x");  // takes the place of what was used the longest ago
  const auto events = cache_.TakeEvents();
  std::set<uint64_t> known;
  for (const CacheEvent& page : cache_.KnownPages()) known.insert(page.hash);
  ASSERT_GE(events.size(), 2U);
  EXPECT_EQ(Letters(events).back(), 'x');
  EXPECT_TRUE(known.contains(events.back().hash));
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    EXPECT_FALSE(events[i].stored);
    EXPECT_FALSE(known.contains(events[i].hash));
  }
}

class CacheWatcherTest : public EngineTest {};

TEST_F(CacheWatcherTest, HearsOfPagesAsTheyComeAndGo) {
  const auto engine = Create();
  const auto first = std::make_shared<Watcher>();
  engine->WatchCache(first);
  ASSERT_TRUE(Eventually([&] { return first->has_snapshot(); })) << "of an idle engine too";
  EXPECT_TRUE(first->known().empty());
  const Request request = MakeRequest("a", 3 * kPage + 10, 4);
  Submit(*engine, request)->done.WaitForNotification();
  ASSERT_TRUE(Eventually([&] { return first->known().size() == 3; })) << first->known().size();
  const std::vector<int32_t> whole(request.prompt_token_ids.begin(),
                                   request.prompt_token_ids.begin() + 3 * kPage);
  EXPECT_EQ(first->tokens(), whole);

  const auto second = std::make_shared<Watcher>();
  engine->WatchCache(second);
  ASSERT_TRUE(Eventually([&] { return second->has_snapshot(); }));
  EXPECT_EQ(second->known(), first->known());
  EXPECT_EQ(second->tokens(), whole);

  Request salted = MakeRequest("b", 2 * kPage + 1, 2);
  salted.cache_salt = "tenant";
  Submit(*engine, salted)->done.WaitForNotification();
  EXPECT_EQ(first->known().size(), 3U) << "nobody else can come for these";

  Notification flushed;
  engine->FlushCache([&](int32_t) { flushed.Notify(); });
  flushed.WaitForNotification();
  EXPECT_TRUE(Eventually([&] { return first->known().empty() && second->known().empty(); }));
}

TEST_F(CacheWatcherTest, WhoLetsGoHearsNoMore) {
  const auto engine = Create();
  auto watcher = std::make_shared<Watcher>();
  engine->WatchCache(watcher);
  ASSERT_TRUE(Eventually([&] { return watcher->has_snapshot(); }));
  const std::weak_ptr<Watcher> held = watcher;
  watcher.reset();
  EXPECT_TRUE(Eventually([&] { return held.expired(); })) << "the engine keeps it";
  Submit(*engine, MakeRequest("a", 2 * kPage + 1, 2))->done.WaitForNotification();
}

}  // namespace
}  // namespace nsa::engine
