// The engine as a whole, with the default model: isolation, cancelling, deadlines, faults, limits.

#include "engine/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/faults.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/fakes.h"
#include "tests/engine/passing_backend.h"

namespace nsa::engine {
namespace {

constexpr int32_t kPoisonToken = 12345;

/// A token whose embedding is not a number.
class PoisonBackend final : public PassingBackend {
 public:
  using PassingBackend::PassingBackend;
  void Embed(const kernels::EmbedParams& p) override {
    PassingBackend::Embed(p);
    for (int64_t r = 0; r < p.num_rows; ++r) {
      if (p.ids[r] == kPoisonToken)
        p.y[r * p.table.num_columns] = std::numeric_limits<float>::quiet_NaN();
    }
  }
};

class DraftCounter final : public MetricsObserver {
 public:
  void OnStep(const StepStats& stats) override {
    counts.num_tokens += stats.drafts.num_tokens;
    counts.num_accepted += stats.drafts.num_accepted;
  }
  DraftCounts counts;  // written by the engine thread; read when the engine is gone
};

/// Whether a request was seen before any token was computed.
class ArrivalWatch final : public MetricsObserver {
 public:
  void OnStep(const StepStats& stats) override {
    if (stats.num_prefill_tokens + stats.num_decode_tokens > 0) stepped = true;
    if (!stepped && stats.num_running + stats.num_waiting > 0) seen_before_a_step = true;
  }
  std::atomic<bool> stepped{false}, seen_before_a_step{false};
};

TEST_F(EngineTest, GaugesHaveARequestWhoseFirstStepHangs) {
  FaultInjector faults(*FaultInjector::Parse("step_slow=1,delay_ms=300"));
  ArrivalWatch watch;
  options_.faults = &faults;
  options_.metrics = &watch;
  auto engine = Create();
  auto sink = Submit(*engine, MakeRequest("first", 5, 1));
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  while (!watch.seen_before_a_step && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_TRUE(watch.seen_before_a_step);
  EXPECT_TRUE(sink->WaitUntilDone());
}

TEST_F(EngineTest, FourStreamsGiveWhatEachGivesAlone) {
  auto engine = Create();
  const std::vector<int64_t> lengths = {5, 700, 64, 1311};
  std::vector<std::vector<int32_t>> alone;
  for (const int64_t length : lengths) {
    auto sink = Submit(*engine, MakeRequest("alone", length, 24));
    ASSERT_TRUE(sink->WaitUntilDone());
    EXPECT_EQ(sink->tokens.size(), 24u);
    EXPECT_EQ(sink->finish.reason, FinishReason::kLength);
    EXPECT_EQ(sink->finish.usage.num_prompt_tokens, length);
    alone.push_back(sink->tokens);
  }
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (const int64_t length : lengths) {
    sinks.push_back(Submit(*engine, MakeRequest(std::to_string(length), length, 24)));
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    ASSERT_TRUE(sinks[i]->WaitUntilDone());
    EXPECT_EQ(sinks[i]->tokens, alone[i]) << lengths[i];
  }
  EXPECT_EQ(engine->load().num_pages_free, engine->load().num_pages_total);
}

/// What a step took, and where its time went.
class TimeObserver final : public MetricsObserver {
 public:
  void OnStep(const StepStats& stats) override {
    steps += stats.duration;
    attention.cmp += stats.attention_times.cmp;
    attention.slc += stats.attention_times.slc;
    attention.win += stats.attention_times.win;
    attention.merge += stats.attention_times.merge;
  }
  absl::Duration steps;  // of the engine thread; read when the engine is gone
  AttentionTimes attention;
};

TEST_F(EngineTest, TellsChunksAndTimes) {
  TimeObserver observer;
  options_.metrics = &observer;
  auto engine = Create();
  const absl::Time before = absl::Now();
  auto sink = Submit(*engine, MakeRequest("a", 300, 8));
  ASSERT_TRUE(sink->WaitUntilDone());
  const Timeline& times = sink->finish.times;
  EXPECT_LE(before, times.arrival);
  EXPECT_LE(times.arrival, times.first_scheduled);
  EXPECT_LT(times.first_scheduled, times.first_token);
  EXPECT_LT(times.first_token, times.end);
  EXPECT_EQ(times.first_token - times.first_scheduled, sink->finish.usage.prefill_time);
  EXPECT_EQ(times.end - times.first_token, sink->finish.usage.decode_time);
  int64_t position = 0;
  absl::Time last = times.first_scheduled;
  for (const Chunk& chunk : sink->chunks) {
    EXPECT_EQ(chunk.position, position);
    EXPECT_LE(last, chunk.began);
    EXPECT_LT(chunk.began, chunk.ended);
    position += chunk.num_tokens;
    last = chunk.ended;
  }
  EXPECT_EQ(position, 300) << "all of the prompt, and no decode row";
  EXPECT_GE(sink->chunks.size(), 3U) << "of at most 128 tokens";
  EXPECT_LE(sink->chunks.back().began, times.first_token);
  engine.reset();
  const AttentionTimes& a = observer.attention;
  EXPECT_GT(a.cmp, absl::ZeroDuration());
  EXPECT_GT(a.slc, absl::ZeroDuration());
  EXPECT_LT(a.cmp + a.slc + a.win + a.merge, observer.steps);
}

TEST_F(EngineTest, TellsHowLongTheFirstInLineWaits) {
  options_.max_running_requests = 1;
  auto engine = Create();
  EXPECT_EQ(engine->load().oldest_arrival, absl::InfiniteFuture());
  auto running = Submit(*engine, MakeRequest("a", 10, 400));
  running->first_token.WaitForNotification();
  EXPECT_EQ(engine->load().oldest_arrival, absl::InfiniteFuture()) << "it waits no more";
  const absl::Time before = absl::Now();
  auto first = Submit(*engine, MakeRequest("b", 10, 2));
  const absl::Time after = absl::Now();
  auto second = Submit(*engine, MakeRequest("c", 10, 2));
  // At once, and after steps that did not take it.
  for (int i = 0; i < 3; ++i) {
    EXPECT_GE(engine->load().oldest_arrival, before);
    EXPECT_LE(engine->load().oldest_arrival, after);
    absl::SleepFor(absl::Milliseconds(40));
  }
  engine->Abort("a");
  ASSERT_TRUE(running->WaitUntilDone() && first->WaitUntilDone() && second->WaitUntilDone());
  EXPECT_EQ(engine->load().oldest_arrival, absl::InfiniteFuture());
}

TEST_F(EngineTest, PreemptionDoesNotShowInTheOutput) {
  auto roomy = Create();
  auto first = Submit(*roomy, MakeRequest("a", 300, 120));
  auto second = Submit(*roomy, MakeRequest("b", 320, 120));
  ASSERT_TRUE(first->WaitUntilDone() && second->WaitUntilDone());
  const std::vector<int32_t> a = first->tokens, b = second->tokens;
  roomy.reset();
  options_.max_context = 448;
  options_.kv_cache_gib = 0.0172;  // some 12 pages: one sequence and a half
  auto tight = Create();
  first = Submit(*tight, MakeRequest("a", 300, 120));
  second = Submit(*tight, MakeRequest("b", 320, 120));
  ASSERT_TRUE(first->WaitUntilDone() && second->WaitUntilDone());
  EXPECT_EQ(first->tokens, a);
  EXPECT_EQ(second->tokens, b);
  EXPECT_EQ(tight->load().num_pages_free, tight->load().num_pages_total);
}

/// Drafts are an affair of speed: greedy and seeded completions have the same tokens and ends with
/// and without, alone and together, where nearly all of a draft is right and where nothing is.
TEST_F(EngineTest, SpeculationDoesNotShowInTheOutput) {
  std::vector<Request> requests;
  for (const int repeat : {3, 130, 300}) {
    // A block of text over and over, then its beginning: greedy decoding goes on with it.
    Request request = MakeRequest(absl::StrCat("greedy ", repeat), repeat, 60);
    const std::vector<int32_t> block = request.prompt_token_ids;
    for (int i = 0; i < 2; ++i) {
      request.prompt_token_ids.insert(request.prompt_token_ids.end(), block.begin(), block.end());
    }
    requests.push_back(request);
    request.id = absl::StrCat("sampled ", repeat);
    request.sampling.temperature = 0.7f;
    request.sampling.seed = 5;
    request.sampling.repetition_penalty = 1.1f;
    requests.push_back(request);
    request.id = absl::StrCat("stopped ", repeat);
    request.sampling = requests[requests.size() - 2].sampling;
    request.sampling.stop_token_ids = {block[block.size() / 2]};
    requests.push_back(request);
  }
  const auto run = [&](Engine& engine, bool together) {
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (const Request& request : requests) {
      sinks.push_back(Submit(engine, request));
      if (!together) {
        EXPECT_TRUE(sinks.back()->WaitUntilDone());
      }
    }
    for (const auto& sink : sinks) EXPECT_TRUE(sink->WaitUntilDone());
    EXPECT_EQ(engine.load().num_pages_free, engine.load().num_pages_total);
    return sinks;
  };
  const auto plain = run(*Create(), false);
  DraftCounter counter;
  options_.metrics = &counter;
  options_.speculation = Speculation::kPromptLookup;
  auto engine = Create();
  for (const bool together : {false, true}) {
    const auto drafted = run(*engine, together);
    for (size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(requests[i].id);
      EXPECT_EQ(drafted[i]->tokens, plain[i]->tokens);
      EXPECT_EQ(drafted[i]->text, plain[i]->text);
      EXPECT_EQ(drafted[i]->finish.reason, plain[i]->finish.reason);
    }
  }
  engine.reset();
  EXPECT_GT(counter.counts.num_accepted, 50);
  EXPECT_GT(counter.counts.num_tokens, counter.counts.num_accepted) << "no draft was ever wrong";
}

TEST_F(EngineTest, CancelledRequestFreesItsPagesAndLeavesOthersAlone) {
  auto engine = Create();
  auto steady = Submit(*engine, MakeRequest("steady", 50, 60));
  auto victim = Submit(*engine, MakeRequest("victim", 900, 3000));
  victim->first_token.WaitForNotification();
  engine->Abort("victim");
  engine->Abort("victim");  // idempotent
  engine->Abort("nobody");
  ASSERT_TRUE(victim->WaitUntilDone());
  EXPECT_EQ(victim->finish.reason, FinishReason::kAborted);
  EXPECT_TRUE(victim->status.ok());
  ASSERT_TRUE(steady->WaitUntilDone());
  EXPECT_EQ(steady->tokens.size(), 60u);
  EXPECT_EQ(engine->load().num_pages_free, engine->load().num_pages_total);
  EXPECT_EQ(victim->num_done, 1);
}

TEST_F(EngineTest, DeadlineEndsWaitingAndRunningRequests) {
  options_.max_running_requests = 1;
  auto engine = Create();
  Request running = MakeRequest("running", 100, 3900);
  running.deadline = absl::Now() + absl::Milliseconds(400);
  Request waiting = MakeRequest("waiting", 100, 100);
  waiting.deadline = absl::Now() + absl::Milliseconds(200);
  auto first = Submit(*engine, std::move(running));
  auto second = Submit(*engine, std::move(waiting));
  ASSERT_TRUE(first->WaitUntilDone() && second->WaitUntilDone());
  EXPECT_TRUE(absl::IsDeadlineExceeded(first->status)) << first->status;
  EXPECT_TRUE(absl::IsDeadlineExceeded(second->status)) << second->status;
  EXPECT_GT(first->tokens.size(), 0u);
  EXPECT_EQ(second->tokens.size(), 0u);
}

TEST_F(EngineTest, NaNLogitsFailThatRequestAlone) {
  options_.wrap_backend = [](std::unique_ptr<kernels::Backend> inner) {
    return std::make_unique<PoisonBackend>(std::move(inner));
  };
  auto engine = Create();
  auto healthy_before = Submit(*engine, MakeRequest("before", 200, 30));
  Request poisoned = MakeRequest("poisoned", 200, 30);
  poisoned.prompt_token_ids.push_back(kPoisonToken);
  auto victim = Submit(*engine, std::move(poisoned));
  ASSERT_TRUE(victim->WaitUntilDone() && healthy_before->WaitUntilDone());
  EXPECT_TRUE(absl::IsInternal(victim->status)) << victim->status;
  // The victim's pages are used again: what NaN is left in them must not reach the next request.
  auto after = Submit(*engine, MakeRequest("after", 200, 30));
  ASSERT_TRUE(after->WaitUntilDone());
  EXPECT_EQ(healthy_before->tokens, after->tokens);
  EXPECT_TRUE(engine->healthy());
}

TEST_F(EngineTest, BadRequestsAreRefusedWithFieldValueAndRange) {
  auto engine = Create();
  auto sink = std::make_shared<RecordingSink>();
  const auto refuse = [&](Request request, absl::StatusCode code, const std::string& part) {
    const absl::Status status = engine->Submit(std::move(request), sink);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(std::string(status.message()).find(part), std::string::npos) << status;
  };
  refuse(MakeRequest("empty", 0, 1), absl::StatusCode::kInvalidArgument, "empty");
  refuse(MakeRequest("long", 4096, 1), absl::StatusCode::kInvalidArgument, "4096 tokens");
  refuse(MakeRequest("much", 96, 4001), absl::StatusCode::kInvalidArgument, "max_tokens is 4001");
  Request out_of_range = MakeRequest("ids", 3, 1);
  out_of_range.prompt_token_ids[1] = 49152;
  refuse(out_of_range, absl::StatusCode::kInvalidArgument, "49152");
  out_of_range.prompt_token_ids[1] = -1;
  refuse(out_of_range, absl::StatusCode::kInvalidArgument, "-1");
  Request blocks = MakeRequest("blocks", 3, 1);
  blocks.attention.num_selected_blocks = 1000;
  refuse(blocks, absl::StatusCode::kInvalidArgument, "num_selected_blocks is 1000");
  EXPECT_EQ(sink->num_done, 0);
  auto twice = Submit(*engine, MakeRequest("twice", 100, 500));
  refuse(MakeRequest("twice", 3, 1), absl::StatusCode::kAlreadyExists, "twice");
  engine->Abort("twice");
  ASSERT_TRUE(twice->WaitUntilDone());
}

TEST_F(EngineTest, FullQueueRefusesBeforeAndAfterTokenizing) {
  options_.max_running_requests = 1;
  options_.max_queued_requests = 2;
  auto engine = Create();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  sinks.push_back(Submit(*engine, MakeRequest("0", 10, 4000)));
  sinks[0]->first_token.WaitForNotification();
  sinks.push_back(Submit(*engine, MakeRequest("1", 10, 1)));
  sinks.push_back(Submit(*engine, MakeRequest("2", 10, 1)));
  EXPECT_TRUE(absl::IsResourceExhausted(engine->Admit({100, "", 0})));
  auto refused = std::make_shared<RecordingSink>();
  EXPECT_TRUE(absl::IsResourceExhausted(engine->Submit(MakeRequest("3", 10, 1), refused)));
  engine->Abort("0");
  for (const auto& sink : sinks) ASSERT_TRUE(sink->WaitUntilDone());
  EXPECT_TRUE(engine->Admit({100, "", 0}).ok());
  EXPECT_EQ(refused->num_done, 0);
}

TEST_F(EngineTest, DrainFinishesWhatRunsThenAbortsTheRest) {
  // The one takes half a second and the other two minutes, on any machine.
  FaultInjector faults(*FaultInjector::Parse("step_slow=1,delay_ms=30"));
  options_.faults = &faults;
  auto engine = Create();
  auto brief = Submit(*engine, MakeRequest("brief", 20, 10));
  auto endless = Submit(*engine, MakeRequest("endless", 20, 4000));
  engine->Drain(absl::Now() + absl::Seconds(3));
  EXPECT_TRUE(brief->done.HasBeenNotified() && endless->done.HasBeenNotified());
  EXPECT_EQ(brief->finish.reason, FinishReason::kLength);
  EXPECT_EQ(endless->finish.reason, FinishReason::kAborted);
  auto late = std::make_shared<RecordingSink>();
  EXPECT_TRUE(absl::IsUnavailable(engine->Submit(MakeRequest("late", 5, 1), late)));
}

TEST_F(EngineTest, SeededSamplingRepeatsWhateverElseRuns) {
  auto engine = Create();
  Request request = MakeRequest("drawn", 40, 40);
  request.sampling.temperature = 1.2f;
  request.sampling.seed = 99;
  auto alone = Submit(*engine, request);
  ASSERT_TRUE(alone->WaitUntilDone());
  auto other = Submit(*engine, MakeRequest("other", 500, 60));
  auto again = Submit(*engine, request);
  ASSERT_TRUE(again->WaitUntilDone() && other->WaitUntilDone());
  EXPECT_EQ(alone->tokens, again->tokens);
  request.sampling.seed = 100;
  auto different = Submit(*engine, request);
  ASSERT_TRUE(different->WaitUntilDone());
  EXPECT_NE(alone->tokens, different->tokens);
}

TEST_F(EngineTest, TooLittleMemoryIsSaidBeforeLoading) {
  options_.kv_cache_gib = 100000;
  const auto engine = CreateEngine(options_);
  ASSERT_TRUE(absl::IsResourceExhausted(engine.status())) << engine.status();
  EXPECT_NE(engine.status().message().find("--kv_cache_gib"), std::string::npos);
  options_.kv_cache_gib = 0.01;
  const auto small = CreateEngine(options_);
  EXPECT_TRUE(absl::IsResourceExhausted(small.status())) << small.status();
}

}  // namespace
}  // namespace nsa::engine
