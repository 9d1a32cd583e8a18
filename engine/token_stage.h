#ifndef NSA_ENGINE_TOKEN_STAGE_H_
#define NSA_ENGINE_TOKEN_STAGE_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/batch.h"
#include "engine/grammar/mask_worker.h"
#include "engine/loaded_model.h"
#include "engine/metrics.h"
#include "engine/request.h"
#include "engine/sequence.h"

namespace nsa::engine {

/// What becomes of a step's logits: a token of each sequence, told to its sink, and the ends that
/// follow. Engine thread; `model` and `observer` outlive it.
class TokenStage {
 public:
  struct Ended {
    const Sequence* sequence;
    absl::Status status;
    FinishReason reason;
  };

  TokenStage(const LoadedModel* model, MetricsObserver* observer)
      : model_(model), observer_(observer) {}

  /// A step begins that will give `sequence` a token: what its grammar lets come next is found
  /// meanwhile, on a thread of its own.
  void Prepare(Sequence& sequence);
  /// It has left that step.
  void Forget(Sequence& sequence);

  /// Row `row` of `entry`, whose sequence this is; rows come in order. `logits`
  /// [vocabulary_size] are in the backend's memory and overwritten.
  void Take(Sequence& sequence, const BatchEntry& entry, int64_t row, float* logits);

  /// Those that have ended since the last call.
  std::vector<Ended> TakeEnded() { return std::exchange(ended_, {}); }

 private:
  /// Whether row > 0 of a verified draft says something: the tokens up to it were right.
  bool DraftHolds(const Sequence& sequence, const BatchEntry& entry, int64_t row) const;
  void Deliver(Sequence& sequence, float* logits, absl::Time now);
  void TakePromptRow(Sequence& sequence, int64_t position, const float* logits);
  /// Copies logits to where the host reads them.
  const std::vector<float>& OnHost(const float* logits);
  /// The token, or why there is none.
  absl::StatusOr<int32_t> Choose(Sequence& sequence, float* logits);
  void CountToken(const Sequence& sequence, absl::Time now);
  absl::Status WhyNoToken(const Sequence& sequence, const float* logits);

  const LoadedModel* model_;
  MetricsObserver* observer_;
  std::vector<Ended> ended_;
  MaskWorker masks_;
  std::vector<float> host_logits_;  // [vocabulary_size]
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKEN_STAGE_H_
