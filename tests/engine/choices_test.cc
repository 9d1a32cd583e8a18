// Several choices of one prompt: what each says, what they share, how they end.

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/notification.h"

namespace nsa::engine {
namespace {

/// Keeps what each choice is told, and that its end comes once and last.
class ChoicesSink final : public OutputSink {
 public:
  void OnOutput(Output output) override {
    EXPECT_EQ(ends.count(output.index), 0u) << "output behind the end";
    auto& mine = tokens[output.index];
    mine.insert(mine.end(), output.token_ids.begin(), output.token_ids.end());
    if (!first.HasBeenNotified()) first.Notify();
  }
  void OnChoiceDone(const Finish& finish) override {
    EXPECT_FALSE(done.HasBeenNotified());
    EXPECT_TRUE(ends.emplace(finish.index, finish).second) << "two ends";
  }
  void OnDone(const absl::Status& status_in, const Finish& finish) override {
    status = status_in;
    if (status.ok()) {
      EXPECT_TRUE(ends.emplace(finish.index, finish).second) << "two ends";
    }
    done.Notify();
  }

  std::map<int32_t, std::vector<int32_t>> tokens;
  std::map<int32_t, Finish> ends;
  absl::Status status;
  Notification first;
  Notification done;
};

class ChoicesTest : public EngineTest {
 protected:
  static std::shared_ptr<ChoicesSink> Run(Engine& engine, Request request) {
    auto sink = SubmitTo<ChoicesSink>(engine, std::move(request));
    EXPECT_TRUE(sink->done.WaitForNotificationWithTimeout(absl::Minutes(1)));
    return sink;
  }
  static Request Sampled(const std::string& id, int64_t num_tokens, int32_t n) {
    Request request = MakeRequest(id, num_tokens, 16);
    request.sampling.temperature = 0.9f;
    request.sampling.seed = 7;
    request.sampling.n = n;
    return request;
  }
};

class StepCounter final : public MetricsObserver {
 public:
  void OnStep(const StepStats& stats) override { num_prefill += stats.num_prefill_tokens; }
  void OnFirstToken(absl::Duration, int64_t num_tokens) override { num_prompt += num_tokens; }
  // Written by the engine thread; read when the engine is gone.
  int64_t num_prefill = 0;
  int64_t num_prompt = 0;
};

TEST_F(ChoicesTest, EachIsReproducibleAndTheFirstIsWhatOneAloneGives) {
  auto engine = Create();
  const auto three = Run(*engine, Sampled("three", 300, 3));
  ASSERT_TRUE(three->status.ok()) << three->status;
  ASSERT_EQ(three->ends.size(), 3u);
  for (const auto& [index, finish] : three->ends) {
    EXPECT_EQ(finish.reason, FinishReason::kLength) << index;
    EXPECT_EQ(finish.usage.num_prompt_tokens, 300);
    EXPECT_EQ(finish.usage.num_cached_tokens, 0);
    EXPECT_EQ(finish.usage.num_generated_tokens, 16);
    EXPECT_EQ(three->tokens[index].size(), 16u);
  }
  EXPECT_NE(three->tokens[0], three->tokens[1]);
  EXPECT_NE(three->tokens[1], three->tokens[2]);
  const auto one = Run(*engine, Sampled("one", 300, 1));
  EXPECT_EQ(one->tokens[0], three->tokens[0]);
  // Beside others, in other chunks, with all of the prompt cached.
  auto other = SubmitTo<ChoicesSink>(*engine, Sampled("other", 777, 2));
  const auto again = Run(*engine, Sampled("again", 300, 4));
  for (int32_t i = 0; i < 3; ++i) EXPECT_EQ(again->tokens[i], three->tokens[i]) << i;
  EXPECT_EQ(again->ends.at(3).usage.num_cached_tokens, 256);
  ASSERT_TRUE(other->done.WaitForNotificationWithTimeout(absl::Minutes(1)));
  EXPECT_EQ(engine->load().num_pages_free, engine->load().num_pages_total);
}

/// The prompt's whole pages are computed once, also where no cache is kept; the part of a page
/// behind them by each choice.
TEST_F(ChoicesTest, ThePromptIsReadOnce) {
  for (const bool cache : {true, false}) {
    SCOPED_TRACE(cache);
    StepCounter counter;
    options_.metrics = &counter;
    options_.prefix_cache = cache;
    auto engine = Create();
    Request request = Sampled("five", 640 + 30, 5);
    request.bypass_prefix_cache = cache;  // in the second round there is none to pass by
    const auto five = Run(*engine, std::move(request));
    EXPECT_EQ(five->ends.size(), 5u);
    EXPECT_EQ(five->ends.at(4).usage.num_cached_tokens, 0);
    EXPECT_EQ(engine->load().num_pages_free, engine->load().num_pages_total);
    EXPECT_EQ(Run(*engine, Sampled("next", 670, 1))->ends.at(0).usage.num_cached_tokens, 0)
        << "a request that bypasses the cache leaves nothing in it";
    engine.reset();
    EXPECT_EQ(counter.num_prefill, 640 + 5 * 30 + 670);
    EXPECT_EQ(counter.num_prompt, 670 + 670);
  }
}

TEST_F(ChoicesTest, AFullPoolDoesNotShow) {
  auto roomy = Create();
  const auto expected = Run(*roomy, Sampled("a", 300, 4));
  roomy.reset();
  options_.max_context = 448;
  options_.kv_cache_gib = 0.0172;  // some 12 pages, of which four choices want 5 + 4 · 2
  auto tight = Create();
  auto request = Sampled("a", 300, 4);
  request.sampling.max_tokens = 140;
  const auto sink = Run(*tight, request);
  ASSERT_TRUE(sink->status.ok()) << sink->status;
  for (int32_t i = 0; i < 4; ++i) {
    ASSERT_EQ(sink->tokens[i].size(), 140u);
    sink->tokens[i].resize(16);
    EXPECT_EQ(sink->tokens[i], expected->tokens[i]) << i;
  }
  EXPECT_EQ(tight->load().num_pages_free, tight->load().num_pages_total);
}

TEST_F(ChoicesTest, AbortAndDeadlineEndAll) {
  auto engine = Create();
  Request request = Sampled("long", 200, 3);
  request.sampling.max_tokens = 3000;
  auto aborted = SubmitTo<ChoicesSink>(*engine, request);
  aborted->first.WaitForNotification();
  engine->Abort("long");
  ASSERT_TRUE(aborted->done.WaitForNotificationWithTimeout(absl::Minutes(1)));
  EXPECT_TRUE(aborted->status.ok());
  ASSERT_EQ(aborted->ends.size(), 3u);
  for (const auto& [index, finish] : aborted->ends) {
    EXPECT_EQ(finish.reason, FinishReason::kAborted) << index;
  }
  request.deadline = absl::Now() + absl::Milliseconds(500);
  const auto expired = Run(*engine, request);  // the id is free again
  EXPECT_TRUE(absl::IsDeadlineExceeded(expired->status)) << expired->status;
  EXPECT_EQ(engine->load().num_pages_free, engine->load().num_pages_total);
  EXPECT_EQ(engine->load().num_running, 0);
}

/// An error of one choice is the request's.
TEST_F(ChoicesTest, AnErrorEndsAll) {
  auto engine = Create();
  Request request = Sampled("banned", 100, 3);
  request.sampling.allowed_token_ids = {5};
  request.sampling.min_tokens = 8;
  request.sampling.ignore_eos = false;
  request.sampling.stop_token_ids = {5};
  const auto sink = Run(*engine, request);
  EXPECT_TRUE(absl::IsInvalidArgument(sink->status)) << sink->status;
  EXPECT_EQ(engine->load().num_running + engine->load().num_waiting, 0);
  EXPECT_EQ(engine->load().num_pages_free, engine->load().num_pages_total);
}

TEST_F(ChoicesTest, EachCountsInTheQueue) {
  options_.max_running_requests = 1;
  options_.max_queued_requests = 8;
  auto engine = Create();
  auto running = SubmitTo<ChoicesSink>(*engine, MakeRequest("running", 64, 3000));
  running->first.WaitForNotification();
  auto waiting = SubmitTo<ChoicesSink>(*engine, Sampled("waiting", 64, 6));
  const absl::Status refused =
      engine->Submit(Sampled("refused", 64, 3), std::make_shared<ChoicesSink>());
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_EQ(engine->load().num_waiting, 6);
  engine->Abort("running");
  ASSERT_TRUE(waiting->done.WaitForNotificationWithTimeout(absl::Minutes(1)));
  EXPECT_EQ(waiting->ends.size(), 6u);
}

}  // namespace
}  // namespace nsa::engine
