#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/fakes.h"

namespace nsa::engine {
namespace {

class SchedulerTest : public testing::Test {
 protected:
  std::shared_ptr<RecordingSink> Add(Scheduler& scheduler, const std::string& id, int64_t prompt,
                                     int64_t max_tokens, int32_t priority = 0,
                                     bool speculates = false) {
    Request request;
    request.id = id;
    request.prompt_token_ids.assign(static_cast<size_t>(prompt), 1);
    request.priority = priority;
    auto sink = std::make_shared<RecordingSink>();
    clock_ += absl::Milliseconds(1);
    auto sequence =
        std::make_unique<Sequence>(std::move(request), sink, tokenizer_, max_tokens, 1, clock_);
    if (speculates) sequence->prompt_lookup = std::make_unique<PromptLookup>();
    scheduler.Add(std::move(sequence));
    return sink;
  }

  /// The token that the model gives after `num_tokens`: repetitions, and breaks in them.
  static int32_t TokenAfter(int64_t num_tokens) {
    return static_cast<int32_t>(2 + num_tokens / 3 % 4 + (num_tokens % 37 == 0 ? 10 : 0));
  }

  /// Accepts tokens of an entry while its draft holds; true where the sequence ends.
  bool Deliver(Sequence& sequence, const BatchEntry& entry) {
    const std::vector<int32_t> tokens(entry.tokens.begin(), entry.tokens.end());
    for (int row = 0; row < entry.num_logit_rows; ++row) {
      if (row > 0 && sequence.tokens.back() != tokens[static_cast<size_t>(row)]) return false;
      if (sequence.AcceptToken(TokenAfter(sequence.num_tokens()), clock_)) return true;
    }
    return false;
  }

  /// Plays the model for every sequence whose logits were asked for.
  int Step(Scheduler& scheduler, const Batch& batch) {
    std::vector<std::string> ended;
    for (const BatchEntry& entry : batch.entries) {
      Sequence& sequence = scheduler.running(entry.sequence_index);
      if (Deliver(sequence, entry)) ended.push_back(sequence.id());
    }
    scheduler.Complete(batch);
    for (const std::string& id : ended) {
      scheduler.Remove(id).at(0)->Finish(absl::OkStatus(), FinishReason::kLength, clock_);
    }
    return static_cast<int>(ended.size());
  }

  /// The step is under way: all go on without the tokens that it draws.
  static void GoOn(Scheduler& scheduler, const Batch& batch) {
    for (const BatchEntry& entry : batch.entries) {
      Sequence& sequence = scheduler.running(entry.sequence_index);
      if (entry.samples) sequence.AwaitToken(entry.sequence_index);
      scheduler.Complete(sequence, entry);
    }
  }

