// The engine with a file below its pages: a small model whose sequences exceed the pool together.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/faults.h"
#include "engine/kv_cache.h"
#include "tests/engine/fakes.h"
#include "tests/engine/notification.h"
#include "tests/engine/random_requests.h"
#include "tests/engine/tiny_folder.h"

namespace nsa::engine {
namespace {

constexpr int kNumLayers = 3;
// K and V of a page and layer are one and a half pages of the system.
constexpr TinyFolder::Sizes kSizes = {.head_dim = 24};
constexpr int64_t kTrained = 8192;

/// What was moved and computed again; written by the engine thread.
class Counter final : public MetricsObserver {
 public:
  void OnStep(const StepStats& stats) override {
    pages_out += stats.spills.num_pages_out;
    pages_in += stats.spills.num_pages_in;
    failures += stats.spills.num_failed_reads + stats.spills.num_failed_writes;
    most_resident =
        std::max<int64_t>(most_resident, stats.num_pages_active + stats.num_pages_cached);
    spilled = stats.num_pages_spilled;
    slots_in += stats.spills.num_slots_in;
    slots_missed += stats.misses.num_slots;
  }
  void OnPreemptions(const Preemptions& preemptions) override {
    num_preempted += preemptions.num_sequences;
    num_recomputed += preemptions.num_recomputed_tokens;
  }
  std::atomic<int64_t> pages_out{0}, pages_in{0}, failures{0}, num_preempted{0}, num_recomputed{0};
  std::atomic<int64_t> most_resident{0}, spilled{0}, slots_in{0}, slots_missed{0};
};

class CacheSpillTest : public testing::Test {
 protected:
  CacheSpillTest() {
    TinyFolder::json config = TinyFolder::Config(kSizes);
    config["num_hidden_layers"] = kNumLayers;
    config["max_position_embeddings"] = kTrained;
    folder_.WriteJson("config.json", config);
    TinyFolder::Shapes shapes;
    for (const auto& [name, shape] : TinyFolder::Weights("model.", kSizes)) {
      shapes[name] = shape;
      const size_t at = name.find("layers.0.");
      for (int layer = 1; at != std::string::npos && layer < kNumLayers; ++layer) {
        std::string copy = name;
        shapes[copy.replace(at, 9, absl::StrCat("layers.", layer, "."))] = shape;
      }
    }
    folder_.Write("model.safetensors", TinyFolder::Safetensors(shapes));
    options_.model_path = folder_.path();
    options_.num_threads = 1;
    options_.num_selected_blocks = 16;  // what memory must hold at least goes by this
    options_.metrics = &counter_;
    options_.checks_each_step = true;
  }

  /// With memory for `num_tokens` and a file for `num_spilled` more; contexts of `max_context`
  /// tokens, by default what memory holds.
  std::unique_ptr<Engine> Create(int64_t num_tokens, int64_t num_spilled, int64_t max_context = 0) {
    const AttentionShape shape = {
        .num_q_heads = 2, .num_kv_heads = 1, .head_dim_k = 24, .head_dim_v = 24};
    const KvLayout layout =
        KvLayout::For(TrainingFreeSpec(kTrained), shape, kNumLayers, kernels::DType::kF16);
    const int64_t frames = num_tokens / 64, blocks = num_spilled / 64;
    options_.max_context = max_context > 0 ? max_context : std::min(num_tokens, int64_t{4096});
    options_.kv_cache_gib =
        std::ldexp(static_cast<double>(KvCache::NumBytes(layout, frames, blocks)) + 1, -30);
    options_.kv_spill_dir = blocks > 0 ? folder_.path() : "";
    options_.kv_spill_gib = std::ldexp(static_cast<double>(blocks * layout.SlotsBytes()) + 1, -30);
    if (blocks == 0) options_.kv_spill_gib = 0;
    auto engine = CreateEngine(options_);
    EXPECT_TRUE(engine.ok()) << engine.status();
    EXPECT_EQ((*engine)->model_info().num_pages, frames);
    EXPECT_EQ((*engine)->model_info().num_spilled_pages, blocks);
    return *std::move(engine);
  }

  static std::shared_ptr<RecordingSink> Submit(Engine& engine, Request request) {
    return SubmitTo<RecordingSink>(engine, std::move(request));
  }

  std::vector<int32_t> Alone(const Request& request, int64_t max_context = 4096) {
    auto engine = Create(max_context, 0, max_context);
    auto sink = Submit(*engine, request);
    EXPECT_TRUE(sink->WaitUntilDone());
    return sink->tokens;
  }

