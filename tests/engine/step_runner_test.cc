// Steps that are launched before the tokens of those before are known: on a backend of this machine
// that does what it is asked when somebody waits, beside one that does it at once.

#include "engine/step_runner.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "engine/engine.h"
#include "engine/prompt_lookup.h"
#include "tests/engine/ahead_load.h"
#include "tests/engine/fakes.h"
#include "tests/engine/late_backend.h"
#include "tests/engine/tiny_folder.h"

namespace nsa::engine {
namespace {

constexpr int64_t kMaxContext = 768;  // beyond the window, so that pages are selected

class StepRunnerTest : public testing::Test {
 protected:
  void SetUp() override {
    TinyFolder::json config = TinyFolder::Config();
    config["max_position_embeddings"] = 2 * kMaxContext;
    folder_.WriteJson("config.json", config);
    options_.model_path = folder_.path();
    options_.device = Device::kCpu;
    options_.num_threads = 1;
    options_.max_context = kMaxContext;
    options_.max_step_tokens = 96;
    options_.max_running_requests = 6;
    options_.checks_each_step = true;
  }

  /// Of an engine whose backend is late.
  EngineOptions Late(uint32_t seed) {
    EngineOptions options = options_;
    options.wrap_backend = [this, seed](std::unique_ptr<kernels::Backend> inner) {
      return std::make_unique<LateBackend>(std::move(inner), &counts_, seed);
    };
    return options;
  }

  TinyFolder folder_;
  EngineOptions options_;
  LateBackend::Counts counts_;
};

TEST_F(StepRunnerTest, ARandomLoadIsAnsweredAsWhereStepsFollowEachOther) {
  options_.kv_cache_gib = 12.5 * 64 * 2 * 16 * 2 / (1 << 30) * 1.05;  // about 12 pages
  std::map<FinishReason, int> reasons;
  AheadObserver observer;
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(seed);
    const AheadLoad load(60, kMaxContext, seed);
    const AheadLoad::Sinks plain = load.Run(options_);
    for (const auto& [reason, count] : AheadLoad::CountReasons(plain)) reasons[reason] += count;
    EngineOptions late = Late(seed);
    late.metrics = &observer;
    load.ExpectEqual(load.Run(late), plain);
  }
  EXPECT_EQ(reasons.size(), 4u) << "not every way to end";
  EXPECT_GT(observer.num_preemptions, 10);
  EXPECT_GT(counts_.num_steps_ahead, observer.num_steps / 8);
  EXPECT_LT(counts_.num_steps_ahead, observer.num_steps) << "nobody had to wait for a token";
}

TEST_F(StepRunnerTest, DraftsAreVerifiedBeforeTheNextStep) {
  options_.kv_cache_gib = 0.001;
  options_.speculation = Speculation::kPromptLookup;
  AheadObserver observer;
  const AheadLoad load(60, kMaxContext, 7);
  const AheadLoad::Sinks plain = load.Run(options_);
  EngineOptions late = Late(7);
  late.metrics = &observer;
  load.ExpectEqual(load.Run(late), plain, 1 + PromptLookup::kMaxDraft);
  EXPECT_GT(observer.num_accepted_drafts, 0);
}

/// Of a long completion: after each step's launch nobody waits but for the tokens of the one
/// before, and the ages of pages come with these.
TEST_F(StepRunnerTest, ADecodeStepWaitsOnce) {
  options_.kv_cache_gib = 0.001;
  AheadObserver observer;
  EngineOptions late = Late(1);
  late.metrics = &observer;
  auto engine = CreateEngine(late);
  ASSERT_TRUE(engine.ok()) << engine.status();
  const LateBackend::Counts before = counts_;  // by the self-check
  Request request;
  request.id = "long";
  request.prompt_token_ids.assign(620, 7);
  request.sampling.max_tokens = 140;
  request.sampling.ignore_eos = true;
  const auto sink = SubmitTo<RecordingSink>(**engine, std::move(request));
  ASSERT_TRUE(sink->WaitUntilDone());
  engine->reset();
  EXPECT_EQ(sink->tokens.size(), 140u);
  EXPECT_GT(observer.num_steps, 140);
  EXPECT_EQ(counts_.num_reads, before.num_reads);
  EXPECT_EQ(counts_.num_marks - before.num_marks, observer.num_steps);
  EXPECT_EQ(counts_.num_steps_ahead - before.num_steps_ahead, observer.num_steps - 1);
  EXPECT_GT(observer.num_selected_pages, 0);
}

/// To read logits is to wait for all that was asked for: the step before would end with it.
TEST_F(StepRunnerTest, NobodyRunsAheadWhereLogitsAreRead) {
  options_.kv_cache_gib = 0.001;
  auto engine = CreateEngine(Late(1));
  ASSERT_TRUE(engine.ok()) << engine.status();
  const int64_t before = counts_.num_steps_ahead;
  Request request;
  request.id = "prompt";
  request.prompt_token_ids.assign(620, 7);
  request.sampling.max_tokens = 1;
  request.sampling.prompt_logprobs = 1;
  const auto sink = SubmitTo<RecordingSink>(**engine, std::move(request));
  ASSERT_TRUE(sink->WaitUntilDone());
  engine->reset();
  EXPECT_EQ(sink->tokens.size(), 1u);
  EXPECT_EQ(counts_.num_steps_ahead, before);
}

}  // namespace
}  // namespace nsa::engine
