#ifndef NSA_TESTS_ENGINE_AHEAD_LOAD_H_
#define NSA_TESTS_ENGINE_AHEAD_LOAD_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/faults.h"
#include "tests/engine/notification.h"
#include "tests/engine/random_requests.h"

namespace nsa::engine {

/// What one choice of a request was told.
struct AheadChoice {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<float> logprobs;
  int num_ends = 0;
  Finish finish;
};

/// Keeps it. After so many outputs it has the request aborted, or does not read for a while.
class AheadSink final : public OutputSink {
 public:
  AheadSink(Engine* engine, std::string id, size_t abort_after, size_t pause_after)
      : engine_(engine), id_(std::move(id)), abort_after_(abort_after), pause_after_(pause_after) {}

  void OnOutput(Output output) override {
    AheadChoice& choice = choices[output.index];
    choice.tokens.insert(choice.tokens.end(), output.token_ids.begin(), output.token_ids.end());
    choice.text += output.text;
    for (const TokenLogprobs& t : output.logprobs) choice.logprobs.push_back(t.token.logprob);
    ++num_outputs_;
    if (num_outputs_ == pause_after_) resumes_ = absl::Now() + absl::Milliseconds(2);
    if (num_outputs_ == abort_after_) engine_->Abort(id_);
  }
  void OnPromptLogprobs(int64_t, const std::vector<TokenLogprobs>& values) override {
    for (const TokenLogprobs& t : values) choices[0].logprobs.push_back(t.token.logprob);
  }
  void OnChoiceDone(const Finish& finish) override {
    choices[finish.index].finish = finish;
    ++choices[finish.index].num_ends;
  }
  void OnDone(const absl::Status& end, const Finish& finish) override {
    OnChoiceDone(finish);
    status = end;
    ++num_done;
    if (!done.HasBeenNotified()) done.Notify();
  }
  bool Ready() const override { return absl::Now() >= resumes_; }

  std::map<int32_t, AheadChoice> choices;
  absl::Status status;
  int num_done = 0;
  Notification done;

 private:
  Engine* engine_;
  std::string id_;
  size_t abort_after_, pause_after_;
  size_t num_outputs_ = 0;
  absl::Time resumes_ = absl::InfinitePast();
};

/// Counts what makes a load worth the name. Read when the engine is gone.
class AheadObserver final : public MetricsObserver {
 public:
  void OnPreemptions(const Preemptions& p) override { num_preemptions += p.num_sequences; }
  void OnStep(const StepStats& stats) override {
    num_steps += stats.num_rows_in_batch > 0 ? 1 : 0;
    num_accepted_drafts += stats.drafts.num_accepted;
    for (const int64_t count : stats.selected_pages) num_selected_pages += count;
  }
  int64_t num_preemptions = 0, num_steps = 0, num_accepted_drafts = 0, num_selected_pages = 0;
};

/// A random load for engines of one model: what a request is answered must not depend on when
/// steps are launched.
class AheadLoad {
 public:
  using Sinks = std::vector<std::shared_ptr<AheadSink>>;

  AheadLoad(int num_requests, int64_t max_context, uint32_t seed) : random_(seed) {
    for (int i = 0; i < num_requests; ++i) plans_.push_back(Draw(i, max_context));
  }

