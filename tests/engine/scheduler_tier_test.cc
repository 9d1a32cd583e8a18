// Which pages move to the tier below and back, move by move.

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "tests/engine/fake_tier.h"
#include "tests/engine/fakes.h"
#include "tests/engine/paged_model.h"

namespace nsa::engine {
namespace {

class SchedulerTierTest : public testing::Test {
 protected:
  SchedulerTierTest() : SchedulerTierTest(6, 8) {}
  SchedulerTierTest(int32_t num_frames, int32_t num_blocks)
      : pool_(num_frames, num_blocks),
        model_(pool_.num_pages()),
        tier_(&model_.memory),
        scheduler_(&pool_, {.max_step_tokens = 512, .max_running = 8, .prefix_cache = true},
                   &tier_) {}

  /// Texts of different `letter` share nothing.
  std::shared_ptr<RecordingSink> Add(const std::string& id, int32_t letter, int64_t prompt,
                                     int64_t max_tokens) {
    Request request;
    request.id = id;
    request.prompt_token_ids.assign(static_cast<size_t>(prompt), letter);
    prompts_[id] = request.prompt_token_ids;
    auto sink = std::make_shared<RecordingSink>();
    now_ += absl::Milliseconds(1);
    scheduler_.Add(
        std::make_unique<Sequence>(std::move(request), sink, tokenizer_, max_tokens, 1, now_));
    return sink;
  }

  Batch Step() {
    now_ += absl::Milliseconds(1);
    Batch batch = scheduler_.Schedule(now_);
    for (const Slot slot : pool_.TakeVacated()) {
      model_.memory[static_cast<size_t>(slot.page)].fill(0xDEAD);
    }
    std::vector<std::string> ended;
    for (const BatchEntry& entry : batch.entries) {
      Sequence& sequence = scheduler_.running(entry.sequence_index);
      int32_t next = 0;
      for (size_t i = 0; i < entry.tokens.size(); ++i) {
        next = model_.Run(entry.page_table, entry.num_cached + static_cast<int64_t>(i),
                          entry.tokens[i]);
      }
      if (entry.num_logit_rows > 0 && sequence.AcceptToken(next, now_)) {
        ended.push_back(sequence.id());
      }
    }
    scheduler_.Complete(batch);
    for (const std::string& id : ended) {
      scheduler_.Remove(id).at(0)->Finish(absl::OkStatus(), FinishReason::kLength, now_);
    }
    const absl::Status status = scheduler_.Check();
    EXPECT_TRUE(status.ok()) << status;
    return batch;
  }

  /// Steps while moves end at once; false where nothing comes to an end.
  bool RunToTheEnd() {
    for (int step = 0; step < 5000 && !(scheduler_.idle() && !scheduler_.moving()); ++step) {
      tier_.EndAll();
      Step();
    }
    return scheduler_.idle();
  }

  /// Two that fill the pool, until the second has to give way.
  void FillAndPreempt(int64_t max_tokens = 150) {
    first_ = Add("first", 1, 180, max_tokens);  // 3 pages, then 6
    second_ = Add("second", 2, 180, 150);       // 3 pages, then 6
    for (int step = 0; step < 100 && tier_.moves.empty(); ++step) Step();
    ASSERT_FALSE(tier_.moves.empty());
    ASSERT_EQ(scheduler_.num_running(), 1);
    ASSERT_EQ(scheduler_.num_waiting(), 1);
  }

  void ExpectAlone(const std::string& id, const RecordingSink& sink) {
    EXPECT_EQ(sink.tokens,
              PagedModel::Alone(prompts_[id], static_cast<int64_t>(sink.tokens.size())))
        << id;
  }

