// Random arrivals, cancels, deadlines, slow readers and faults over tiny pools and tiers, for
// 200,000 steps, against what must hold: the scheduler's own invariants, one end for each request,
// and the output that each has alone.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler.h"
#include "tests/engine/fake_tier.h"
#include "tests/engine/fakes.h"
#include "tests/engine/paged_model.h"

namespace nsa::engine {
namespace {

struct Shape {
  int32_t num_frames = 6;
  int32_t num_blocks = 0;
  bool has_tier = false;
  bool fails = false;  // moves and allocations
  bool prefix_cache = true;
  int64_t max_step_tokens = 100;
};

/// One life of a scheduler: what is asked of it, and the model that it runs.
class World {
 public:
  World(const Shape& shape, uint32_t seed)
      : shape_(shape),
        random_(seed),
        faults_(
            {.probability = FaultsOf(shape), .preempt_every = shape.fails ? 17 : 0, .seed = seed}),
        pool_(shape.num_frames, shape.num_blocks),
        model_(pool_.num_pages()),
        tier_(&model_.memory),
        scheduler_(&pool_,
                   {.max_step_tokens = shape.max_step_tokens,
                    .max_running = 5,
                    .prefix_cache = shape.prefix_cache,
                    .faults = &faults_},
                   shape.has_tier ? &tier_ : nullptr) {}

  /// With arrivals and cancels, or only to the end of what is there.
  void Step(bool arrivals) {
    now_ += absl::Milliseconds(50);
    if (arrivals) Arrive();
    if (arrivals) Leave();
    EndMoves(arrivals);
    RunBatch(scheduler_.Schedule(now_));
    for (const int32_t page : pool_.TakeVacated()) {
      // The system takes the memory back.
      if (!pool_.has_frame(page)) model_.memory[static_cast<size_t>(page)].fill(0xDEAD);
    }
    const absl::Status status = scheduler_.Check();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_LE(pool_.num_active(), shape_.num_frames);
  }

  void Finish() {
    for (auto& [id, asked] : asked_) asked.sink->ready = true;
    for (int step = 0; step < 20'000 && (!scheduler_.idle() || scheduler_.moving()); ++step) {
      ASSERT_NO_FATAL_FAILURE(Step(false));
    }
    ASSERT_TRUE(scheduler_.idle()) << "somebody never gets on";
    EXPECT_EQ(scheduler_.num_pages_available() + shape_.num_frames - pool_.num_free() -
                  scheduler_.num_pages_cached(),
              shape_.num_frames);
    scheduler_.FlushCache();
    EXPECT_EQ(pool_.num_used(), 0);
    EXPECT_EQ(tier_.num_blocks_written(), 0u) << "a block was not erased";
    for (const auto& [id, asked] : asked_) {
      ASSERT_EQ(asked.sink->num_done, 1) << id;
      CheckOutput(id, asked);
    }
  }

  int64_t num_whole() const { return num_whole_; }
  Scheduler& scheduler() { return scheduler_; }

 private:
  struct Asked {
    std::vector<int32_t> prompt;
    int64_t max_tokens = 0;
    std::shared_ptr<RecordingSink> sink;
  };

  static std::array<double, kNumFaults> FaultsOf(const Shape& shape) {
    std::array<double, kNumFaults> faults{};
    if (shape.fails) faults[static_cast<size_t>(Fault::kAllocation)] = 0.1;
    return faults;
  }

  uint32_t Draw(uint32_t below) { return static_cast<uint32_t>(random_() % below); }

  /// Prompts share beginnings, and are up to the whole pool.
  void Arrive() {
    if (Draw(4) != 0 || scheduler_.num_waiting() > 12) return;
    const int64_t most = int64_t{shape_.num_frames} * kernels::kPageSize;
    Request request;
    request.id = std::to_string(asked_.size());
    const int64_t num_prompt = 1 + Draw(static_cast<uint32_t>(Draw(4) == 0 ? most - 1 : most / 3));
    for (int64_t i = 0; i < num_prompt; ++i) {
      request.prompt_token_ids.push_back(static_cast<int32_t>(1 + i / 50 % 3));
    }
    if (Draw(2) == 0) request.prompt_token_ids[static_cast<size_t>(num_prompt) / 2] = 6;
    request.priority = static_cast<int32_t>(Draw(3));
    request.tenant = Draw(2) == 0 ? "a" : "b";
    request.cache_salt = Draw(8) == 0 ? "salt" : "";
    request.bypass_prefix_cache = Draw(8) == 0;
    if (Draw(10) == 0) request.deadline = now_ + absl::Milliseconds(50.0 * Draw(100));
    Asked asked{
        .prompt = request.prompt_token_ids,
        .max_tokens = 1 + Draw(static_cast<uint32_t>(std::min<int64_t>(most - num_prompt, 200))),
        .sink = std::make_shared<RecordingSink>()};
    auto sequence =
        std::make_unique<Sequence>(request, asked.sink, tokenizer_, asked.max_tokens, 1, now_);
    if (Draw(3) == 0) sequence->prompt_lookup = std::make_unique<PromptLookup>();
    asked_[request.id] = std::move(asked);
    scheduler_.Add(std::move(sequence));
  }

  /// Cancels, deadlines, readers that come and go, flushes.
  void Leave() {
    if (Draw(12) == 0 && !asked_.empty()) {
      const uint32_t back = Draw(static_cast<uint32_t>(std::min<size_t>(asked_.size(), 20)));
      End(scheduler_.Remove(std::to_string(asked_.size() - 1 - back)), FinishReason::kAborted);
    }
    const auto expired = [&](const Sequence& s) { return s.request.deadline <= now_; };
    End(scheduler_.RemoveIf(expired), FinishReason::kAborted);
    if (Draw(20) == 0 && !asked_.empty()) {
      auto& sink = asked_.rbegin()->second.sink;
      sink->ready = !sink->ready;
    }
    if (Draw(30) == 0) {
      for (auto& [id, asked] : asked_) asked.sink->ready = true;
    }
    if (Draw(200) == 0) scheduler_.FlushCache();
  }

