#include "server/stream_writer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace nsa::server {
namespace {

/// Takes messages; the test says when a write has ended.
class FakeStream final : public MessageStream<v1::GenerateResponse> {
 public:
  void StartWrite(const v1::GenerateResponse* message) override {
    EXPECT_EQ(in_flight, nullptr) << "two writes at a time";
    EXPECT_FALSE(status.has_value()) << "a write after the end";
    in_flight = message;
    sent.push_back(*message);
  }
  void Finish(const absl::Status& end) override {
    EXPECT_EQ(in_flight, nullptr) << "the end during a write";
    EXPECT_FALSE(status.has_value()) << "two ends";
    status = end;
  }
  /// Ends the write in flight; the message must have stayed as it was.
  void End(StreamWriter& writer, bool ok = true) {
    ASSERT_NE(in_flight, nullptr);
    EXPECT_EQ(in_flight->SerializeAsString(), sent.back().SerializeAsString());
    in_flight = nullptr;
    writer.OnWriteDone(ok);
  }

  const v1::GenerateResponse* in_flight = nullptr;
  std::vector<v1::GenerateResponse> sent;
  std::optional<absl::Status> status;
};

engine::Output Piece(const std::string& text, int32_t id = 1) {
  engine::Output output;
  output.text = text;
  output.token_ids = {id};
  return output;
}

TEST(StreamWriterTest, SendsInOrderAndEndsOnce) {
  FakeStream stream;
  StreamWriter writer(&stream, {.request_id = "r", .token_ids = true, .prefill_progress = true});
  writer.OnPrefillProgress(4, 8);
  writer.OnOutput(Piece("a", 5));
  writer.OnOutput(Piece("", 6));
  EXPECT_FALSE(writer.engine_done());
  writer.OnDone(absl::OkStatus(), {});
  EXPECT_TRUE(writer.engine_done());
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(stream.status.has_value());
    stream.End(writer);
  }
  ASSERT_EQ(stream.sent.size(), 4U);
  EXPECT_EQ(stream.sent[0].prefill_progress().processed_tokens(), 4);
  EXPECT_EQ(stream.sent[1].delta().text(), "a");
  EXPECT_EQ(stream.sent[1].delta().token_ids(0), 5);
  EXPECT_EQ(stream.sent[2].delta().token_ids(0), 6);
  EXPECT_TRUE(stream.sent[3].finished().has_length());
  EXPECT_EQ(stream.sent[3].finished().request_id(), "r");
  ASSERT_TRUE(stream.status.has_value());
  EXPECT_TRUE(stream.status->ok());
}

TEST(StreamWriterTest, LeavesOutWhatWasNotAskedFor) {
  FakeStream stream;
  StreamWriter writer(&stream, {.request_id = "r"});
  writer.OnPrefillProgress(4, 8);
  writer.OnOutput(Piece(""));
  EXPECT_TRUE(stream.sent.empty());
  writer.OnOutput(Piece("a"));
  ASSERT_EQ(stream.sent.size(), 1U);
  EXPECT_EQ(stream.sent[0].delta().token_ids_size(), 0);
}

TEST(StreamWriterTest, EachChoiceHasItsEnd) {
  FakeStream stream;
  StreamWriter writer(&stream, {.request_id = "r"});
  engine::Output output = Piece("b");
  output.index = 1;
  writer.OnOutput(output);
  engine::Finish finish;
  finish.index = 1;
  writer.OnChoiceDone(finish);
  EXPECT_FALSE(writer.engine_done());
  writer.OnOutput(Piece("a"));
  writer.OnDone(absl::OkStatus(), {});
  while (!stream.status.has_value()) stream.End(writer);
  ASSERT_EQ(stream.sent.size(), 4U);
  EXPECT_EQ(stream.sent[0].delta().index(), 1);
  EXPECT_EQ(stream.sent[1].finished().index(), 1);
  EXPECT_EQ(stream.sent[1].finished().request_id(), "r");
  EXPECT_EQ(stream.sent[2].delta().index(), 0);
  EXPECT_EQ(stream.sent[3].finished().index(), 0);
}

TEST(StreamWriterTest, LogprobsComeWithTheirTokensAndThePromptsInParts) {
  FakeStream stream;
  StreamWriter writer(&stream, {.request_id = "r"});
  engine::TokenLogprobs one;
  one.token.token_id = 7;
  one.token.logprob = -0.5F;
  one.token.bytes = "\xC3";
  one.rank = 2;
  one.top.emplace_back().token_id = 8;
  writer.OnPromptLogprobs(1, std::vector<engine::TokenLogprobs>(600, one));
  engine::Output output = Piece("");  // the text lags behind
  output.logprobs = {one};
  writer.OnOutput(output);
  writer.OnDone(absl::OkStatus(), {});
  while (!stream.status.has_value()) stream.End(writer);
  ASSERT_EQ(stream.sent.size(), 4U);
  EXPECT_EQ(stream.sent[0].prompt_logprobs().position(), 1);
  EXPECT_EQ(stream.sent[0].prompt_logprobs().tokens_size(), 512);
  EXPECT_EQ(stream.sent[1].prompt_logprobs().position(), 513);
  EXPECT_EQ(stream.sent[1].prompt_logprobs().tokens_size(), 88);
  ASSERT_EQ(stream.sent[2].delta().logprobs_size(), 1);
  const v1::TokenLogprobs& sent = stream.sent[2].delta().logprobs(0);
  EXPECT_EQ(sent.token().token_id(), 7);
  EXPECT_EQ(sent.token().logprob(), -0.5F);
  EXPECT_EQ(sent.token().token(), "\xC3");
  EXPECT_EQ(sent.rank(), 2);
  ASSERT_EQ(sent.top_size(), 1);
  EXPECT_EQ(sent.top(0).token_id(), 8);
}

