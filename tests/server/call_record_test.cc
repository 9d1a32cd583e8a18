#include "server/tracing/call_record.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

#include "absl/time/clock.h"

namespace nsa::server {
namespace {

class CountingSink final : public engine::OutputSink {
 public:
  void OnPrefillProgress(int64_t, int64_t) override { ++num_calls; }
  void OnChunk(const engine::Chunk&) override { ++num_calls; }
  void OnPromptLogprobs(int64_t, const std::vector<engine::TokenLogprobs>&) override {
    ++num_calls;
  }
  void OnOutput(engine::Output output) override {
    ++num_calls;
    text += output.text;
  }
  void OnChoiceDone(const engine::Finish&) override { ++num_calls; }
  void OnDone(const absl::Status&, const engine::Finish&) override { ++num_calls; }
  bool Ready() const override { return ready; }

  int num_calls = 0;
  std::string text;
  bool ready = true;
};

engine::Chunk ChunkAt(int64_t step, int32_t index = 0) {
  const absl::Time began = absl::UnixEpoch() + absl::Seconds(step);
  return {.index = index,
          .position = 64 * step,
          .num_tokens = 64,
          .began = began,
          .ended = began + absl::Milliseconds(900)};
}

TEST(CallRecordTest, PassesEverythingOn) {
  const auto sink = std::make_shared<CountingSink>();
  CallRecorder recorder({}, sink);
  recorder.OnPrefillProgress(1, 2);
  recorder.OnChunk(ChunkAt(0));
  recorder.OnPromptLogprobs(0, {});
  engine::Output output;
  output.text = "words";
  recorder.OnOutput(output);
  recorder.OnChoiceDone({});
  recorder.OnDone(absl::OkStatus(), {});
  EXPECT_EQ(sink->num_calls, 6);
  EXPECT_EQ(sink->text, "words");
  EXPECT_TRUE(recorder.Ready());
  sink->ready = false;
  EXPECT_FALSE(recorder.Ready());
}

TEST(CallRecordTest, KeepsWhatItIsTold) {
  CallRecorder recorder({}, std::make_shared<CountingSink>());
  recorder.OnWork();
  recorder.OnChunk(ChunkAt(0));
  recorder.OnChunk(ChunkAt(1, 1));
  recorder.OnWrite(10);
  recorder.OnWrite(5);
  engine::Finish finish;
  finish.index = 1;
  finish.num_preemptions = 3;
  recorder.OnChoiceDone(finish);
  finish.index = 0;
  recorder.OnDone(absl::InternalError("x"), finish);
  EXPECT_TRUE(recorder.End(absl::InternalError("x")));
  const CallRecord& record = recorder.record();
  ASSERT_EQ(record.choices.size(), 2U);
  EXPECT_EQ(record.choices[0].finish_reason, "error");
  EXPECT_EQ(record.choices[1].finish_reason, "length");
  EXPECT_EQ(record.choices[1].num_preemptions, 3);
  EXPECT_EQ(record.choices[1].chunks.at(0).position, 64);
  EXPECT_EQ(record.num_messages, 2);
  EXPECT_EQ(record.num_message_bytes, 15);
  EXPECT_LE(record.work_began, record.first_write);
  EXPECT_LE(record.first_write, record.ended);
  EXPECT_EQ(record.MaxSpans(), 3 + 2 * (3 + 1));
}

TEST(CallRecordTest, EndsOnceAndDoesNotChangeAfterwards) {
  CallRecorder recorder({}, std::make_shared<CountingSink>());
  EXPECT_TRUE(recorder.End(absl::CancelledError("first")));
  EXPECT_FALSE(recorder.End(absl::OkStatus()));
  recorder.OnChunk(ChunkAt(0));
  recorder.OnDone(absl::OkStatus(), {});
  EXPECT_TRUE(absl::IsCancelled(recorder.record().status));
  EXPECT_TRUE(recorder.record().choices.empty());
}

TEST(CallRecordTest, ALongPromptIsKeptWholeInBoundedRoom) {
  CallRecorder recorder({}, std::make_shared<CountingSink>());
  constexpr int64_t kSteps = 10'000;
  for (int64_t i = 0; i < kSteps; ++i) recorder.OnChunk(ChunkAt(i));
  const auto& chunks = recorder.record().choices.at(0).chunks;
  EXPECT_LE(chunks.size(), CallRecord::kMaxChunks);
  EXPECT_GE(chunks.size(), CallRecord::kMaxChunks / 2);
  int64_t num_steps = 0, num_tokens = 0;
  for (const CallRecord::Chunks& chunk : chunks) {
    EXPECT_EQ(chunk.position, num_tokens);
    num_steps += chunk.num_steps;
    num_tokens += chunk.num_tokens;
  }
  EXPECT_EQ(num_steps, kSteps);
  EXPECT_EQ(num_tokens, 64 * kSteps);
  EXPECT_EQ(chunks.front().began, ChunkAt(0).began);
  EXPECT_EQ(chunks.back().ended, ChunkAt(kSteps - 1).ended);
}

TEST(CallRecordTest, ThreadsMeet) {
  CallRecorder recorder({}, std::make_shared<CountingSink>());
  std::thread engine([&] {
    for (int64_t i = 0; i < 1000; ++i) recorder.OnChunk(ChunkAt(i));
    recorder.OnDone(absl::OkStatus(), {});
  });
  for (int i = 0; i < 1000; ++i) recorder.OnWrite(1);
  engine.join();
  EXPECT_TRUE(recorder.End(absl::OkStatus()));
  EXPECT_EQ(recorder.record().num_messages, 1000);
  EXPECT_EQ(recorder.record().choices.at(0).finish_reason, "length");
}

}  // namespace
}  // namespace nsa::server