  PagePool pool_;
  PagedModel model_;
  FakeTier tier_;
  Scheduler scheduler_;
  LetterTokenizer tokenizer_;
  std::map<std::string, std::vector<int32_t>> prompts_;
  std::shared_ptr<RecordingSink> first_, second_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(SchedulerTierTest, WhoIsPreemptedGivesOnlyWhatOthersNeed) {
  FillAndPreempt();
  EXPECT_EQ(tier_.moves.size(), 1u) << "one page is missing";
  EXPECT_TRUE(tier_.moves[0].out);
  // The first waits for the frame and nobody else is sent away.
  const size_t num_tokens = first_->tokens.size();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Step().entries.empty());
  EXPECT_EQ(tier_.moves.size(), 1u);
  tier_.EndAll();
  EXPECT_EQ(Step().entries.size(), 1u);
  EXPECT_EQ(first_->tokens.size(), num_tokens + 1);
  EXPECT_EQ(scheduler_.num_pages_spilled(), 1);
  ASSERT_TRUE(RunToTheEnd());
  ExpectAlone("first", *first_);
  ExpectAlone("second", *second_);
  EXPECT_EQ(first_->tokens.size() + second_->tokens.size(), 300u);
  const Preemptions preemptions = scheduler_.TakePreemptions();
  EXPECT_EQ(preemptions.num_sequences, 1);
  EXPECT_EQ(preemptions.num_recomputed_tokens, 0);
}

TEST_F(SchedulerTierTest, AFailedWriteCostsTheWorkOfOne) {
  FillAndPreempt();
  tier_.EndAll(absl::UnavailableError("full"));
  Step();
  EXPECT_TRUE(tier_.moves.empty()) << "a tier that failed is not asked again at once";
  EXPECT_GT(scheduler_.TakePreemptions().num_recomputed_tokens, 180);
  ASSERT_TRUE(RunToTheEnd());
  ExpectAlone("first", *first_);
  ExpectAlone("second", *second_);
  EXPECT_EQ(scheduler_.TakeSpillCounts().num_failed_writes, 1);
}

TEST_F(SchedulerTierTest, ALostPageCostsTheWorkOfOne) {
  FillAndPreempt();
  for (int step = 0; step < 1000; ++step) {
    const bool back = !tier_.moves.empty() && !tier_.moves[0].out;
    if (back) break;
    tier_.EndAll();
    Step();
  }
  ASSERT_FALSE(tier_.moves.empty());
  EXPECT_TRUE(scheduler_.running(0).suspended);
  tier_.EndAll(absl::UnavailableError("gone"));
  Step();
  EXPECT_GT(scheduler_.TakePreemptions().num_recomputed_tokens, 0);
  ASSERT_TRUE(RunToTheEnd());
  ExpectAlone("second", *second_);
  EXPECT_EQ(second_->tokens.size(), 150u);
}

TEST_F(SchedulerTierTest, CancelInMidMoveKeepsThePageUntilTheMoveEnds) {
  FillAndPreempt();
  const int32_t page = tier_.moves[0].page;
  EXPECT_EQ(scheduler_.Remove("second").size(), 1U);
  EXPECT_EQ(scheduler_.FlushCache(), 2) << "all of the second but the page that moves";
  EXPECT_EQ(pool_.num_users(page), 1) << "the move's";
  Step();
  EXPECT_EQ(pool_.num_users(page), 1);
  tier_.EndAll();
  Step();
  EXPECT_EQ(pool_.num_users(page), 0);
  EXPECT_EQ(pool_.num_free_blocks(), 8);
  EXPECT_EQ(tier_.num_blocks_written(), 0u);
  ASSERT_TRUE(RunToTheEnd());
}

TEST_F(SchedulerTierTest, FlushInMidMoveErasesWhatTheMoveWrites) {
  // Idle pages of the first on their way out, for the second.
  Add("idle", 3, 300, 1);
  while (!scheduler_.idle()) Step();
  Add("next", 4, 200, 1);
  for (int step = 0; step < 50 && tier_.moves.empty(); ++step) Step();
  ASSERT_FALSE(tier_.moves.empty());
  EXPECT_GT(scheduler_.FlushCache(), 0);
  tier_.EndAll();
  EXPECT_GT(tier_.num_blocks_written(), 0u);
  Step();
  EXPECT_EQ(tier_.num_blocks_written(), 0u) << "what was flushed is still to be read";
  EXPECT_EQ(scheduler_.num_pages_spilled(), 0);
  ASSERT_TRUE(RunToTheEnd());
}

/// A tier that hangs is as good as none, and keeps the frame of the page that it hangs on.
TEST_F(SchedulerTierTest, AHungTierIsNotWaitedFor) {
  FillAndPreempt(130);  // 5 pages
  now_ += absl::Seconds(6);
  for (int step = 0; step < 2000 && first_->num_done == 0; ++step) Step();
  EXPECT_EQ(first_->num_done, 1);
  ExpectAlone("first", *first_);
  tier_.EndAll();
  ASSERT_TRUE(RunToTheEnd());
  ExpectAlone("second", *second_);
}

/// Idle pages wait in the tier and not for ever: the oldest make room for others.
TEST_F(SchedulerTierTest, IdlePagesComeBackAndTheOldestGo) {
  const auto ask = [&](int32_t letter) {
    const auto sink = Add("ask", letter, 4 * 64 + 1, 1);
    EXPECT_TRUE(RunToTheEnd());
    ExpectAlone("ask", *sink);
    return sink->finish.usage.num_cached_tokens;
  };
  for (int32_t letter = 1; letter <= 3; ++letter) EXPECT_EQ(ask(letter), 0);  // 12 pages
  EXPECT_GE(scheduler_.num_pages_spilled(), 6);
  EXPECT_EQ(ask(1), 4 * 64);
  EXPECT_EQ(ask(3), 4 * 64);
  EXPECT_EQ(ask(4), 0);  // 16 pages are more than 14
  EXPECT_EQ(ask(3), 4 * 64);
  EXPECT_LT(ask(2), 4 * 64);
}

}  // namespace
}  // namespace nsa::engine