  Sinks Run(EngineOptions options) const {
    options.max_queued_requests = static_cast<int32_t>(2 * plans_.size());
    options.max_queued_tokens = int64_t{1} << 20;
    FaultInjector faults({.probability = FailingAllocations(true), .preempt_every = 31, .seed = 5});
    options.faults = &faults;
    auto engine = CreateEngine(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    Sinks sinks;
    for (const Plan& plan : plans_) {
      Request request = plan.request;
      if (plan.regex != nullptr) {
        auto grammar = (*engine)->CompileGrammar(
            {.kind = GrammarSpec::Kind::kRegex, .text = plan.regex, .choices = {}});
        EXPECT_TRUE(grammar.ok() || absl::IsUnimplemented(grammar.status())) << grammar.status();
        if (grammar.ok()) request.grammar = *std::move(grammar);
      }
      sinks.push_back(std::make_shared<AheadSink>(engine->get(), request.id, plan.abort_after,
                                                  plan.pause_after));
      const absl::Status status = (*engine)->Submit(std::move(request), sinks.back());
      if (!status.ok()) sinks.back()->OnDone(status, {});  // none is refused
      std::this_thread::sleep_for(std::chrono::microseconds(plan.gap_us));
    }
    for (const auto& sink : sinks) {
      sink->done.WaitForNotification();  // where one never ends, the test's own limit shows it
    }
    EXPECT_EQ((*engine)->load().num_pages_free, (*engine)->load().num_pages_total);
    return sinks;
  }

  /// What two runs were told, the second of one step after the other. `step_tokens`: the most that
  /// a step gives a sequence.
  void ExpectEqual(const Sinks& actual, const Sinks& expected, int64_t step_tokens = 1) const {
    for (size_t i = 0; i < plans_.size(); ++i) {
      SCOPED_TRACE(absl::StrCat("request ", i, " of kind ", plans_[i].kind));
      const AheadSink &a = *actual[i], &e = *expected[i];
      EXPECT_EQ(a.num_done, 1);
      EXPECT_EQ(a.status, e.status);
      if (e.choices.at(0).finish.reason == FinishReason::kAborted) {
        ExpectAborted(a.choices.at(0), e.choices.at(0), step_tokens);
        continue;
      }
      ASSERT_EQ(a.choices.size(), e.choices.size());
      for (const auto& [index, choice] : a.choices) {
        const AheadChoice& other = e.choices.at(index);
        EXPECT_EQ(choice.num_ends, 1);
        EXPECT_EQ(choice.tokens, other.tokens);
        EXPECT_EQ(choice.text, other.text);
        EXPECT_EQ(choice.logprobs, other.logprobs);
        EXPECT_EQ(choice.finish.reason, other.finish.reason);
        EXPECT_EQ(choice.finish.stop_token_id, other.finish.stop_token_id);
        EXPECT_EQ(choice.finish.stop_string, other.finish.stop_string);
        const Usage &usage = choice.finish.usage, &usage_then = other.finish.usage;
        EXPECT_EQ(usage.num_prompt_tokens, usage_then.num_prompt_tokens);
        EXPECT_EQ(usage.num_generated_tokens, usage_then.num_generated_tokens);
        EXPECT_EQ(usage.num_generated_tokens, std::ssize(choice.tokens));
      }
    }
  }
  /// So that none is compared with nothing.
  static std::map<FinishReason, int> CountReasons(const Sinks& sinks) {
    std::map<FinishReason, int> reasons;
    for (const auto& sink : sinks) {
      for (const auto& [index, choice] : sink->choices) ++reasons[choice.finish.reason];
    }
    return reasons;
  }

 private:
  /// Aborted a step later it has got some tokens more, of which the last may have ended it.
  static void ExpectAborted(const AheadChoice& actual, const AheadChoice& expected,
                            int64_t step_tokens) {
    EXPECT_EQ(actual.num_ends, 1);
    EXPECT_EQ(actual.finish.usage.num_generated_tokens, std::ssize(actual.tokens));
    EXPECT_LE(std::abs(std::ssize(actual.tokens) - std::ssize(expected.tokens)), step_tokens);
    const size_t size = std::min(actual.tokens.size(), expected.tokens.size());
    EXPECT_TRUE(std::equal(actual.tokens.begin(),
                           actual.tokens.begin() + static_cast<std::ptrdiff_t>(size),
                           expected.tokens.begin()));
    if (actual.tokens.size() <= expected.tokens.size()) {
      EXPECT_EQ(actual.finish.reason, FinishReason::kAborted);
    }
  }

  struct Plan {
    Request request;
    uint32_t kind = 0;
    const char* regex = nullptr;
    size_t abort_after = 0, pause_after = 0;  // outputs; 0: never
    int64_t gap_us = 0;                       // before the next request
  };

  uint32_t Below(uint32_t end) { return static_cast<uint32_t>(random_() % end); }

  /// Every kind of parameters that decides whether a step may be launched early, and how it ends.
  void Choose(uint32_t kind, SamplingParams& p) {
    const bool draws = Below(2) == 0;
    p.temperature = draws ? 1.3F : 0.0F;
    p.seed = random_();
    p.ignore_eos = Below(2) == 0;
    p.max_tokens = 1 + Below(kind > 10 ? 130 : 40);
    if (kind == 0) p.max_tokens = 1;
    if (kind == 1 || kind == 2) {
      for (int i = 0; i < 25; ++i) p.stop_token_ids.push_back(static_cast<int32_t>(Below(256)));
    }
    if (kind == 2) p.min_tokens = std::min<int64_t>(*p.max_tokens, 6);
    if (kind == 3) p.stop = {"e", "th", "a", "7", "\n", "\xEF\xBF\xBD\xEF\xBF\xBD"};
    if (kind == 4) p.repetition_penalty = 1.4F, p.frequency_penalty = 0.3F;
    if (kind == 5) p.bad_words = {"a", "th", "e"};
    if (kind == 6) p.logprobs = 2;
    if (kind == 7) p.logprobs = 0, p.prompt_logprobs = 1;
    if (kind == 8) p.n = 2, p.temperature = 1.0F;
    if (kind == 9) p.allowed_token_ids = {65, 66, 67, 68, 101}, p.logit_bias = {{66, 0.5F}};
  }

  Plan Draw(int index, int64_t max_context) {
    Plan plan;
    plan.kind = static_cast<uint32_t>(index) % 14;
    Request& request = plan.request;
    request.id = std::to_string(index);
    Choose(plan.kind, request.sampling);
    if (plan.kind == 10) plan.regex = "[a-z ]{3,30}";
    const auto most = static_cast<uint32_t>(max_context - *request.sampling.max_tokens);
    const uint32_t num_prompt = 1 + Below(Below(3) == 0 ? most : most / 4);
    const uint32_t beginning = Below(3);  // that others have as well
    for (uint32_t i = 0; i < num_prompt; ++i) {
      const bool is_own = i > 2 * num_prompt / 3;
      request.prompt_token_ids.push_back(
          static_cast<int32_t>(is_own ? Below(256) : (i * (beginning + 3)) % 97));
    }
    request.priority = static_cast<int32_t>(Below(2));
    request.bypass_prefix_cache = Below(8) == 0;
    request.attention.mode = Below(4) == 0 ? AttentionMode::kFull : AttentionMode::kDefault;
    if (request.sampling.n == 1 && Below(5) == 0) plan.abort_after = 1 + Below(12);
    if (Below(6) == 0) plan.pause_after = 1 + Below(6);
    plan.gap_us = Below(4) == 0 ? Below(4000) : 0;
    return plan;
  }

  std::mt19937 random_;
  std::vector<Plan> plans_;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_AHEAD_LOAD_H_
