// Sequences that exceed memory, alone and together: random arrivals, cancels, deadlines, slow
// readers, flushes and faults over tiny pools for 200,000 steps, against the scheduler's own
// invariants, one end for each request, and the output that each has alone with all in memory.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/scheduler.h"
#include "tests/engine/fake_tier.h"
#include "tests/engine/random_requests.h"
#include "tests/engine/selecting_model.h"

namespace nsa::engine {
namespace {

struct Shape {
  int32_t num_frames = 6;
  int32_t num_blocks = 20;
  bool fails = false;       // moves and allocations
  bool has_places = false;  // as on a device
  bool prefix_cache = true;
  int64_t max_step_tokens = 100;
  SelectingModel::Shape model;

  Residency residency() const {
    return {.num_layers = model.num_layers,
            .num_kv_heads = 1,
            .kept_pages = model.window_pages,
            .pages_per_block = 1,
            .dense_pages = 0};
  }
  /// Pages of the longest sequence.
  int32_t most_pages() const {
    const auto row = static_cast<int32_t>(residency().RowFrames(model.num_selected));
    return num_frames + num_blocks - row - 1;
  }
};

/// What happened in all lives.
struct Counts {
  SpillCounts spills;
  MissCounts misses;
  int64_t num_preempted = 0;
  int64_t num_whole = 0;
  int64_t num_beyond = 0;    // of these, with more pages than frames
  int64_t num_stranded = 0;  // ended because the tier fails
  int64_t num_together = 0;  // steps of two sequences with pages out
};

class SlotsWorld {
 public:
  SlotsWorld(const Shape& shape, uint32_t seed, Counts* counts)
      : shape_(shape),
        counts_(*counts),
        requests_(seed),
        faults_({.probability = FailingAllocations(shape.fails),
                 .preempt_every = shape.fails ? 29 : 0,
                 .seed = seed}),
        places_(MakePlaces(shape)),
        pool_(shape.num_frames, shape.num_blocks, shape.model.num_layers, places_.get()),
        model_(shape.has_places ? shape.num_frames : pool_.num_pages(), shape.model, places_.get()),
        tier_(&model_.memory, shape.model.num_layers, places_.get()),
        scheduler_(&pool_,
                   {.max_step_tokens = shape.max_step_tokens,
                    .max_running = 4,
                    .prefix_cache = shape.prefix_cache,
                    .default_blocks = shape.model.num_selected,
                    .faults = &faults_,
                    .residency = shape.residency(),
                    .gates_all_steps = !shape.has_places,
                    .on_vacated = [this] { Discard(); }},
                   &tier_) {}

  void Step(bool arrivals) {
    now_ += absl::Milliseconds(50);
    if (arrivals) Arrive();
    Leave(arrivals);
    EndMoves(arrivals);
    Batch batch = scheduler_.Schedule(now_);
    Discard();
    RunBatch(batch);
    const absl::Status status = scheduler_.Check();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_LE(pool_.num_active(), shape_.num_frames);
  }

  void Finish() {
    requests_.WakeReaders();
    for (int step = 0; step < 40'000 && (!scheduler_.idle() || scheduler_.moving()); ++step) {
      ASSERT_NO_FATAL_FAILURE(Step(false));
    }
    ASSERT_TRUE(scheduler_.idle()) << "somebody never gets on";
    EXPECT_EQ(scheduler_.num_pages_available(), shape_.num_frames);
    scheduler_.FlushCache();
    EXPECT_EQ(pool_.num_used(), 0);
    EXPECT_EQ(pool_.slots().num_present(), 0);
    EXPECT_EQ(tier_.num_blocks_written(), 0u) << "a block was not erased";
    for (const auto& [id, asked] : requests_.asked()) {
      ASSERT_EQ(asked.sink->num_done, 1) << id;
      ASSERT_NO_FATAL_FAILURE(CheckOutput(id, asked));
    }
    const SpillCounts spills = scheduler_.TakeSpillCounts();
    counts_.spills.num_pages_out += spills.num_pages_out;
    counts_.spills.num_slots_in += spills.num_slots_in;
    counts_.spills.num_failed_writes += spills.num_failed_writes;
    counts_.spills.num_failed_reads += spills.num_failed_reads;
    const MissCounts misses = scheduler_.TakeMissCounts();
    counts_.misses.num_slots += misses.num_slots;
    counts_.misses.num_rows += misses.num_rows;
    counts_.num_preempted += scheduler_.TakePreemptions().num_sequences;
  }

