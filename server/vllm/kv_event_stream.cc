#include "server/vllm/kv_event_stream.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace nsa::server {
namespace {

int64_t WireHash(uint64_t hash) { return static_cast<int64_t>(hash); }

/// Consecutive events of a kind, and pages that continue one another, share a message of their own.
class BatchBuilder {
 public:
  BatchBuilder(wire_common::KvEventBatch* batch, uint64_t* event_id)
      : batch_(batch), event_id_(event_id) {}

  void Add(const engine::CacheEvent& event) {
    if (!event.stored) {
      if (last_ == nullptr || !last_->has_removed()) Begin();
      last_->mutable_removed()->add_block_hashes(WireHash(event.hash));
      return;
    }
    const bool continues = last_ != nullptr && last_->has_stored() && event.has_parent &&
                           event.parent_hash == last_hash_;
    if (!continues) {
      Begin();
      if (event.has_parent) {
        last_->mutable_stored()->set_parent_block_hash(WireHash(event.parent_hash));
      }
    }
    wire_common::KvBlock& block = *last_->mutable_stored()->add_blocks();
    block.set_block_hash(WireHash(event.hash));
    block.set_block_size(static_cast<int32_t>(engine::kCachePageTokens));
    block.mutable_token_ids()->Add(event.tokens.begin(), event.tokens.end());
    last_hash_ = event.hash;
  }

  void AddCleared() {
    Begin();
    last_->mutable_cleared();
  }

 private:
  void Begin() {
    last_ = batch_->add_events();
    if (event_id_ != nullptr) last_->set_event_id(++*event_id_);
  }

  wire_common::KvEventBatch* batch_;
  uint64_t* event_id_;  // null: events of a snapshot have none
  wire_common::KvCacheEvent* last_ = nullptr;
  uint64_t last_hash_ = 0;
};

size_t NumMessages(size_t num_events) {
  return std::max<size_t>(1,
                          (num_events + KvEventStream::kMaxEvents - 1) / KvEventStream::kMaxEvents);
}

}  // namespace

void KvEventStream::OnCacheEvents(const engine::CacheEvents& events, bool is_snapshot) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status_.has_value()) return;
    if (!is_snapshot) num_waiting_ += events->size();
    if (num_waiting_ > kMaxWaiting) {
      Close(absl::DataLossError(absl::StrCat("the subscriber is ", num_waiting_,
                                             " events behind, expected at most ", kMaxWaiting,
                                             "; subscribe again from 0")));
    } else {
      waiting_.push_back({.events = events, .is_snapshot = is_snapshot});
    }
  }
  Pump();
}

void KvEventStream::OnWriteDone(bool ok) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    if (!ok && !status_.has_value()) Close(absl::CancelledError("the subscriber is gone"));
  }
  Pump();
}

void KvEventStream::End(const absl::Status& status) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!status_.has_value()) Close(status);
  }
  Pump();
}

void KvEventStream::Close(const absl::Status& status) {
  status_ = status;
  waiting_.clear();
}

void KvEventStream::FillMessage() {
  Waiting& first = waiting_.front();
  const size_t num_events = first.events->size();
  message_.Clear();
  message_.set_sequence_number(++sequence_number_);
  message_.set_timestamp(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()));
  BatchBuilder builder(&message_, first.is_snapshot ? nullptr : &event_id_);
  if (first.is_snapshot) {
    wire_common::KvSnapshotChunk& chunk = *message_.mutable_snapshot();
    chunk.set_index(static_cast<uint32_t>(first.next / kMaxEvents));
    chunk.set_count(static_cast<uint32_t>(NumMessages(num_events)));
    chunk.set_blocks(num_events);
    if (first.next == 0) builder.AddCleared();
  }
  const size_t end = std::min(first.next + kMaxEvents, num_events);
  for (const auto& event : std::span(*first.events).subspan(first.next, end - first.next)) {
    builder.Add(event);
  }
  if (!first.is_snapshot) num_waiting_ -= end - first.next;
  first.next = end;
  if (end == num_events) waiting_.pop_front();
}

void KvEventStream::Pump() {
  std::optional<absl::Status> end;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (writing_ || finished_) return;
    if (!waiting_.empty()) {
      writing_ = true;
      FillMessage();
    } else if (status_.has_value()) {
      finished_ = true;
      end = status_;
    } else {
      return;
    }
  }
  // Outside the lock: gRPC may call back at once.
  if (end.has_value()) {
    stream_->Finish(*end);
  } else {
    stream_->StartWrite(&message_);
  }
}

absl::Status KvEventStreams::Add(const std::shared_ptr<KvEventStream>& stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return absl::UnavailableError("the server is shutting down");
  std::erase_if(streams_, [](const auto& held) { return held.expired(); });
  if (streams_.size() >= kMaxStreams) {
    return absl::ResourceExhaustedError(
        absl::StrCat(kMaxStreams, " subscribers are there already"));
  }
  streams_.push_back(stream);
  return absl::OkStatus();
}

void KvEventStreams::EndAll() {
  std::vector<std::weak_ptr<KvEventStream>> streams;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
    streams.swap(streams_);
  }
  for (const auto& held : streams) {
    const auto stream = held.lock();
    if (stream != nullptr) stream->End(absl::UnavailableError("the server is shutting down"));
  }
}

}  // namespace nsa::server
