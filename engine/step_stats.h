#ifndef NSA_ENGINE_STEP_STATS_H_
#define NSA_ENGINE_STEP_STATS_H_

#include "absl/time/time.h"
#include "engine/batch.h"
#include "engine/loaded_model.h"
#include "engine/metrics.h"
#include "engine/page_pool.h"
#include "engine/scheduler.h"

namespace nsa::engine {

/// What a step of `batch` did, with the state after it; takes what runner and scheduler counted
/// since the last call. Engine thread.
StepStats CountStep(const Batch& batch, absl::Duration duration, const LoadedModel& loaded,
                    Scheduler& scheduler, const PagePool& pool);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_STEP_STATS_H_
