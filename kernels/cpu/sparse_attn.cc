#include "kernels/cpu/sparse_attn.h"

#include <chrono>

#include "kernels/ops/sparse_attn.h"

namespace nsa::kernels::cpu {
namespace {

using Clock = std::chrono::steady_clock;

/// Stages of one call in a TaskList.
struct Stages {
  int first = 0;
  int end = 0;

  int last() const { return end - 1; }
};

Stages AddCall(TaskList& tasks, StagedCall& call) {
  const int first = tasks.AddCall(call);
  return {first, tasks.num_stages()};
}

double Seconds(const TaskList& tasks, const Stages& stages) {
  double seconds = 0;
  for (int stage = stages.first; stage < stages.end; ++stage) seconds += tasks.Seconds(stage);
  return seconds;
}

struct SparseStages {
  Stages cmp, score, sel, win, merge;  // empty: the plan has none
};

/// Shares out what the call took by what its tasks did.
void AddTimes(const TaskList& tasks, const SparseStages& stages, double seconds,
              SparseAttnTimes& times) {
  const SparseAttnTimes busy = {.cmp = Seconds(tasks, stages.cmp) + Seconds(tasks, stages.score),
                                .slc = Seconds(tasks, stages.sel),
                                .win = Seconds(tasks, stages.win),
                                .merge = Seconds(tasks, stages.merge)};
  const double all = busy.cmp + busy.slc + busy.win + busy.merge;
  if (all <= 0) return;
  times.cmp += seconds * busy.cmp / all;
  times.slc += seconds * busy.slc / all;
  times.win += seconds * busy.win / all;
  times.merge += seconds * busy.merge / all;
}

/// Hands all tasks out. The window waits for nothing, and nothing but the merge for it: it is what
/// workers do where choosing, which reads no memory to speak of, would leave memory idle, and where
/// one would wait for another's last task.
void AddInOrder(TaskList& tasks, const SparseStages& stages, int num_threads) {
  const auto& [cmp, score, sel, win, merge] = stages;
  const int window = kRangeStage + (win.end > win.first ? win.first : sel.first);
  if (cmp.end > cmp.first) {
    tasks.Add(cmp.first);
    tasks.Add(window, num_threads);
    tasks.AddAll(cmp.first + 1, cmp.end);
  }
  tasks.AddAll(score.first, score.last());
  tasks.Add(window, num_threads);
  tasks.Add(score.last());
  tasks.Add(window);
  tasks.AddAll(win.first, win.end);
  tasks.AddAll(sel.first, sel.end);
  tasks.AddAll(merge.first, merge.end);
}

}  // namespace

void SparseAttn(Context& context, const SparseAttnParams& params) {
  const Clock::time_point began = Clock::now();
  const ListScope scope(context);
  TaskList tasks(scope);
  SparseStages stages;
  StagedCallPtr cmp, win, merge;
  if (params.cmp.has_value()) {
    cmp = StageCmpAttn(context, scope, *params.cmp);
    stages.cmp = AddCall(tasks, *cmp);
  }
  const StagedCallPtr score = StageScoreTopk(context, scope, params.score);
  stages.score = AddCall(tasks, *score);
  for (int stage = stages.score.first; stage < stages.score.end; ++stage) {
    tasks.FollowAll(stage, stages.cmp.first, stages.cmp.end);
  }
  const StagedCallPtr sel = StageSelAttn(context, scope, params.sel, &params.score);
  stages.sel = AddCall(tasks, *sel);
  tasks.Follow(stages.sel.first + kSelStage, stages.score.last());
  if (params.win.has_value()) {
    win = StageWinAttn(context, scope, *params.win);
    stages.win = AddCall(tasks, *win);
  }
  if (params.merge.has_value()) {
    merge = StageMerge(scope, *params.merge);
    stages.merge = AddCall(tasks, *merge);
    for (const Stages& branch : {stages.cmp, stages.sel, stages.win}) {
      tasks.FollowAll(stages.merge.first, branch.first, branch.end);
    }
  }
  AddInOrder(tasks, stages, context.pool.num_threads());
  tasks.Run(context.pool, params.times != nullptr);
  if (params.times == nullptr) return;
  const std::chrono::duration<double> taken = Clock::now() - began;
  AddTimes(tasks, stages, taken.count(), *params.times);
}

}  // namespace nsa::kernels::cpu