  LetterTokenizer tokenizer_;
  absl::Time clock_ = absl::UnixEpoch();
};

TEST_F(SchedulerTest, DecodeRowsComeBeforeAPrefillChunk) {
  PagePool pool(100);
  Scheduler scheduler(&pool, {.max_step_tokens = 10, .max_running = 8, .prefix_cache = false});
  Add(scheduler, "short", 3, 50);
  Step(scheduler, scheduler.Schedule(clock_));
  Add(scheduler, "long", 1000, 5);
  for (int i = 0; i < 20; ++i) {
    const Batch batch = scheduler.Schedule(clock_);
    ASSERT_EQ(batch.entries.size(), 2u);
    EXPECT_EQ(batch.entries[0].tokens.size(), 1u) << "the running stream goes on";
    EXPECT_EQ(batch.entries[1].tokens.size(), 9u);
    EXPECT_EQ(batch.num_rows, 10);
    Step(scheduler, batch);
  }
}

TEST_F(SchedulerTest, LowerPriorityNumberRunsFirst) {
  PagePool pool(100);
  Scheduler scheduler(&pool, {.max_step_tokens = 64, .max_running = 1, .prefix_cache = false});
  Add(scheduler, "later", 10, 1, 5);
  Add(scheduler, "first", 10, 1, -5);
  const Batch batch = scheduler.Schedule(clock_);
  ASSERT_EQ(batch.entries.size(), 1u);
  EXPECT_EQ(scheduler.running(0).id(), "first");
}

TEST_F(SchedulerTest, ChunksJoinToThePromptAndAskForLogitsOnce) {
  PagePool pool(100);
  Scheduler scheduler(&pool, {.max_step_tokens = 7, .max_running = 1, .prefix_cache = false});
  Add(scheduler, "a", 30, 1);
  std::vector<size_t> sizes;
  int logits = 0;
  while (!scheduler.idle()) {
    const Batch batch = scheduler.Schedule(clock_);
    ASSERT_EQ(batch.entries.size(), 1u);
    EXPECT_EQ(batch.entries[0].num_cached, static_cast<int64_t>(sizes.size()) * 7);
    sizes.push_back(batch.entries[0].tokens.size());
    logits += batch.entries[0].num_logit_rows;
    Step(scheduler, batch);
  }
  EXPECT_EQ(sizes, (std::vector<size_t>{7, 7, 7, 7, 2}));
  EXPECT_EQ(logits, 1);
  EXPECT_EQ(pool.num_free(), 100);
}

TEST_F(SchedulerTest, WhoEndsWithTheStepUnderWayMakesRoomForWhoNeedsIt) {
  PagePool pool(4);
  Scheduler scheduler(&pool, {.max_step_tokens = 512, .max_running = 8, .prefix_cache = false});
  Add(scheduler, "grows", 62, 10);
  Add(scheduler, "ends", 70, 3);
  Add(scheduler, "last", 60, 10);
  const auto accept_all = [&] {
    for (int i = 0; i < 3; ++i) scheduler.running(i).AcceptToken(TokenAfter(i), clock_);
  };
  GoOn(scheduler, scheduler.Schedule(clock_));
  for (int i = 0; i < 2; ++i) {
    const Batch batch = scheduler.Schedule(clock_);
    ASSERT_EQ(batch.entries.size(), 3u);
    accept_all();
    GoOn(scheduler, batch);
  }
  ASSERT_EQ(pool.num_free(), 0);
  Batch batch = scheduler.Schedule(clock_);
  EXPECT_EQ(scheduler.TakePreemptions().num_sequences, 0);
  ASSERT_EQ(batch.entries.size(), 1u);
  EXPECT_EQ(scheduler.running(batch.entries[0].sequence_index).id(), "last");
  accept_all();
  scheduler.Complete(batch);
  scheduler.Remove("ends").at(0)->Finish(absl::OkStatus(), FinishReason::kLength, clock_);
  batch = scheduler.Schedule(clock_);
  ASSERT_FALSE(batch.entries.empty());
  EXPECT_EQ(scheduler.running(batch.entries[0].sequence_index).id(), "grows");
  EXPECT_EQ(scheduler.TakePreemptions().num_sequences, 0);
}

TEST_F(SchedulerTest, PreemptionGivesPagesToTheFirstAndLosesNothing) {
  PagePool pool(4);  // 256 tokens
  Scheduler scheduler(&pool, {.max_step_tokens = 512, .max_running = 8, .prefix_cache = false});
  const auto first = Add(scheduler, "first", 60, 150);    // grows to 4 pages
  const auto second = Add(scheduler, "second", 60, 100);  // to 3
  for (int i = 0; i < 2000 && !scheduler.idle(); ++i) {
    Step(scheduler, scheduler.Schedule(clock_));
    ASSERT_TRUE(scheduler.Consistent());
  }
  const Preemptions preemptions = scheduler.TakePreemptions();
  EXPECT_GT(preemptions.num_sequences, 0);
  EXPECT_GT(preemptions.num_recomputed_tokens, 0);
  EXPECT_EQ(scheduler.TakePreemptions().num_sequences, 0);
  EXPECT_EQ(first->tokens.size(), 150u);
  EXPECT_EQ(second->tokens.size(), 100u);
  EXPECT_EQ(pool.num_free(), 4);
}

TEST_F(SchedulerTest, SlowReaderPausesAlone) {
  PagePool pool(100);
  Scheduler scheduler(&pool, {.max_step_tokens = 64, .max_running = 8, .prefix_cache = false});
  const auto slow = Add(scheduler, "slow", 5, 20);
  const auto quick = Add(scheduler, "quick", 5, 20);
  Step(scheduler, scheduler.Schedule(clock_));
  slow->ready = false;
  for (int i = 0; i < 30; ++i) Step(scheduler, scheduler.Schedule(clock_));
  EXPECT_EQ(slow->tokens.size(), 1u);
  EXPECT_EQ(quick->num_done, 1);
  slow->ready = true;
  for (int i = 0; i < 30; ++i) Step(scheduler, scheduler.Schedule(clock_));
  EXPECT_EQ(slow->tokens.size(), 20u);
}

/// Random arrivals, cancels and paused readers over a tiny pool.
TEST_F(SchedulerTest, RandomLoadConservesPagesAndEndsEveryRequestOnce) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    PagePool pool(6);
    const int64_t budget = 1 + random() % 100;
    Scheduler scheduler(
        &pool, {.max_step_tokens = budget, .max_running = 5, .prefix_cache = seed % 2 == 0});
    std::map<std::string, std::shared_ptr<RecordingSink>> sinks;
    std::map<std::string, int64_t> prompts;
    int next = 0;
    for (int step = 0; step < 1500; ++step) {
      if (step < 1000 && random() % 4 == 0) {
        const std::string id = std::to_string(next++);
        const int64_t prompt = 1 + random() % 250;
        sinks[id] = Add(scheduler, id, prompt, 1 + random() % (6 * 64 - prompt),
                        static_cast<int32_t>(random() % 3), random() % 2 == 0);
        prompts[id] = prompt;
      }
      if (random() % 10 == 0 && next > 0) {
        const std::string id = std::to_string(random() % static_cast<uint32_t>(next));
        for (const auto& sequence : scheduler.Remove(id)) {
          sequence->Finish(absl::OkStatus(), FinishReason::kAborted, clock_);
        }
      }
      if (step % 50 == 0) {
        for (auto& [id, sink] : sinks) sink->ready = random() % 5 != 0;
      }
      const Batch batch = scheduler.Schedule(clock_);
      ASSERT_LE(batch.num_rows, budget);
      for (const BatchEntry& entry : batch.entries) {
        ASSERT_LE(entry.num_cached + static_cast<int64_t>(entry.tokens.size()),
                  static_cast<int64_t>(entry.page_table.size()) * 64);
      }
      Step(scheduler, batch);
      ASSERT_TRUE(scheduler.Consistent()) << "seed " << seed << " step " << step;
    }
    for (auto& [id, sink] : sinks) sink->ready = true;
    for (int step = 0; step < 100000 && !scheduler.idle(); ++step) {
      Step(scheduler, scheduler.Schedule(clock_));
    }
    EXPECT_TRUE(scheduler.idle()) << "seed " << seed;
    EXPECT_EQ(scheduler.num_pages_available(), 6);
    scheduler.FlushCache();
    EXPECT_EQ(pool.num_free(), 6);
    for (const auto& [id, sink] : sinks) {
      EXPECT_EQ(sink->num_done, 1) << id;
      int64_t position = prompts[id];
      for (const int32_t token : sink->tokens) ASSERT_EQ(token, TokenAfter(position++)) << id;
    }
    EXPECT_GT(scheduler.TakeDraftCounts().num_accepted, 0);
  }
}

