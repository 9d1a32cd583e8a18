#ifndef NSA_ENGINE_FAULTS_H_
#define NSA_ENGINE_FAULTS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/spill_file.h"

namespace nsa::engine {

/// What is broken on purpose, each with a probability every time that it could happen.
enum class Fault : uint8_t {
  kAllocation,  // no page where there is one
  kSpillWrite,  // a write to the tier fails: no space left
  kSpillRead,   // a read from the tier fails
  kSpillShort,  // a transfer moves a part only
  kSpillSlow,   // a transfer takes `delay` longer
  kStepSlow,    // a step takes `delay` longer
  kDropStream,  // after a step, a running request is aborted, as where its client has gone
  kPreempt,     // before a step, the last running sequence gives way
};
inline constexpr std::string_view kFaultNames[] = {"allocation",  "spill_write", "spill_read",
                                                   "spill_short", "spill_slow",  "step_slow",
                                                   "drop_stream", "preempt"};
inline constexpr size_t kNumFaults = std::size(kFaultNames);

/// Draws faults, reproducibly for one thread. For tests: nothing in a server that serves makes one.
/// Any thread.
class FaultInjector {
 public:
  struct Options {
    std::array<double, kNumFaults> probability{};
    int64_t preempt_every = 0;  // steps; beside kPreempt's probability; 0: never
    absl::Duration delay = absl::Milliseconds(20);
    uint64_t seed = 1;
  };

  /// "spill_write=0.1,step_slow=0.01,preempt_every=7,delay_ms=50,seed=3". InvalidArgument names
  /// what is not understood.
  static absl::StatusOr<Options> Parse(std::string_view text);

  explicit FaultInjector(const Options& options) : options_(options), random_(options.seed) {}

  bool Happens(Fault fault);
  /// For `delay`, where it happens.
  void SleepIf(Fault fault);
  absl::Duration delay() const { return options_.delay; }
  /// Once a step.
  bool PreemptsNow();
  /// In [0, size).
  size_t Pick(size_t size);

 private:
  const Options options_;
  std::mutex mutex_;
  std::mt19937_64 random_;
  int64_t num_steps_ = 0;
};

/// A file that fails as the injector says, which outlives it.
std::unique_ptr<FileIo> MakeFaultyIo(FaultInjector* faults);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_FAULTS_H_