  void EndMoves(bool may_fail) {
    for (size_t i = 0; i < tier_.moves.size();) {
      if (Draw(3) != 0) {
        ++i;
        continue;
      }
      const bool fails = may_fail && shape_.fails && Draw(10) == 0;
      tier_.End(i, fails ? absl::UnavailableError("as drawn") : absl::OkStatus());
    }
  }

  void End(const std::vector<std::unique_ptr<Sequence>>& sequences, FinishReason reason) {
    for (const auto& sequence : sequences) sequence->Finish(absl::OkStatus(), reason, now_);
  }

  void RunBatch(const Batch& batch) {
    ASSERT_LE(batch.num_rows, shape_.max_step_tokens);
    std::vector<std::string> ended;
    for (const BatchEntry& entry : batch.entries) {
      Sequence& sequence = scheduler_.running(entry.sequence_index);
      for (const int32_t page : entry.page_table) {
        ASSERT_TRUE(pool_.has_frame(page)) << "page " << page << " is not in memory";
      }
      if (RunEntry(sequence, entry)) ended.push_back(sequence.id());
    }
    scheduler_.Complete(batch);
    for (const std::string& id : ended) End(scheduler_.Remove(id), FinishReason::kLength);
  }

  /// All rows first, as a step does, then the tokens while drafts hold.
  bool RunEntry(Sequence& sequence, const BatchEntry& entry) {
    const std::vector<int32_t> tokens(entry.tokens.begin(), entry.tokens.end());
    std::vector<int32_t> next;
    for (size_t row = 0; row < tokens.size(); ++row) {
      next.push_back(
          model_.Run(entry.page_table, entry.num_cached + static_cast<int64_t>(row), tokens[row]));
    }
    const size_t first = tokens.size() - static_cast<size_t>(entry.num_logit_rows);
    for (size_t row = first; row < tokens.size(); ++row) {
      if (row > first && sequence.tokens.back() != tokens[row]) return false;
      if (sequence.AcceptToken(next[row], now_)) return true;
    }
    return false;
  }

  void CheckOutput(const std::string& id, const Asked& asked) {
    const std::vector<int32_t>& tokens = asked.sink->tokens;
    const auto num_tokens = static_cast<int64_t>(tokens.size());
    ASSERT_EQ(tokens, PagedModel::Alone(asked.prompt, num_tokens)) << id;
    if (asked.sink->finish.reason == FinishReason::kAborted) return;
    ASSERT_EQ(num_tokens, asked.max_tokens) << id;
    ++num_whole_;
  }

  const Shape shape_;
  std::mt19937 random_;
  FaultInjector faults_;
  PagePool pool_;
  PagedModel model_;
  FakeTier tier_;
  Scheduler scheduler_;
  LetterTokenizer tokenizer_;
  std::map<std::string, Asked> asked_;
  absl::Time now_ = absl::UnixEpoch();
  int64_t num_whole_ = 0;
};

/// 40 lives of 5,000 steps.
TEST(SchedulerCheckTest, TwoHundredThousandRandomSteps) {
  constexpr int kLives = 40, kSteps = 5'000;
  SpillCounts spills;
  Preemptions preemptions;
  int64_t num_whole = 0;
  for (uint32_t seed = 1; seed <= kLives; ++seed) {
    std::mt19937 random(seed);
    const Shape shape{.num_frames = static_cast<int32_t>(2 + random() % 8),
                      .num_blocks = seed % 4 == 0 ? 0 : static_cast<int32_t>(1 + random() % 12),
                      .has_tier = seed % 4 != 0,
                      .fails = seed % 2 == 0 || seed % 5 == 0,
                      .prefix_cache = seed % 3 != 0,
                      .max_step_tokens = static_cast<int64_t>(1 + random() % 150)};
    SCOPED_TRACE(seed);
    World world(shape, seed);
    for (int step = 0; step < kSteps; ++step) {
      world.Step(true);
      ASSERT_FALSE(testing::Test::HasFatalFailure()) << "step " << step;
    }
    ASSERT_NO_FATAL_FAILURE(world.Finish());
    const SpillCounts counts = world.scheduler().TakeSpillCounts();
    spills.num_pages_out += counts.num_pages_out;
    spills.num_pages_in += counts.num_pages_in;
    spills.num_failed_writes += counts.num_failed_writes;
    spills.num_failed_reads += counts.num_failed_reads;
    preemptions.num_sequences += world.scheduler().TakePreemptions().num_sequences;
    num_whole += world.num_whole();
  }
  // All of it did happen.
  EXPECT_GT(spills.num_pages_out, 1000);
  EXPECT_GT(spills.num_pages_in, 1000);
  EXPECT_GT(spills.num_failed_writes, 100);
  EXPECT_GT(spills.num_failed_reads, 100);
  EXPECT_GT(preemptions.num_sequences, 1000);
  EXPECT_GT(num_whole, 1000);
  std::printf("%d requests whole, %d preemptions, pages out %d, in %d, failed %d and %d\n",
              static_cast<int>(num_whole), static_cast<int>(preemptions.num_sequences),
              static_cast<int>(spills.num_pages_out), static_cast<int>(spills.num_pages_in),
              static_cast<int>(spills.num_failed_writes),
              static_cast<int>(spills.num_failed_reads));
}

}  // namespace
}  // namespace nsa::engine