  /// Moves may end after the requests.
  static bool WaitForAllPages(Engine& engine) {
    for (int i = 0; i < 2000; ++i) {
      const EngineLoad load = engine.load();
      if (load.num_pages_free == load.num_pages_total) return true;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return false;
  }
  /// Each ends with what it has alone, or was aborted on the way there; the engine is none the
  /// worse.
  static void CheckAll(Engine& engine, const std::vector<std::shared_ptr<RecordingSink>>& sinks,
                       const std::vector<std::vector<int32_t>>& alone) {
    for (size_t i = 0; i < sinks.size(); ++i) {
      ASSERT_TRUE(sinks[i]->WaitUntilDone());
      ASSERT_TRUE(sinks[i]->status.ok()) << sinks[i]->status;
      std::vector<int32_t> expected = alone[i];
      if (sinks[i]->finish.reason == FinishReason::kAborted) {
        expected.resize(sinks[i]->tokens.size());
      }
      EXPECT_EQ(sinks[i]->tokens, expected) << i;
    }
    EXPECT_TRUE(WaitForAllPages(engine));
    EXPECT_TRUE(engine.healthy());
  }
  bool WaitUntil(const std::function<bool()>& holds) {
    for (int i = 0; i < 10'000 && !holds(); ++i) absl::SleepFor(absl::Milliseconds(1));
    return holds();
  }

  TinyFolder folder_;
  Counter counter_;
  EngineOptions options_;
};

/// Two sequences of 4k tokens in a pool for one, which read all of it: nothing is computed twice.
TEST_F(CacheSpillTest, TwoContextsInAPoolForOneLoseNoWork) {
  Request first = SampledRequest(1, 2000, 2000), second = SampledRequest(2, 2000, 2000);
  first.attention.mode = second.attention.mode = AttentionMode::kFull;
  const std::vector<int32_t> first_alone = Alone(first), second_alone = Alone(second);
  auto engine = Create(4096 + 64, 4096);
  const auto a = Submit(*engine, first), b = Submit(*engine, second);
  ASSERT_TRUE(a->WaitUntilDone() && b->WaitUntilDone());
  EXPECT_EQ(a->tokens, first_alone);
  EXPECT_EQ(b->tokens, second_alone);
  EXPECT_GT(counter_.num_preempted, 0);
  EXPECT_EQ(counter_.num_recomputed, 0);
  EXPECT_GE(counter_.pages_out, 30);
  EXPECT_GE(counter_.pages_in, 30);
  EXPECT_LE(counter_.most_resident, 65);
  EXPECT_TRUE(WaitForAllPages(*engine));
}

/// A context of four times the memory: what its rows select comes and goes by slots.
TEST_F(CacheSpillTest, AContextBeyondMemoryRuns) {
  constexpr int64_t kContext = 5120, kMemory = 20 * 64;
  Request long_prompt = SampledRequest(1, 4600, 300), long_answer = SampledRequest(2, 1000, 1500);
  const auto expected = {Alone(long_prompt, kContext), Alone(long_answer, kContext)};
  for (const int64_t max_step_tokens : {512, 7}) {
    SCOPED_TRACE(max_step_tokens);
    options_.max_step_tokens = max_step_tokens;
    auto engine = Create(kMemory, 2 * kContext, kContext);
    const int64_t misses = counter_.slots_missed;
    const auto a = Submit(*engine, long_prompt), b = Submit(*engine, long_answer);
    ASSERT_TRUE(a->WaitUntilDone() && b->WaitUntilDone());
    EXPECT_EQ(a->tokens, *expected.begin());
    EXPECT_EQ(b->tokens, *(expected.begin() + 1));
    EXPECT_GT(counter_.slots_missed, misses + 1000);
    EXPECT_EQ(counter_.num_recomputed, 0);
    EXPECT_LE(counter_.most_resident, std::max<int64_t>(20, kContext / 64));
    EXPECT_TRUE(WaitForAllPages(*engine));
  }
}

/// Together beyond memory, but what they select fits: both run all the time.
TEST_F(CacheSpillTest, TwoWhoseWorkingSetsFitRunTogether) {
  const Request first = SampledRequest(1, 2400, 900), second = SampledRequest(2, 2400, 900);
  const std::vector<int32_t> first_alone = Alone(first), second_alone = Alone(second);
  auto engine = Create(60 * 64, 8192, 4096);
  const auto a = Submit(*engine, first), b = Submit(*engine, second);
  ASSERT_TRUE(a->WaitUntilDone() && b->WaitUntilDone());
  EXPECT_EQ(a->tokens, first_alone);
  EXPECT_EQ(b->tokens, second_alone);
  EXPECT_EQ(counter_.num_preempted, 0);
  EXPECT_EQ(counter_.num_recomputed, 0);
  EXPECT_GT(counter_.pages_out, 30);
  // Neither had ended before the other was well under way.
  EXPECT_LT(a->finish.times.first_token, b->finish.times.end);
  EXPECT_LT(b->finish.times.first_token, a->finish.times.end);
}

/// Contexts beyond memory, cancels and flushes, while everything fails now and then.
TEST_F(CacheSpillTest, FaultsDoNotShowInContextsBeyondMemory) {
  constexpr int64_t kContext = 2304;
  constexpr int kNumRequests = 3;
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < kNumRequests; ++i) {
    requests.push_back(SampledRequest(i, 800 * i + 300, 200));
    alone.push_back(Alone(requests.back(), kContext));
  }
  for (const char* text :
       {"spill_write=0.003,spill_read=0.05,spill_short=0.2,allocation=0.02,preempt_every=90",
        "spill_slow=0.05,delay_ms=2,preempt=0.01", "drop_stream=0.0005,spill_slow=0.01,delay_ms=2",
        "spill_write=0.2"}) {
    SCOPED_TRACE(text);
    FaultInjector faults(*FaultInjector::Parse(text));
    options_.faults = &faults;
    auto engine = Create(22 * 64, 4 * kContext, kContext);
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (const Request& request : requests) sinks.push_back(Submit(*engine, request));
    engine->FlushCache([](int32_t) {});
    ASSERT_NO_FATAL_FAILURE(CheckAll(*engine, sinks, alone));
  }
  EXPECT_GT(counter_.slots_missed, 0);
}

/// Who needs a file that gives nothing back is told so; who does not is served.
TEST_F(CacheSpillTest, AContextBeyondMemoryEndsWhereTheFileFails) {
  FaultInjector faults(*FaultInjector::Parse("spill_read=1"));
  const Request beyond = SampledRequest(1, 2500, 100), within = SampledRequest(2, 300, 100);
  const std::vector<int32_t> within_alone = Alone(within);
  options_.faults = &faults;
  auto engine = Create(22 * 64, 8192, 3072);
  const auto a = Submit(*engine, beyond), b = Submit(*engine, within);
  ASSERT_TRUE(a->done.WaitForNotificationWithTimeout(absl::Minutes(5)) && b->WaitUntilDone());
  EXPECT_TRUE(absl::IsUnavailable(a->status)) << a->status;
  EXPECT_EQ(b->tokens, within_alone);
}

/// Full attention reads all pages, and so has no more than memory.
TEST_F(CacheSpillTest, FullAttentionBeyondMemoryIsRefused) {
  auto engine = Create(22 * 64, 8192, 3072);
  Request request = SampledRequest(1, 1400, 100);
  request.attention.mode = AttentionMode::kFull;
  const auto sink = std::make_shared<RecordingSink>();
  const absl::Status status = engine->Submit(request, sink);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(status.message().find("1408 tokens"), std::string::npos) << status;
  request.sampling.max_tokens = 8;
  const auto fits = Submit(*engine, request);
  ASSERT_TRUE(fits->WaitUntilDone());
  EXPECT_EQ(fits->tokens.size(), 8u);
}

/// Prefixes that nobody uses make room and come back.
TEST_F(CacheSpillTest, IdlePrefixesAreFoundInTheFile) {
  // Whoever needs a page before it has been written takes it, and the prefix is forgotten: steps
  // leave the writer time, as those of a real model do.
  FaultInjector faults(*FaultInjector::Parse("step_slow=1,delay_ms=10"));
  options_.faults = &faults;
  auto engine = Create(4096, 12 * 2048);
  std::vector<std::vector<int32_t>> tokens;
  for (int i = 0; i < 8; ++i) {
    const auto sink = Submit(*engine, SampledRequest(i, 2048, 20));
    ASSERT_TRUE(sink->WaitUntilDone());
    tokens.push_back(sink->tokens);
  }
  EXPECT_GT(counter_.pages_out, 5 * 32);
  for (int i = 0; i < 8; ++i) {
    const auto sink = Submit(*engine, SampledRequest(i, 2048, 20));
    ASSERT_TRUE(sink->WaitUntilDone());
    EXPECT_EQ(sink->tokens, tokens[static_cast<size_t>(i)]);
    EXPECT_EQ(sink->finish.usage.num_cached_tokens, 31 * 64) << i;
  }
  EXPECT_GT(counter_.pages_in, 5 * 31);
  Notification flushed;
  int32_t num_freed = 0;
  engine->FlushCache([&](int32_t n) {
    num_freed = n;
    flushed.Notify();
  });
  flushed.WaitForNotification();
  EXPECT_EQ(num_freed, 8 * 32) << "of memory and file";
  EXPECT_TRUE(WaitUntil([&] { return counter_.spilled == 0; }));
  const auto sink = Submit(*engine, SampledRequest(0, 2048, 20));
  ASSERT_TRUE(sink->WaitUntilDone());
  EXPECT_EQ(sink->finish.usage.num_cached_tokens, 0);
}

/// A file that is too small takes what it can; the rest is computed again.
TEST_F(CacheSpillTest, AFullFileCostsWorkOnly) {
  const Request first = SampledRequest(1, 1000, 1000), second = SampledRequest(2, 1000, 1000);
  const std::vector<int32_t> first_alone = Alone(first), second_alone = Alone(second);
  auto engine = Create(2048 + 64, 5 * 64);
  const auto a = Submit(*engine, first), b = Submit(*engine, second);
  ASSERT_TRUE(a->WaitUntilDone() && b->WaitUntilDone());
  EXPECT_EQ(a->tokens, first_alone);
  EXPECT_EQ(b->tokens, second_alone);
  EXPECT_GT(counter_.num_recomputed, 0);
  EXPECT_TRUE(WaitForAllPages(*engine));
}

/// Six sequences in a pool for one and a half, while everything fails now and then.
TEST_F(CacheSpillTest, FaultsDoNotShowInTheOutput) {
  constexpr int kNumRequests = 6;
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < kNumRequests; ++i)
    alone.push_back(Alone(SampledRequest(i, 150 * i + 50, 400)));
  for (const char* text :
       {"spill_write=0.003,spill_read=0.003,spill_short=0.2,allocation=0.05,preempt_every=9",
        "spill_slow=0.2,delay_ms=3,preempt=0.1,step_slow=0.01", "spill_write=1,preempt_every=20",
        "spill_read=1,preempt_every=50", "drop_stream=0.003,preempt_every=11"}) {
    SCOPED_TRACE(text);
    FaultInjector faults(*FaultInjector::Parse(text));
    options_.faults = &faults;
    auto engine = Create(1536, 4096);
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int i = 0; i < kNumRequests; ++i) {
      sinks.push_back(Submit(*engine, SampledRequest(i, 150 * i + 50, 400)));
    }
    ASSERT_NO_FATAL_FAILURE(CheckAll(*engine, sinks, alone));
  }
  EXPECT_GT(counter_.failures, 0);
}

/// Requests that end, and a flush, while their pages are on the way.
TEST_F(CacheSpillTest, CancelAndFlushInMidMoveReturnAllPages) {
  FaultInjector faults(*FaultInjector::Parse("spill_slow=1,delay_ms=4"));
  options_.faults = &faults;
  auto engine = Create(2048 + 64, 4096);
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    const int64_t preempted = counter_.num_preempted;
    Request first = SampledRequest(10 * round, 1000, 1000);
    Request second = SampledRequest(10 * round + 1, 1000, 1000);
    const auto a = Submit(*engine, first), b = Submit(*engine, second);
    // Where what the rounds before left is still on its way out, the second may come too late.
    ASSERT_TRUE(
        WaitUntil([&] { return counter_.num_preempted > preempted || a->done.HasBeenNotified(); }));
    absl::SleepFor(absl::Milliseconds(3 * round));
    if (round % 2 == 0) engine->FlushCache([](int32_t) {});
    engine->Abort(second.id);
    if (round % 3 == 0) engine->Abort(first.id);
    ASSERT_TRUE(a->WaitUntilDone() && b->WaitUntilDone());
    EXPECT_EQ(a->num_done + b->num_done, 2);
    EXPECT_TRUE(WaitForAllPages(*engine));
  }
  EXPECT_GE(counter_.num_preempted, 2);
  // The end of the engine with moves under way.
  const auto last = Submit(*engine, SampledRequest(99, 1000, 1000));
  Submit(*engine, SampledRequest(98, 1000, 1000));
  const int64_t pages_out = counter_.pages_out;
  WaitUntil([&] { return counter_.pages_out > pages_out; });
  engine.reset();
  EXPECT_EQ(last->num_done, 1);
}

TEST_F(CacheSpillTest, BadSpillOptionsAreRefused) {
  const auto refuse = [&](const std::string& dir, double gib) {
    options_.kv_spill_dir = dir;
    options_.kv_spill_gib = gib;
    const auto engine = CreateEngine(options_);
    EXPECT_TRUE(absl::IsInvalidArgument(engine.status())) << engine.status();
    EXPECT_NE(engine.status().message().find("--kv_spill"), std::string::npos);
  };
  options_.kv_cache_gib = 0.01;
  refuse(folder_.path(), 0);
  refuse("", 1);
  refuse(folder_.path(), -1);
  refuse(folder_.path(), NAN);
  refuse(folder_.path(), 1e-9);
  refuse(folder_.path() + "/none", 0.001);
}

}  // namespace
}  // namespace nsa::engine
