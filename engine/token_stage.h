#ifndef NSA_ENGINE_TOKEN_STAGE_H_
#define NSA_ENGINE_TOKEN_STAGE_H_

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/batch.h"
#include "engine/grammar/mask_worker.h"
#include "engine/loaded_model.h"
#include "engine/metrics.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "kernels/ops/sample.h"

namespace nsa::engine {

/// What becomes of a step's logits: how tokens are drawn from them, who is told of a token, and the
/// ends that follow. Engine thread; `model` and `observer` outlive it.
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

  /// ModelRunner::TokenChooser for `entry`, whose sequence this is; rows come in order, and may all
  /// be asked before the first is taken.
  bool Ask(Sequence& sequence, const BatchEntry& entry, int64_t row, int32_t place,
           const float* logits, kernels::SampleParams& params);
  void Take(Sequence& sequence, const BatchEntry& entry, int64_t row, int32_t token_id);
  /// It leaves the engine.
  void Drop(const Sequence& sequence);
  /// Whether logits were looked at since the last call, for which the backend is waited for.
  bool TakeHasRead() { return std::exchange(has_read_, false); }
  /// A step's tokens have been taken, and no other's are to come.
  void EndStep() { raw_.clear(); }

  /// Those that have ended since the last call.
  std::vector<Ended> TakeEnded() { return std::exchange(ended_, {}); }

 private:
  /// Logits of a row whose log-probabilities are wanted: sampling overwrites them.
  struct RawLogits {
    const Sequence* sequence;
    int64_t row;
    std::vector<float> logits;
  };

  /// Whether row > 0 of a verified draft says something: the tokens up to it were right.
  bool DraftHolds(const Sequence& sequence, const BatchEntry& entry, int64_t row) const;
  bool HasEnded(const Sequence& sequence) const;
  void Deliver(Sequence& sequence, int64_t row, int32_t token_id, absl::Time now);
  void TakePromptRow(Sequence& sequence, int64_t position, const float* logits);
  /// Copies logits to where the host reads them.
  const std::vector<float>& OnHost(const float* logits);
  void CountToken(const Sequence& sequence, absl::Time now);
  static absl::Status WhyNoToken(const Sequence& sequence, bool has_nan);

  const LoadedModel* model_;
  MetricsObserver* observer_;
  std::vector<Ended> ended_;
  MaskWorker masks_;
  std::vector<float> host_logits_;  // [vocabulary_size]
  bool has_read_ = false;
  std::vector<RawLogits> raw_;        // of rows that were asked for and not taken
  std::deque<Sampler::Lists> lists_;  // by place
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKEN_STAGE_H_
