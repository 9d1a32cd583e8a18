#ifndef NSA_SERVER_OUTBOX_H_
#define NSA_SERVER_OUTBOX_H_

#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/status/status.h"

namespace nsa::server {

/// What an Outbox needs of a gRPC stream; a test gives its own.
template <typename Message>
class MessageStream {
 public:
  virtual ~MessageStream() = default;
  /// Begins a write; OnWriteDone follows later. `message` stays until then.
  virtual void StartWrite(const Message* message) = 0;
  /// Ends the stream. Nothing follows.
  virtual void Finish(const absl::Status& status) = 0;
};

/// Messages on their way to one reader, with one write in flight. The stream ends when it has been
/// closed and nothing waits. Any thread; nothing blocks.
template <typename Message>
class Outbox {
 public:
  /// `stream` lives until Finish has been called on it.
  explicit Outbox(MessageStream<Message>* stream) : stream_(stream) {}

  void Push(Message message) {
    Push(std::move(message), [](const Message&) { return false; });
  }

  /// The same, but the last message that waits, and is not on its way, gives up its place where
  /// `replaces` says so of it.
  template <typename Replaces>
  void Push(Message message, Replaces replaces) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (reader_gone_) return;
      if (messages_.size() > (writing_ ? 1U : 0U) && replaces(messages_.back())) {
        messages_.back() = std::move(message);
        return;
      }
      messages_.push_back(std::move(message));
    }
    Pump();
  }

  /// The end: what waits is still written, then `status`.
  void Close(const absl::Status& status) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      status_ = status;
    }
    Pump();
  }

  bool closed() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return status_.has_value();
  }

  /// Whether fewer than `most` messages wait, or nobody waits for them.
  bool HasRoom(size_t most) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return reader_gone_ || messages_.size() < most;
  }

  /// A write ended; `ok` is false where the reader is gone: what is left is dropped.
  void OnWriteDone(bool ok) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      writing_ = false;
      messages_.pop_front();
      if (!ok) {
        reader_gone_ = true;
        messages_.clear();
      }
    }
    Pump();
  }

 private:
  void Pump() {
    const Message* next = nullptr;
    std::optional<absl::Status> end;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (writing_ || finished_) return;
      if (!messages_.empty()) {
        writing_ = true;
        next = &messages_.front();  // a deque keeps references valid while others are added
      } else if (status_.has_value()) {
        finished_ = true;
        end = status_;
      }
    }
    // Outside the lock: gRPC may call back at once.
    if (next != nullptr) {
      stream_->StartWrite(next);
    } else if (end.has_value()) {
      stream_->Finish(*end);
    }
  }

  MessageStream<Message>* const stream_;
  mutable std::mutex mutex_;
  std::deque<Message> messages_;  // front: in flight where writing_
  bool writing_ = false;
  bool reader_gone_ = false;
  bool finished_ = false;
  std::optional<absl::Status> status_;  // set when it is closed
};

}  // namespace nsa::server

#endif  // NSA_SERVER_OUTBOX_H_