TEST(StreamWriterTest, ErrorIsTheOnlyEnd) {
  FakeStream stream;
  StreamWriter writer(&stream, {.request_id = "r"});
  writer.OnOutput(Piece("a"));
  writer.OnDone(absl::InternalError("NaN"), {});
  stream.End(writer);
  ASSERT_EQ(stream.sent.size(), 1U) << "no finished message before an error";
  ASSERT_TRUE(stream.status.has_value());
  EXPECT_EQ(stream.status->code(), absl::StatusCode::kInternal);
}

TEST(StreamWriterTest, SlowReaderStopsItsRequestAndNothingIsLost) {
  FakeStream stream;
  StreamWriter writer(&stream, {.request_id = "r"});
  size_t num_sent = 0;
  while (writer.Ready()) {
    ASSERT_LE(num_sent, kMaxOutbox);
    writer.OnOutput(Piece(std::to_string(num_sent++)));
  }
  EXPECT_EQ(num_sent, kMaxOutbox);
  stream.End(writer);
  EXPECT_TRUE(writer.Ready()) << "it reads again";
  writer.OnOutput(Piece(std::to_string(num_sent++)));
  EXPECT_FALSE(writer.Ready());
  writer.OnDone(absl::OkStatus(), {});
  while (!stream.status.has_value()) stream.End(writer);
  ASSERT_EQ(stream.sent.size(), num_sent + 1);
  for (size_t i = 0; i < num_sent; ++i) EXPECT_EQ(stream.sent[i].delta().text(), std::to_string(i));
}

TEST(StreamWriterTest, NewProgressReplacesOldOfASlowReader) {
  FakeStream stream;
  StreamWriter writer(&stream, {.request_id = "r", .prefill_progress = true});
  for (int i = 1; i <= 1000; ++i) writer.OnPrefillProgress(i, 1000);
  EXPECT_TRUE(writer.Ready());
  stream.End(writer);
  stream.End(writer);
  ASSERT_EQ(stream.sent.size(), 2U);
  EXPECT_EQ(stream.sent[0].prefill_progress().processed_tokens(), 1) << "it was in flight";
  EXPECT_EQ(stream.sent[1].prefill_progress().processed_tokens(), 1000);
}

TEST(StreamWriterTest, ClientThatIsGoneGetsNothingMore) {
  FakeStream stream;
  StreamWriter writer(&stream, {.request_id = "r"});
  writer.OnOutput(Piece("a"));
  writer.OnOutput(Piece("b"));
  stream.End(writer, /*ok=*/false);
  EXPECT_TRUE(writer.Ready()) << "the request must go on to its end";
  writer.OnOutput(Piece("c"));
  EXPECT_EQ(stream.sent.size(), 1U);
  EXPECT_FALSE(stream.status.has_value()) << "the engine still has the request";
  writer.OnDone(absl::OkStatus(), {});
  EXPECT_TRUE(stream.status.has_value());
  EXPECT_EQ(stream.sent.size(), 1U);
}

/// Writes end on a thread of their own, as in gRPC, while the engine adds.
class ThreadedStream final : public MessageStream<v1::GenerateResponse> {
 public:
  void StartWrite(const v1::GenerateResponse* message) override {
    EXPECT_FALSE(busy_.exchange(true));
    texts.push_back(message->delta().text());
    const std::lock_guard<std::mutex> lock(mutex_);
    pending_ = true;
    wake_.notify_one();
  }
  void Finish(const absl::Status&) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++num_ends;
    wake_.notify_one();
  }
  void Serve(StreamWriter& writer) {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return pending_ || num_ends > 0; });
      if (!pending_) return;
      pending_ = false;
      busy_ = false;
      lock.unlock();
      writer.OnWriteDone(true);
    }
  }

  std::vector<std::string> texts;
  int num_ends = 0;

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool pending_ = false;
  std::atomic<bool> busy_{false};
};

TEST(StreamWriterTest, EngineAndWriterThreadsTogether) {
  ThreadedStream stream;
  StreamWriter writer(&stream, {.request_id = "r"});
  std::thread network([&] { stream.Serve(writer); });
  constexpr int kPieces = 20000;
  for (int i = 0; i < kPieces; ++i) {
    while (!writer.Ready()) std::this_thread::yield();
    writer.OnOutput(Piece(std::to_string(i)));
  }
  writer.OnDone(absl::OkStatus(), {});
  network.join();
  EXPECT_EQ(stream.num_ends, 1);
  ASSERT_EQ(stream.texts.size(), kPieces + 1U);
  for (int i = 0; i < kPieces; ++i) ASSERT_EQ(stream.texts[i], std::to_string(i));
}

}  // namespace
}  // namespace nsa::server
