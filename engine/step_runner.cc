#include "engine/step_runner.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace nsa::engine {

void StepRunner::FindSequences(Step& step) {
  step.sequences.clear();
  for (const BatchEntry& entry : step.batch.entries) {
    step.sequences.push_back(&scheduler_->running(entry.sequence_index));
  }
}

void StepRunner::Launch(Batch batch, absl::Time began) {
  Step& step = steps_.emplace_back();
  step.batch = std::move(batch);
  step.began = began;
  FindSequences(step);
  step.places.assign(step.sequences.size(), -1);
  for (size_t e = 0; e < step.sequences.size(); ++e) {
    if (step.batch.entries[e].samples) token_stage_.Prepare(*step.sequences[e]);
  }
  // Logits come in entry order; taking tokens changes the sequences' own, which the batch views,
  // only after all entries have been read.
  loaded_->runner->Launch(step.batch, *this);
  // Somebody's logits were looked at: what was launched before is done, and was not collected then.
  const bool has_waited = token_stage_.TakeHasRead();
  if (!has_waited || steps_.size() == 1) return;
  for (Step& other : steps_) other.is_whole = false;
}

bool StepRunner::Ask(size_t entry, int64_t row, int32_t place, const float* logits,
                     kernels::SampleParams& params) {
  Step& step = steps_.back();
  if (!token_stage_.Ask(*step.sequences[entry], step.batch.entries[entry], row, place, logits,
                        params)) {
    return false;
  }
  step.places[entry] = place;
  return true;
}

void StepRunner::Take(size_t entry, int64_t row, int32_t token_id) {
  const Step& step = steps_.front();
  if (step.sequences[entry] == nullptr) return;
  token_stage_.Take(*step.sequences[entry], step.batch.entries[entry], row, token_id);
}

size_t StepRunner::NumThatMayStay() const {
  if (!runs_ahead_ || steps_.empty()) return 0;
  const Step& step = steps_.back();
  for (size_t e = 0; e < step.sequences.size(); ++e) {
    if (!step.batch.entries[e].samples) continue;
    if (step.places[e] < 0 || !step.sequences[e]->can_run_ahead()) return 0;
  }
  // The next step would wait for both before this one's tokens are handed out.
  for (int32_t i = 0; i < scheduler_->num_running(); ++i) {
    if (scheduler_->running(i).reads_logits()) return 0;
  }
  return 1;
}

void StepRunner::GoOn() {
  if (steps_.empty()) return;
  Step& step = steps_.back();
  step.is_ahead = true;
  for (size_t e = 0; e < step.sequences.size(); ++e) {
    if (step.sequences[e] == nullptr) continue;
    Sequence& sequence = *step.sequences[e];
    if (step.batch.entries[e].samples) sequence.AwaitToken(step.places[e]);
    scheduler_->Complete(sequence, step.batch.entries[e]);
  }
  scheduler_->NoteUnderWay(&step.batch, step.began);
}

StepRunner::Step StepRunner::Collect() {
  loaded_->runner->Collect(*this);
  Step step = std::move(steps_.front());
  steps_.pop_front();
  if (!step.is_ahead) {
    token_stage_.EndStep();
    if (step.batch.gate != nullptr) {
      step.is_whole &= scheduler_->TakeOutLeft(step.batch, [this](const BatchEntry& entry) {
        if (entry.samples) token_stage_.Forget(scheduler_->running(entry.sequence_index));
      });
      FindSequences(step);
    }
    for (size_t e = 0; e < step.sequences.size(); ++e) {
      if (step.sequences[e] != nullptr) {
        scheduler_->Complete(*step.sequences[e], step.batch.entries[e]);
      }
    }
  }
  step.ends = token_stage_.TakeEnded();
  step.ended = absl::Now();
  // The one behind it runs from now on.
  if (!steps_.empty()) steps_.front().began = std::max(steps_.front().began, step.ended);
  scheduler_->NoteUnderWay(nullptr, step.ended);
  TellProgress(step);
  return step;
}

void StepRunner::TellProgress(const Step& step) {
  for (size_t e = 0; e < step.sequences.size(); ++e) {
    if (step.sequences[e] == nullptr) continue;
    Sequence& sequence = *step.sequences[e];
    const BatchEntry& entry = step.batch.entries[e];
    sequence.FlushPromptLogprobs();
    const auto num_tokens = static_cast<int64_t>(entry.tokens.size());
    if (!entry.decodes) {
      sequence.sink->OnChunk(
          {sequence.index, entry.num_cached, num_tokens, step.began, step.ended});
    }
    if (entry.samples || sequence.index > 0) continue;
    sequence.sink->OnPrefillProgress(entry.num_cached + num_tokens, sequence.num_tokens());
  }
}

void StepRunner::Forget(const Sequence* sequence) {
  for (Step& step : steps_) std::ranges::replace(step.sequences, sequence, nullptr);
  token_stage_.Drop(*sequence);
}

}  // namespace nsa::engine