/// Speculation: a text that repeats itself is drafted, and what the model says otherwise is undone.
TEST_F(SchedulerTest, DraftsThatHoldAdvanceASequenceByMoreThanOne) {
  PagePool pool(6);
  Scheduler scheduler(&pool, {.max_step_tokens = 512, .max_running = 8, .prefix_cache = false});
  Request request;
  request.prompt_token_ids = {5, 6, 7, 8, 9, 5, 6, 7};
  auto sink = std::make_shared<RecordingSink>();
  auto added = std::make_unique<Sequence>(std::move(request), sink, tokenizer_, 200, 1, clock_);
  added->prompt_lookup = std::make_unique<PromptLookup>();
  scheduler.Add(std::move(added));
  Batch batch = scheduler.Schedule(clock_);
  Sequence& sequence = scheduler.running(0);
  sequence.AcceptToken(8, clock_);
  scheduler.Complete(batch);

  batch = scheduler.Schedule(clock_);
  ASSERT_EQ(batch.entries.size(), 1u);
  EXPECT_EQ(std::vector<int32_t>(batch.entries[0].tokens.begin(), batch.entries[0].tokens.end()),
            (std::vector<int32_t>{8, 9, 5, 6, 7}));
  EXPECT_EQ(batch.entries[0].num_cached, 8);
  EXPECT_EQ(batch.entries[0].num_logit_rows, 5);
  EXPECT_EQ(batch.num_rows, 5);
  // The model agrees to two of the four and then says 1.
  for (const int32_t token : {9, 5, 1}) sequence.AcceptToken(token, clock_);
  scheduler.Complete(batch);
  EXPECT_EQ(sequence.num_computed, 11);  // the prompt, 8, 9, 5
  EXPECT_TRUE(sequence.decoding());
  const DraftCounts counts = scheduler.TakeDraftCounts();
  EXPECT_EQ(counts.num_drafts, 1);
  EXPECT_EQ(counts.num_tokens, 4);
  EXPECT_EQ(counts.num_accepted, 2);

  // "1" is new: nothing to copy.
  batch = scheduler.Schedule(clock_);
  EXPECT_EQ(batch.entries[0].tokens.size(), 1u);
  EXPECT_EQ(batch.entries[0].tokens[0], 1);
  EXPECT_EQ(batch.entries[0].num_cached, 11);
  EXPECT_TRUE(scheduler.Consistent());
}

