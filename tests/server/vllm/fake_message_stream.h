#ifndef NSA_TESTS_SERVER_VLLM_FAKE_MESSAGE_STREAM_H_
#define NSA_TESTS_SERVER_VLLM_FAKE_MESSAGE_STREAM_H_

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "server/outbox.h"

namespace nsa::server {

/// Takes messages; the test says when a write has ended.
template <typename Message>
class FakeMessageStream final : public MessageStream<Message> {
 public:
  void StartWrite(const Message* message) override {
    EXPECT_FALSE(writing) << "two writes at a time";
    EXPECT_FALSE(status.has_value()) << "a write after the end";
    writing = true;
    sent.push_back(*message);
  }
  void Finish(const absl::Status& end) override {
    EXPECT_FALSE(writing) << "the end during a write";
    EXPECT_FALSE(status.has_value()) << "two ends";
    status = end;
  }
  /// Ends the write in flight.
  template <typename Writer>
  void End(Writer& writer, bool ok = true) {
    ASSERT_TRUE(writing);
    writing = false;
    writer.OnWriteDone(ok);
  }
  /// Until nothing is in flight.
  template <typename Writer>
  void EndAll(Writer& writer) {
    while (writing) End(writer);
  }

  bool writing = false;
  std::vector<Message> sent;
  std::optional<absl::Status> status;
};

}  // namespace nsa::server

#endif  // NSA_TESTS_SERVER_VLLM_FAKE_MESSAGE_STREAM_H_
