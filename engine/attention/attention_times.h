#ifndef NSA_ENGINE_ATTENTION_ATTENTION_TIMES_H_
#define NSA_ENGINE_ATTENTION_ATTENTION_TIMES_H_

#include "absl/time/time.h"

namespace nsa::engine {

/// Time that attention took, of the thread that waited for it, by branch. Compressing and scoring
/// count as cmp; a selection that reads the window in the same pass as slc; full attention, and
/// windows of the model itself, as win. Nothing where operators run on a device, on which a call
/// only queues them.
struct AttentionTimes {
  absl::Duration cmp;
  absl::Duration slc;
  absl::Duration win;
  absl::Duration merge;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_ATTENTION_ATTENTION_TIMES_H_
