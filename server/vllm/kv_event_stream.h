#ifndef NSA_SERVER_VLLM_KV_EVENT_STREAM_H_
#define NSA_SERVER_VLLM_KV_EVENT_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "engine/cache_events.h"
#include "server/outbox.h"
#include "server/vllm/wire.h"

namespace nsa::server {

/// One subscriber's events on their way. They wait as the engine gave them and become messages one
/// at a time, so that the engine thread copies nothing. Who falls behind by kMaxWaiting events is
/// ended with DATA_LOSS: a stream with a gap would be a lie, and he may subscribe again. Any
/// thread.
class KvEventStream final : public engine::CacheWatcher {
 public:
  static constexpr size_t kMaxWaiting = size_t{1} << 16;
  static constexpr size_t kMaxEvents = 512;  // of a message: some 100 KiB

  /// `stream` lives until Finish has been called on it.
  explicit KvEventStream(MessageStream<wire_common::KvEventBatch>* stream) : stream_(stream) {}

  void OnCacheEvents(const engine::CacheEvents& events, bool is_snapshot) override;

  void OnWriteDone(bool ok);
  /// Ends it, if it has not ended: what waits is dropped.
  void End(const absl::Status& status);

 private:
  struct Waiting {
    engine::CacheEvents events;
    bool is_snapshot = false;
    size_t next = 0;  // of the events
  };

  void Close(const absl::Status& status);  // with mutex_ held
  void FillMessage();                      // the same; there is something
  void Pump();

  MessageStream<wire_common::KvEventBatch>* const stream_;
  std::mutex mutex_;
  std::deque<Waiting> waiting_;
  size_t num_waiting_ = 0;             // events in waiting_ but for the snapshot's
  wire_common::KvEventBatch message_;  // in flight where writing_
  uint64_t sequence_number_ = 0;       // of it
  uint64_t event_id_ = 0;
  bool writing_ = false;
  bool finished_ = false;
  std::optional<absl::Status> status_;  // of the end
};

/// The streams of a service. Any thread.
class KvEventStreams {
 public:
  /// Each costs the engine a copy of all it knows.
  static constexpr size_t kMaxStreams = 64;

  /// ResourceExhausted where so many are there, Unavailable after EndAll.
  absl::Status Add(const std::shared_ptr<KvEventStream>& stream);
  /// Such a stream has no end of its own, and would hold up a server that shuts down.
  void EndAll();

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<KvEventStream>> streams_;
  bool ended_ = false;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_VLLM_KV_EVENT_STREAM_H_
