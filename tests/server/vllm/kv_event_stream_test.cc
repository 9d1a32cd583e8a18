#include "server/vllm/kv_event_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/server/vllm/fake_message_stream.h"

namespace nsa::server {
namespace {

using ::testing::ElementsAre;

using Stream = FakeMessageStream<wire_common::KvEventBatch>;

engine::CacheEvent Stored(uint64_t hash, uint64_t parent = 0) {
  engine::CacheEvent event;
  event.hash = hash;
  event.stored = true;
  event.has_parent = parent != 0;
  event.parent_hash = parent;
  event.tokens.assign(engine::kCachePageTokens, static_cast<int32_t>(hash % 1000));
  return event;
}

engine::CacheEvent Removed(uint64_t hash) {
  engine::CacheEvent event;
  event.hash = hash;
  return event;
}

engine::CacheEvents Events(std::vector<engine::CacheEvent> events) {
  return std::make_shared<const std::vector<engine::CacheEvent>>(std::move(events));
}

TEST(KvEventStreamTest, BeginsWithAllThatIsKnown) {
  Stream stream;
  KvEventStream events(&stream);
  std::vector<engine::CacheEvent> known;
  for (uint64_t hash = 1; hash <= KvEventStream::kMaxEvents + 3; ++hash) {
    known.push_back(Stored(hash, hash - 1));
  }
  events.OnCacheEvents(Events(known), true);
  events.OnCacheEvents(Events({Stored(2000)}), false);
  stream.EndAll(events);
  ASSERT_EQ(stream.sent.size(), 3U);
  EXPECT_TRUE(stream.sent[0].events(0).has_cleared());
  EXPECT_EQ(stream.sent[0].events(1).stored().blocks_size(),
            static_cast<int>(KvEventStream::kMaxEvents));
  EXPECT_FALSE(stream.sent[0].events(1).stored().has_parent_block_hash());
  EXPECT_EQ(stream.sent[1].events(0).stored().parent_block_hash(),
            static_cast<int64_t>(KvEventStream::kMaxEvents));
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(stream.sent[i].sequence_number(), i + 1);
    EXPECT_EQ(stream.sent[i].has_snapshot(), i < 2);
    if (i == 2) continue;
    EXPECT_EQ(stream.sent[i].snapshot().index(), i);
    EXPECT_EQ(stream.sent[i].snapshot().count(), 2U);
    EXPECT_EQ(stream.sent[i].snapshot().blocks(), known.size());
    EXPECT_EQ(stream.sent[i].events(0).event_id(), 0U);
  }
  EXPECT_EQ(stream.sent[2].events(0).event_id(), 1U);
}

TEST(KvEventStreamTest, AnEmptyCacheIsToldToo) {
  Stream stream;
  KvEventStream events(&stream);
  events.OnCacheEvents(Events({}), true);
  stream.EndAll(events);
  ASSERT_EQ(stream.sent.size(), 1U);
  ASSERT_EQ(stream.sent[0].events_size(), 1);
  EXPECT_TRUE(stream.sent[0].events(0).has_cleared());
  EXPECT_EQ(stream.sent[0].snapshot().count(), 1U);
}

TEST(KvEventStreamTest, JoinsChainsAndRemovals) {
  Stream stream;
  KvEventStream events(&stream);
  const uint64_t large = 0xFFFFFFFFFFFFFFFEU;
  events.OnCacheEvents(Events({Stored(1), Stored(2, 1), Stored(large, 1), Removed(2), Removed(1),
                               Stored(7), Removed(large)}),
                       false);
  ASSERT_EQ(stream.sent.size(), 1U);
  const auto& batch = stream.sent[0];
  ASSERT_EQ(batch.events_size(), 5);
  EXPECT_EQ(batch.events(0).stored().blocks_size(), 2);
  EXPECT_EQ(batch.events(0).stored().blocks(1).block_size(), engine::kCachePageTokens);
  EXPECT_EQ(batch.events(0).stored().blocks(1).token_ids_size(), engine::kCachePageTokens);
  EXPECT_EQ(batch.events(1).stored().parent_block_hash(), 1);
  EXPECT_EQ(batch.events(1).stored().blocks(0).block_hash(), -2) << "the same bits with a sign";
  EXPECT_THAT(batch.events(2).removed().block_hashes(), ElementsAre(2, 1));
  EXPECT_FALSE(batch.events(3).stored().has_parent_block_hash());
  EXPECT_THAT(batch.events(4).removed().block_hashes(), ElementsAre(-2));
  EXPECT_GT(batch.timestamp(), 1e9);
}

TEST(KvEventStreamTest, WhoIsTooSlowIsTold) {
  Stream stream;
  KvEventStream events(&stream);
  events.OnCacheEvents(Events(std::vector(2 * KvEventStream::kMaxWaiting, Removed(1))), true);
  EXPECT_FALSE(stream.status.has_value()) << "the snapshot is as large as it is";
  const auto batch = Events(std::vector(1000, Removed(1)));
  size_t num_waiting = 0;
  for (; num_waiting + 1000 <= KvEventStream::kMaxWaiting; num_waiting += 1000) {
    events.OnCacheEvents(batch, false);
  }
  EXPECT_EQ(stream.sent.size(), 1U);
  events.OnCacheEvents(batch, false);
  EXPECT_FALSE(stream.status.has_value()) << "a write is in flight";
  stream.End(events);
  ASSERT_TRUE(stream.status.has_value());
  EXPECT_EQ(stream.status->code(), absl::StatusCode::kDataLoss);
  events.OnCacheEvents(batch, false);  // the engine may not know yet
  EXPECT_EQ(stream.sent.size(), 1U);
}

TEST(KvEventStreamTest, EndsOnceWhoeverEndsIt) {
  for (const bool writing : {false, true}) {
    Stream stream;
    KvEventStream events(&stream);
    if (writing) events.OnCacheEvents(Events({Stored(1)}), false);
    events.End(absl::UnavailableError("shutting down"));
    events.End(absl::CancelledError("gone"));
    EXPECT_EQ(stream.status.has_value(), !writing);
    if (writing) stream.End(events, /*ok=*/false);
    ASSERT_TRUE(stream.status.has_value());
    EXPECT_EQ(stream.status->code(), absl::StatusCode::kUnavailable);
    events.OnCacheEvents(Events({Stored(1)}), false);
  }
}

TEST(KvEventStreamsTest, AreBoundedAndEndTogether) {
  KvEventStreams streams;
  std::vector<std::unique_ptr<Stream>> sinks;
  std::vector<std::shared_ptr<KvEventStream>> held;
  for (size_t i = 0; i < KvEventStreams::kMaxStreams; ++i) {
    sinks.push_back(std::make_unique<Stream>());
    held.push_back(std::make_shared<KvEventStream>(sinks.back().get()));
    EXPECT_TRUE(streams.Add(held.back()).ok());
  }
  Stream sink;
  const auto more = std::make_shared<KvEventStream>(&sink);
  EXPECT_EQ(streams.Add(more).code(), absl::StatusCode::kResourceExhausted);
  held.pop_back();
  EXPECT_TRUE(streams.Add(more).ok()) << "one has gone";
  streams.EndAll();
  EXPECT_EQ(sink.status->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(sinks[0]->status->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(streams.Add(more).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace nsa::server
