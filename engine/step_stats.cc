#include "engine/step_stats.h"

#include <cstdint>

namespace nsa::engine {

StepStats CountStep(const Batch& batch, absl::Duration duration, const LoadedModel& loaded,
                    Scheduler& scheduler, const PagePool& pool) {
  StepStats stats;
  stats.duration = duration;
  stats.num_rows_in_batch = static_cast<int32_t>(batch.entries.size());
  for (const BatchEntry& entry : batch.entries) {
    const auto num_tokens = static_cast<int64_t>(entry.tokens.size());
    (entry.decodes ? stats.num_decode_tokens : stats.num_prefill_tokens) += num_tokens;
    const AttentionPlan& plan =
        entry.full_attention ? loaded.runner->full_plan() : loaded.runner->plan();
    for (int64_t i = 0; i < num_tokens; ++i) {
      const AttentionReads reads = plan.CountReads(entry.num_cached + i, entry.num_selected_blocks);
      stats.attention_tokens_cmp += reads.cmp;
      stats.attention_tokens_slc += reads.slc;
      stats.attention_tokens_win += reads.win;
      stats.attention_tokens_full += entry.num_cached + i + 1;
    }
  }
  stats.selected_pages = loaded.runner->TakePageAges();
  stats.attention_times = loaded.runner->TakeAttentionTimes();
  stats.drafts = scheduler.TakeDraftCounts();
  stats.num_running = scheduler.num_running();
  stats.num_waiting = scheduler.num_waiting();
  stats.num_pages_total = pool.num_frames();
  stats.num_pages_cached = scheduler.num_pages_cached();
  stats.num_pages_active = pool.num_active() - stats.num_pages_cached;
  stats.num_pages_spilled = scheduler.num_pages_spilled();
  stats.spills = scheduler.TakeSpillCounts();
  stats.misses = scheduler.TakeMissCounts();
  stats.num_slots_resident = pool.slots().num_present();
  const KvLayout& layout = loaded.cache->layout();
  stats.spill_slot_bytes = layout.num_kv * layout.SlotBytes();
  stats.spill_page_bytes = layout.SlotsBytes();
  stats.prefixes = scheduler.TakePrefixCounts();
  return stats;
}

RequestStats CountRequest(const Sequence& sequence, const absl::Status& status, absl::Time now) {
  RequestStats stats;
  stats.finished_reason = FinishedReason(status, sequence.finish.reason);
  stats.usage = sequence.finish.usage;
  stats.e2e_latency = now - sequence.arrival;
  if (sequence.num_generated() > 0) {
    stats.time_to_first_token = sequence.first_token - sequence.arrival;
  }
  stats.max_tokens = sequence.max_tokens;
  stats.num_preemptions = sequence.num_preemptions;
  return stats;
}

}  // namespace nsa::engine
