#ifndef NSA_KERNELS_CPU_STAGED_CALL_H_
#define NSA_KERNELS_CPU_STAGED_CALL_H_

#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "kernels/cpu/cpu.h"

namespace nsa::kernels::cpu {

/// A call of an operator laid out as tasks, so that those of several calls can be handed out
/// together (TaskList). Lives in the memory of the call's ListScope.
class StagedCall {
 public:
  StagedCall() = default;
  virtual ~StagedCall() = default;
  StagedCall(const StagedCall&) = delete;
  StagedCall& operator=(const StagedCall&) = delete;

  virtual int num_stages() const = 0;
  /// Tasks of one stage may run in any order, at once, and on any worker.
  virtual int64_t NumTasks(int stage) const = 0;
  /// Whether the tasks of `stage` read what those of the stage `earlier` leave.
  virtual bool Follows(int stage, int earlier) const = 0;
  virtual void RunTask(int stage, int64_t task, int worker) = 0;
};

/// Ends a call's life; its memory goes with the ListScope.
struct DestroyCall {
  void operator()(StagedCall* call) const { std::destroy_at(call); }
};
using StagedCallPtr = std::unique_ptr<StagedCall, DestroyCall>;

template <typename Call, typename... Arguments>
StagedCallPtr MakeStagedCall(const ListScope& scope, Arguments&&... arguments) {
  void* memory = scope.memory()->allocate(sizeof(Call), alignof(Call));
  return StagedCallPtr(new (memory) Call(std::forward<Arguments>(arguments)...));
}

/// Tasks of several calls, which one ParallelFor hands out in the order of Add. A worker that gets
/// a task whose stage follows another waits until that is over: so what is added between a stage
/// and what follows it is what workers do meanwhile.
class TaskList {
 public:
  explicit TaskList(const ListScope& scope)
      : scope_(scope), stages_(scope.memory()), runs_(scope.memory()) {}

  /// Takes a call in; returns the number of its first stage here.
  int AddCall(StagedCall& call);
  /// Tasks of `stage` begin when all of `earlier` have ended.
  void Follow(int stage, int earlier) { FollowAll(stage, earlier, earlier + 1); }
  void FollowAll(int stage, int first_earlier, int end_earlier);
  /// Hands out the next `count` tasks of a stage, or as many as it has left.
  void Add(int stage, int64_t count = INT64_MAX);
  void AddAll(int first_stage, int end_stage) {
    for (int stage = first_stage; stage < end_stage; ++stage) Add(stage);
  }
  /// Runs what was added, which is all tasks of all calls. `measures`: Seconds can be asked after.
  void Run(ThreadPool& pool, bool measures = false);

  int num_stages() const { return static_cast<int>(stages_.size()); }
  /// Time that workers spent on a stage and on waiting for what it follows, all together.
  double Seconds(int stage) const { return stages_[static_cast<size_t>(stage)].seconds; }

 private:
  static constexpr int kMaxFollowed = 8;
  struct Stage {
    StagedCall* call;
    int stage;  // of the call
    int64_t num_tasks;
    int64_t num_added = 0;
    int followed[kMaxFollowed] = {};
    int num_followed = 0;
    double seconds = 0;
  };
  /// Tasks [first, end) of a stage.
  struct TaskRun {
    int stage;
    int64_t first;
    int64_t end;
  };

  const ListScope& scope_;
  List<Stage> stages_;
  List<TaskRun> runs_;
  int64_t num_tasks_ = 0;
};

/// Runs one call by itself.
void RunStages(Context& context, const ListScope& scope, StagedCall& call);

}  // namespace nsa::kernels::cpu

#endif  // NSA_KERNELS_CPU_STAGED_CALL_H_