 private:
  using Asked = RandomRequests::Asked;

  static std::unique_ptr<SlotPlaces> MakePlaces(const Shape& shape) {
    if (!shape.has_places) return nullptr;
    return std::make_unique<SlotPlaces>(shape.num_frames + shape.num_blocks, shape.num_frames,
                                        shape.model.num_layers);
  }

  /// The system takes the memory back. A place is another slot's.
  void Discard() {
    for (const Slot slot : pool_.TakeVacated()) {
      if (shape_.has_places) continue;
      const int32_t index = slot.page * shape_.model.num_layers + slot.layer;
      model_.memory[static_cast<size_t>(index)].fill(0xDEAD);
    }
  }

  /// Some are longer than memory. Full attention needs its place there.
  void Arrive() {
    if (requests_.Draw(6) != 0 || scheduler_.num_waiting() > 6) return;
    const bool full = requests_.Draw(8) == 0;
    const int64_t most =
        int64_t{full ? shape_.num_frames : shape_.most_pages()} * kernels::kPageSize;
    scheduler_.Add(requests_.Next(most, 150, 300, full, now_));
  }

  /// Cancels, deadlines, readers that come and go, flushes; who cannot go on.
  void Leave(bool at_random) {
    if (at_random && requests_.Draw(20) == 0 && !requests_.asked().empty()) {
      FinishAll(scheduler_.Remove(requests_.Recent()), FinishReason::kAborted, now_);
    }
    const auto is_over = [&](const Sequence& s) {
      const absl::Status why = scheduler_.WhyOver(s, now_);
      counts_.num_stranded += absl::IsUnavailable(why) ? 1 : 0;
      return !why.ok();
    };
    FinishAll(scheduler_.RemoveIf(is_over), FinishReason::kAborted, now_);
    if (!at_random) return;
    requests_.TurnReaders();
    if (requests_.Draw(200) == 0) scheduler_.FlushCache();
  }

  void EndMoves(bool may_fail) {
    for (size_t i = 0; i < tier_.moves.size();) {
      if (requests_.Draw(3) == 0) {
        ++i;
        continue;
      }
      const uint32_t one_in = tier_.moves[i].out ? 10 : 300;
      const bool fails = may_fail && shape_.fails && requests_.Draw(one_in) == 0;
      tier_.End(i, fails ? absl::UnavailableError("as drawn") : absl::OkStatus());
    }
  }

  void RunBatch(Batch& batch) {
    ASSERT_LE(batch.num_rows, shape_.max_step_tokens);
    std::vector<std::string> ended;
    int num_out = 0;
    for (const BatchEntry& entry : batch.entries) {
      Sequence& sequence = scheduler_.running(entry.sequence_index);
      const bool out = std::ranges::any_of(entry.page_table,
                                           [this](int32_t page) { return !pool_.has_frame(page); });
      ASSERT_FALSE(out && entry.full_attention);
      const size_t writes = static_cast<size_t>(entry.num_cached / kernels::kPageSize);
      for (size_t i = writes; i < entry.page_table.size(); ++i) {
        ASSERT_TRUE(pool_.has_frame(entry.page_table[i])) << "a row is written to no memory";
      }
      num_out += out ? 1 : 0;
      if (RunEntry(sequence, entry, batch.gate)) ended.push_back(sequence.id());
    }
    counts_.num_together += num_out > 1 ? 1 : 0;
    scheduler_.TakeOutLeft(batch);
    scheduler_.Complete(batch);
    for (const std::string& id : ended) {
      FinishAll(scheduler_.Remove(id), FinishReason::kLength, now_);
    }
  }

