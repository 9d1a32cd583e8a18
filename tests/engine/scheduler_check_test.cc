// Random arrivals, cancels, deadlines, slow readers and faults over tiny pools and tiers, for
// 200,000 steps, against what must hold: the scheduler's own invariants, one end for each request,
// and the output that each has alone.

#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler.h"
#include "tests/engine/fake_tier.h"
#include "tests/engine/paged_model.h"
#include "tests/engine/random_requests.h"

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
        requests_(seed),
        faults_({.probability = FailingAllocations(shape.fails),
                 .preempt_every = shape.fails ? 17 : 0,
                 .seed = seed}),
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
    for (const Slot slot : pool_.TakeVacated()) {
      // The system takes the memory back.
      model_.memory[static_cast<size_t>(slot.page)].fill(0xDEAD);
    }
    const absl::Status status = scheduler_.Check();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_LE(pool_.num_active(), shape_.num_frames);
  }

  void Finish() {
    requests_.WakeReaders();
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
    for (const auto& [id, asked] : requests_.asked()) {
      ASSERT_EQ(asked.sink->num_done, 1) << id;
      CheckOutput(id, asked);
    }
  }

  int64_t num_whole() const { return num_whole_; }
  Scheduler& scheduler() { return scheduler_; }

 private:
  using Asked = RandomRequests::Asked;

  /// Prompts are up to the whole pool.
  void Arrive() {
    if (requests_.Draw(4) != 0 || scheduler_.num_waiting() > 12) return;
    const int64_t most = int64_t{shape_.num_frames} * kernels::kPageSize;
    scheduler_.Add(requests_.Next(most, 200, 100, /*full=*/false, now_));
  }

  /// Cancels, deadlines, readers that come and go, flushes.
  void Leave() {
    if (requests_.Draw(12) == 0 && !requests_.asked().empty()) {
      FinishAll(scheduler_.Remove(requests_.Recent()), FinishReason::kAborted, now_);
    }
    const auto expired = [&](const Sequence& s) { return s.request.deadline <= now_; };
    FinishAll(scheduler_.RemoveIf(expired), FinishReason::kAborted, now_);
    requests_.TurnReaders();
    if (requests_.Draw(200) == 0) scheduler_.FlushCache();
  }

  void EndMoves(bool may_fail) {
    for (size_t i = 0; i < tier_.moves.size();) {
      if (requests_.Draw(3) != 0) {
        ++i;
        continue;
      }
      const bool fails = may_fail && shape_.fails && requests_.Draw(10) == 0;
      tier_.End(i, fails ? absl::UnavailableError("as drawn") : absl::OkStatus());
    }
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
    for (const std::string& id : ended) {
      FinishAll(scheduler_.Remove(id), FinishReason::kLength, now_);
    }
  }

  /// All rows first, as a step does, then the tokens while drafts hold.
  bool RunEntry(Sequence& sequence, const BatchEntry& entry) {
    const std::vector<int32_t> tokens(entry.tokens.begin(), entry.tokens.end());
    std::vector<int32_t> next;
    for (size_t row = 0; row < tokens.size(); ++row) {
      next.push_back(
          model_.Run(entry.page_table, entry.num_cached + static_cast<int64_t>(row), tokens[row]));
    }
    return AcceptRows(sequence, entry, next, now_);
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
  RandomRequests requests_;
  FaultInjector faults_;
  PagePool pool_;
  PagedModel model_;
  FakeTier tier_;
  Scheduler scheduler_;
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
