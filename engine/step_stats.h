#ifndef NSA_ENGINE_STEP_STATS_H_
#define NSA_ENGINE_STEP_STATS_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/batch.h"
#include "engine/loaded_model.h"
#include "engine/metrics.h"
#include "engine/page_pool.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"

namespace nsa::engine {

/// What a step of `batch` did, with the state after it; takes what runner and scheduler counted
/// since the last call. Engine thread.
StepStats CountStep(const Batch& batch, absl::Duration duration, const LoadedModel& loaded,
                    Scheduler& scheduler, const PagePool& pool);

/// Of a sequence that has ended (Finish was called), by `now`.
RequestStats CountRequest(const Sequence& sequence, const absl::Status& status, absl::Time now);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_STEP_STATS_H_