  /// All rows first, as a step does, then the tokens while drafts hold.
  bool RunEntry(Sequence& sequence, const BatchEntry& entry, PageGate* gate) {
    const auto next = model_.Run(entry, gate);
    return next.has_value() && AcceptRows(sequence, entry, *next, now_);
  }

  void CheckOutput(const std::string& id, const Asked& asked) {
    const std::vector<int32_t>& tokens = asked.sink->tokens;
    const auto num_tokens = static_cast<int64_t>(tokens.size());
    ASSERT_EQ(tokens, SelectingModel::Alone(asked.prompt, num_tokens, shape_.model, asked.full))
        << id;
    if (asked.sink->finish.reason == FinishReason::kAborted) return;
    ASSERT_EQ(num_tokens, asked.max_tokens) << id;
    ++counts_.num_whole;
    const int64_t pages = PagesFor(std::ssize(asked.prompt) + num_tokens);
    counts_.num_beyond += pages > shape_.num_frames ? 1 : 0;
  }

  const Shape shape_;
  Counts& counts_;
  RandomRequests requests_;
  FaultInjector faults_;
  std::unique_ptr<SlotPlaces> places_;  // may be null
  PagePool pool_;
  SelectingModel model_;
  FakeTier tier_;
  Scheduler scheduler_;
  absl::Time now_ = absl::UnixEpoch();
};

/// 40 lives of 5,000 steps.
TEST(SchedulerSlotsCheckTest, TwoHundredThousandRandomSteps) {
  constexpr int kLives = 40, kSteps = 5'000;
  Counts counts;
  for (uint32_t seed = 1; seed <= kLives; ++seed) {
    std::mt19937 random(seed);
    Shape shape;
    shape.model = {.num_layers = static_cast<int>(1 + random() % 4),
                   .window_pages = static_cast<int64_t>(random() % 3),
                   .num_selected = static_cast<int32_t>(1 + random() % 4)};
    const auto least =
        static_cast<int32_t>(shape.residency().LeastFrames(shape.model.num_selected));
    shape.num_frames = least + static_cast<int32_t>(random() % 12);
    shape.num_blocks = 1 + static_cast<int32_t>(random() % 40);
    shape.fails = seed % 2 == 0;
    shape.has_places = seed % 4 > 1;
    shape.prefix_cache = seed % 3 != 0;
    shape.max_step_tokens = static_cast<int64_t>(1 + random() % 150);
    SCOPED_TRACE(seed);
    SlotsWorld world(shape, seed, &counts);
    for (int step = 0; step < kSteps; ++step) {
      world.Step(true);
      ASSERT_FALSE(testing::Test::HasFatalFailure()) << "step " << step;
    }
    ASSERT_NO_FATAL_FAILURE(world.Finish());
  }
  // All of it did happen.
  EXPECT_GT(counts.spills.num_pages_out, 1000);
  EXPECT_GT(counts.spills.num_slots_in, 1000);
  EXPECT_GT(counts.spills.num_failed_writes, 100);
  EXPECT_GT(counts.spills.num_failed_reads, 30);
  EXPECT_GT(counts.num_preempted, 100);
  EXPECT_GT(counts.num_whole, 500);
  EXPECT_GT(counts.num_beyond, 100);
  EXPECT_GT(counts.num_together, 1000);
  std::printf(
      "%d requests whole, %d of them beyond memory, %d stranded, %d preemptions, %d steps with "
      "two beyond; pages out %d, slots in %d, failed %d and %d; %d slots missed by %d rows\n",
      static_cast<int>(counts.num_whole), static_cast<int>(counts.num_beyond),
      static_cast<int>(counts.num_stranded), static_cast<int>(counts.num_preempted),
      static_cast<int>(counts.num_together), static_cast<int>(counts.spills.num_pages_out),
      static_cast<int>(counts.spills.num_slots_in),
      static_cast<int>(counts.spills.num_failed_writes),
      static_cast<int>(counts.spills.num_failed_reads), static_cast<int>(counts.misses.num_slots),
      static_cast<int>(counts.misses.num_rows));
}

}  // namespace
}  // namespace nsa::engine