/// Drafts never take what they would have to take from others, nor write behind the end.
TEST_F(SchedulerTest, DraftsKeepInsidePagesBudgetAndCompletion) {
  PagePool pool(2);
  Scheduler scheduler(&pool, {.max_step_tokens = 64, .max_running = 8, .prefix_cache = false});
  Request request;
  request.prompt_token_ids.assign(60, 3);
  auto added = std::make_unique<Sequence>(std::move(request), std::make_shared<RecordingSink>(),
                                          tokenizer_, 68, 1, clock_);
  added->prompt_lookup = std::make_unique<PromptLookup>();
  scheduler.Add(std::move(added));
  bool ended = false;
  int64_t most = 0;
  int num_steps = 0;
  for (; !ended && num_steps < 100; ++num_steps) {
    const Batch batch = scheduler.Schedule(clock_);
    ASSERT_EQ(batch.entries.size(), 1u);
    const BatchEntry& entry = batch.entries[0];
    Sequence& sequence = scheduler.running(0);
    const auto num_tokens = static_cast<int64_t>(entry.tokens.size());
    most = std::max(most, num_tokens);
    EXPECT_LE(entry.num_cached + num_tokens,
              static_cast<int64_t>(entry.page_table.size()) * kernels::kPageSize);
    EXPECT_LE(sequence.num_generated() + entry.num_logit_rows, 68);
    for (int i = 0; i < entry.num_logit_rows && !ended; ++i)
      ended = sequence.AcceptToken(3, clock_);
    scheduler.Complete(batch);
    ASSERT_TRUE(scheduler.Consistent());
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(scheduler.running(0).num_generated(), 68);
  EXPECT_EQ(most, 60);  // the prompt
  EXPECT_LT(num_steps, 12);
}

/// One after the other: the second begins behind the first one's full pages, prompt and completion.
TEST_F(SchedulerTest, ASequenceBeginsBehindThePagesThatAreKnown) {
  PagePool pool(8);
  Scheduler scheduler(&pool, {.max_step_tokens = 512, .max_running = 8});
  Add(scheduler, "first", 130, 70);
  while (!scheduler.idle()) Step(scheduler, scheduler.Schedule(clock_));
  EXPECT_EQ(scheduler.num_pages_cached(), 3);  // of 199 tokens that were computed
  EXPECT_EQ(scheduler.num_pages_available(), 8);
  EXPECT_EQ(scheduler.TakePrefixCounts().num_found, 0);

  Add(scheduler, "second", 129, 5);
  const Batch batch = scheduler.Schedule(clock_);
  ASSERT_EQ(batch.entries.size(), 1u);
  EXPECT_EQ(batch.entries[0].num_cached, 128);
  EXPECT_EQ(batch.entries[0].tokens.size(), 1u);
  EXPECT_EQ(scheduler.num_pages_cached(), 1);
  const PrefixCounts counts = scheduler.TakePrefixCounts();
  EXPECT_EQ(counts.num_tokens, 129);
  EXPECT_EQ(counts.num_found, 128);
  Step(scheduler, batch);
  EXPECT_EQ(scheduler.running(0).group->num_cached_tokens, 128);
  EXPECT_TRUE(scheduler.Consistent());
}

/// What decides about K and V beside the tokens keeps pages apart, and who wants none gets none.
TEST_F(SchedulerTest, PagesAreSharedOnlyWhereTheirContentIsTheSame) {
  PagePool pool(100);
  Scheduler scheduler(&pool, {.max_step_tokens = 4096, .max_running = 8, .default_blocks = 16});
  const auto found = [&](const std::function<void(Request&)>& change) {
    Request request;
    request.id = std::to_string(pool.num_active());
    request.prompt_token_ids.assign(200, 1);
    change(request);
    scheduler.Add(std::make_unique<Sequence>(std::move(request), std::make_shared<RecordingSink>(),
                                             tokenizer_, 1, 1, clock_));
    const Batch batch = scheduler.Schedule(clock_);
    const int64_t num_cached = batch.entries.at(0).num_cached;
    Step(scheduler, batch);
    EXPECT_TRUE(scheduler.idle());
    EXPECT_TRUE(scheduler.Consistent());
    return num_cached;
  };
  const auto as_it_is = [](Request&) {};
  const auto salted = [](Request& r) { r.cache_salt = "a"; };
  const auto bypassing = [](Request& r) { r.bypass_prefix_cache = true; };
  const auto fewer = [](Request& r) { r.attention.num_selected_blocks = 8; };
  const auto same = [](Request& r) { r.attention.num_selected_blocks = 16; };
  const auto full = [](Request& r) { r.attention.mode = AttentionMode::kFull; };
  EXPECT_EQ(found(bypassing), 0);
  EXPECT_EQ(found(as_it_is), 0);  // the one before left nothing
  EXPECT_EQ(found(as_it_is), 192);
  EXPECT_EQ(found(bypassing), 0);
  for (const auto& other : std::vector<std::function<void(Request&)>>{salted, fewer, full}) {
    EXPECT_EQ(found(other), 0);
    EXPECT_EQ(found(other), 192);
  }
  EXPECT_EQ(found(same), 192);
  EXPECT_EQ(scheduler.FlushCache(), 12);
  EXPECT_EQ(found(as_it_is), 0);
}

/// Two that compute the same at the same time end up with one copy.
TEST_F(SchedulerTest, EqualPagesBecomeOne) {
  PagePool pool(20);
  Scheduler scheduler(&pool, {.max_step_tokens = 512, .max_running = 8});
  Add(scheduler, "a", 200, 3);
  Add(scheduler, "b", 200, 3);
  Step(scheduler, scheduler.Schedule(clock_));
  EXPECT_EQ(scheduler.running(0).pages[2], scheduler.running(1).pages[2]);
  EXPECT_NE(scheduler.running(0).pages[3], scheduler.running(1).pages[3]);
  EXPECT_EQ(pool.num_active(), 5);
  EXPECT_TRUE(scheduler.Consistent());
}

/// Of two tenants each gets half of the prompt tokens, however many requests one of them has.
TEST_F(SchedulerTest, AFloodOfOneTenantDoesNotStopAnother) {
  PagePool pool(1000);
  Scheduler scheduler(&pool, {.max_step_tokens = 64, .max_running = 50, .prefix_cache = false});
  const auto add = [&](const std::string& id, const std::string& tenant) {
    Request request;
    request.id = id;
    request.tenant = tenant;
    request.prompt_token_ids.assign(1000, 1);
    clock_ += absl::Milliseconds(1);
    scheduler.Add(std::make_unique<Sequence>(std::move(request), std::make_shared<RecordingSink>(),
                                             tokenizer_, 1, 1, clock_));
  };
  for (int i = 0; i < 20; ++i) add("flood " + std::to_string(i), "flood");
  for (int i = 0; i < 10; ++i) Step(scheduler, scheduler.Schedule(clock_));
  add("calm", "calm");
  int num_steps = 0;
  for (bool done = false; !done; ++num_steps) {
    ASSERT_LT(num_steps, 100);
    const Batch batch = scheduler.Schedule(clock_);
    for (const BatchEntry& entry : batch.entries) {
      done = done ||
             (scheduler.running(entry.sequence_index).id() == "calm" && entry.num_logit_rows > 0);
    }
    Step(scheduler, batch);
  }
  EXPECT_NEAR(num_steps, 31, 3);  // twice 1,000 tokens in steps of 64
}

/// Urgent requests without end: one that is not urgent still gets its turn.
TEST_F(SchedulerTest, WaitingRaisesThePriority) {
  PagePool pool(2);
  Scheduler scheduler(&pool, {.max_step_tokens = 64,
                              .max_running = 1,
                              .prefix_cache = false,
                              .priority_ageing = absl::Seconds(10)});
  const auto patient = Add(scheduler, "patient", 10, 1, /*priority=*/3);
  int num_steps = 0;
  for (; patient->num_done == 0; ++num_steps) {
    ASSERT_LT(num_steps, 100);
    Add(scheduler, "urgent " + std::to_string(num_steps), 10, 1, /*priority=*/0);
    clock_ += absl::Seconds(1);
    Step(scheduler, scheduler.Schedule(clock_));
  }
  EXPECT_NEAR(num_steps, 30, 2);
}

/// Prompts are cut to what a step beside streams may take, streams go on in every step.
TEST_F(SchedulerTest, ChunksBesideStreamsKeepToTheTarget) {
  PagePool pool(200);
  Scheduler scheduler(&pool, {.max_step_tokens = 512,
                              .max_running = 8,
                              .prefix_cache = false,
                              .target_inter_token = absl::Milliseconds(50)});
  const auto play = [&] {
    const Batch batch = scheduler.Schedule(clock_);
    int64_t num_decode = 0;
    for (const BatchEntry& entry : batch.entries) num_decode += entry.tokens.size() == 1 ? 1 : 0;
    const int64_t num_prompt = batch.num_rows - num_decode;
    const absl::Duration duration = absl::Milliseconds(10) + num_prompt * absl::Microseconds(400);
    Step(scheduler, batch);
    scheduler.ObserveStep(num_decode, num_prompt, duration);
    return num_prompt;
  };
  Add(scheduler, "stream", 3, 500);
  for (int i = 0; i < 5; ++i) play();
  Add(scheduler, "long", 9000, 5);
  for (int i = 0; i < 10; ++i) play();
  for (int i = 0; i < 20; ++i) EXPECT_NEAR(static_cast<double>(play()), 100, 5);
}

/// At a thousand tokens a second: what is left to read decides, not what is known already.
TEST_F(SchedulerTest, ADeadlineThatCannotBeMetIsSeenEarly) {
  PagePool pool(100);
  Scheduler scheduler(&pool, {.max_step_tokens = 512, .max_running = 1});
  const auto make = [&](int64_t prompt, absl::Duration deadline) {
    Request request;
    request.prompt_token_ids.assign(static_cast<size_t>(prompt), 1);
    request.deadline = clock_ + deadline;
    return Sequence(std::move(request), std::make_shared<RecordingSink>(), tokenizer_, 1, 1,
                    clock_);
  };
  EXPECT_FALSE(scheduler.IsHopeless(make(4000, absl::Milliseconds(1)), clock_));  // nothing known
  scheduler.Schedule(clock_);
  scheduler.ObserveStep(0, 512, absl::Milliseconds(512));
  EXPECT_TRUE(scheduler.IsHopeless(make(4000, absl::Seconds(2)), clock_));
  EXPECT_FALSE(scheduler.IsHopeless(make(4000, absl::Seconds(3)), clock_));  // perhaps
  EXPECT_FALSE(scheduler.IsHopeless(make(4000, absl::InfiniteDuration()), clock_));
  const absl::Time later = clock_ + absl::Minutes(1);
  EXPECT_FALSE(scheduler.IsHopeless(make(4000, absl::Seconds(62)), later)) << "out of date";
  Add(scheduler, "first", 3000, 1);
  while (!scheduler.idle()) Step(scheduler, scheduler.Schedule(clock_));
  EXPECT_FALSE(scheduler.IsHopeless(make(4000, absl::Seconds(2)), clock_));
}

}  // namespace
}  // namespace nsa::engine
