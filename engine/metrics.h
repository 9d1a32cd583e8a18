#ifndef NSA_ENGINE_METRICS_H_
#define NSA_ENGINE_METRICS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/attention/attention_times.h"
#include "engine/attention/page_ages.h"
#include "engine/request.h"

namespace nsa::engine {

/// Sequences that lost their pages, and computed tokens that they gave back, to be computed again.
struct Preemptions {
  int64_t num_sequences = 0;
  int64_t num_recomputed_tokens = 0;
};

/// Speculation: drafts that were verified, their tokens, and those of them that were right.
struct DraftCounts {
  int64_t num_drafts = 0;
  int64_t num_tokens = 0;
  int64_t num_accepted = 0;
};

/// Prompts looked up in the prefix cache: their tokens, and those that were found.
struct PrefixCounts {
  int64_t num_tokens = 0;
  int64_t num_found = 0;
};

/// Pages and slots (pages' K and V in one layer) that moved between memory and the tier below, and
/// moves that failed.
struct SpillCounts {
  int64_t num_pages_out = 0;
  int64_t num_pages_in = 0;
  int64_t num_slots_in = 0;
  int64_t num_failed_writes = 0;
  int64_t num_failed_reads = 0;
};

/// Slots that attention selected and did not find in memory, and the rows that left a step for them
/// and went on in a later one.
struct MissCounts {
  int64_t num_slots = 0;
  int64_t num_rows = 0;
};

/// What one step did, with the state after it.
struct StepStats {
  int64_t num_prefill_tokens = 0;
  int64_t num_decode_tokens = 0;
  int32_t num_rows_in_batch = 0;  // sequences in the step
  absl::Duration duration;
  int32_t num_running = 0;
  int32_t num_waiting = 0;
  int64_t num_pages_total = 0;
  int64_t num_pages_active = 0;
  int64_t num_pages_cached = 0;
  int64_t num_pages_spilled = 0;  // in the tier below, not in memory
  // Tokens that attention read, summed over rows (per layer and KV head on average), by branch, and
  // what full attention would have read.
  int64_t attention_tokens_cmp = 0;
  int64_t attention_tokens_slc = 0;
  int64_t attention_tokens_win = 0;
  int64_t attention_tokens_full = 0;
  PageAges selected_pages{};  // by age
  AttentionTimes attention_times;
  DraftCounts drafts;
  PrefixCounts prefixes;
  SpillCounts spills;
  MissCounts misses;
  int64_t num_slots_resident = 0;  // in memory, of pages in the tier below
  int64_t spill_slot_bytes = 0;    // that a slot takes on its way
  int64_t spill_page_bytes = 0;    // that a page takes on its way
};

/// How a choice ended, in a word of metrics: "stop", "length", "abort" (a missed deadline too) or
/// "error".
inline std::string_view FinishedReason(const absl::Status& status, FinishReason reason) {
  if (absl::IsDeadlineExceeded(status) || (status.ok() && reason == FinishReason::kAborted)) {
    return "abort";
  }
  if (!status.ok()) return "error";
  return reason == FinishReason::kLength ? "length" : "stop";
}

/// One request's end.
struct RequestStats {
  std::string_view finished_reason;  // FinishedReason
  Usage usage;
  absl::Duration e2e_latency;
  absl::Duration time_to_first_token;  // zero where no token came
  int64_t max_tokens = 0;
  int64_t num_preemptions = 0;
};

/// Told by the engine what happens. Called by the engine thread (OnRejected: by any thread); must
/// be quick. The default does nothing.
class MetricsObserver {
 public:
  virtual ~MetricsObserver() = default;
  virtual void OnStep(const StepStats&) {}
  /// A request's prompt of `num_prompt_tokens` is through, and its first token there.
  virtual void OnFirstToken(absl::Duration since_arrival, int64_t num_prompt_tokens) {
    (void)since_arrival, (void)num_prompt_tokens;
  }
  virtual void OnInterToken(absl::Duration) {}
  virtual void OnRequestDone(const RequestStats&) {}
  virtual void OnPreemptions(const Preemptions&) {}
  virtual void OnRejected(std::string_view reason) { (void)reason; }
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_METRICS_H_
