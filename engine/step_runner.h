#ifndef NSA_ENGINE_STEP_RUNNER_H_
#define NSA_ENGINE_STEP_RUNNER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/time/time.h"
#include "engine/batch.h"
#include "engine/loaded_model.h"
#include "engine/metrics.h"
#include "engine/model_runner.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/token_stage.h"

namespace nsa::engine {

/// Runs what a scheduler schedules. Where `runs_ahead`, the backend is asynchronous: a step may be
/// launched while the tokens of the one before are on their way. What the next step needs to know
/// of a sequence is then how long it is, and that is known: it awaits its token, and the device
/// takes that from where the step before leaves it. What ends by a token ends a step late, and its
/// row of the next step is nobody's. Pages that become free meanwhile may be given away at once:
/// who writes them does so behind that step. Engine thread; all that is given outlives it.
class StepRunner final : private ModelRunner::TokenChooser {
 public:
  struct Step {
    Batch batch;                       // whose views are gone but for their sizes
    std::vector<Sequence*> sequences;  // [entries]; null: it has left the engine since
    std::vector<int32_t> places;       // [entries], of the tokens that they get; −1: none
    absl::Time began, ended;           // begun: not before the one in front of it ended
    bool is_ahead = false;             // its sequences have gone on without its tokens
    bool is_whole = true;              // as Scheduler::TakeOutLeft says, and its time is its own
    std::vector<TokenStage::Ended> ends;
  };

  StepRunner(const LoadedModel* loaded, Scheduler* scheduler, MetricsObserver* observer,
             bool runs_ahead)
      : loaded_(loaded),
        scheduler_(scheduler),
        token_stage_(loaded, observer),
        runs_ahead_(runs_ahead) {}

  /// Begins a step, which is in flight until it has been collected. At most one is before it.
  void Launch(Batch batch, absl::Time began);
  size_t num_in_flight() const { return steps_.size(); }
  /// When the oldest of these began; infinite past: there is none.
  absl::Time oldest_began() const {
    return steps_.empty() ? absl::InfinitePast() : steps_.front().began;
  }
  /// Of these, how many may stay so while the next step is scheduled: the latest, where what comes
  /// next does not depend on its tokens.
  size_t NumThatMayStay() const;
  /// Lets the sequences of the step that has stayed go on.
  void GoOn();
  /// Waits for the oldest, tells sinks what has become of it, and lets its sequences go on if they
  /// have not. Those that have ended are the caller's to take out.
  Step Collect();

  /// The sequence leaves the engine.
  void Forget(const Sequence* sequence);

 private:
  bool Ask(size_t entry, int64_t row, int32_t place, const float* logits,
           kernels::SampleParams& params) override;
  void Take(size_t entry, int64_t row, int32_t token_id) override;
  void FindSequences(Step& step);
  static void TellProgress(const Step& step);

  const LoadedModel* loaded_;
  Scheduler* scheduler_;
  TokenStage token_stage_;
  const bool runs_ahead_;
  std::deque<Step> steps_;  // in flight, the oldest first
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_STEP_RUNNER_H_
