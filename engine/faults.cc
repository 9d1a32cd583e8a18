#include "engine/faults.h"

#include <algorithm>
#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/text.h"

namespace nsa::engine {
namespace {

class FaultyIo final : public FileIo {
 public:
  explicit FaultyIo(FaultInjector* faults) : faults_(faults) {}

  ssize_t Write(int file, const std::byte* data, size_t num_bytes, off_t offset) override {
    if (Fails(Fault::kSpillWrite, ENOSPC)) return -1;
    return FileIo::Write(file, data, Shortened(num_bytes), offset);
  }
  ssize_t Read(int file, std::byte* data, size_t num_bytes, off_t offset) override {
    if (Fails(Fault::kSpillRead, EIO)) return -1;
    return FileIo::Read(file, data, Shortened(num_bytes), offset);
  }

 private:
  bool Fails(Fault fault, int error) {
    faults_->SleepIf(Fault::kSpillSlow);
    if (!faults_->Happens(fault)) return false;
    errno = error;
    return true;
  }
  size_t Shortened(size_t num_bytes) {
    if (num_bytes < 2 || !faults_->Happens(Fault::kSpillShort)) return num_bytes;
    return 1 + faults_->Pick(num_bytes - 1);
  }

  FaultInjector* faults_;
};

absl::Status Bad(std::string_view word, const char* expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("NSA_FAULTS has '", View(word), "', expected ", expected));
}

absl::Status ParseOne(std::string_view name, std::string_view word,
                      FaultInjector::Options& options) {
  double value = 0;
  if (!absl::SimpleAtod(View(word), &value) || !(value >= 0) || value > 1e9) {
    return Bad(word, "a number from 0 on");
  }
  if (name == "seed") {
    options.seed = static_cast<uint64_t>(value);
  } else if (name == "delay_ms") {
    options.delay = absl::Milliseconds(value);
  } else if (name == "preempt_every") {
    options.preempt_every = static_cast<int64_t>(value);
  } else {
    const auto* known = std::ranges::find(kFaultNames, name);
    if (known == std::end(kFaultNames)) {
      return Bad(name,
                 "one of allocation, spill_write, spill_read, spill_short, spill_slow, "
                 "step_slow, drop_stream, preempt, preempt_every, delay_ms, seed");
    }
    if (value > 1) return Bad(word, "a probability");
    options.probability[static_cast<size_t>(known - std::begin(kFaultNames))] = value;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FaultInjector::Options> FaultInjector::Parse(std::string_view text) {
  Options options;
  const std::string copy(text);
  for (const absl::string_view part : absl::StrSplit(copy, ',', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(part, absl::MaxSplits('=', 1));
    absl::Status status = ParseOne(pair.first, pair.second, options);
    if (!status.ok()) return status;
  }
  return options;
}

bool FaultInjector::Happens(Fault fault) {
  const double probability = options_.probability[static_cast<size_t>(fault)];
  if (probability <= 0) return false;
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::uniform_real_distribution<double>()(random_) < probability;
}

void FaultInjector::SleepIf(Fault fault) {
  if (Happens(fault)) absl::SleepFor(options_.delay);
}

bool FaultInjector::PreemptsNow() {
  const bool drawn = Happens(Fault::kPreempt);
  if (options_.preempt_every == 0) return drawn;
  const std::lock_guard<std::mutex> lock(mutex_);
  return ++num_steps_ % options_.preempt_every == 0 || drawn;
}

size_t FaultInjector::Pick(size_t size) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::uniform_int_distribution<size_t>(0, size - 1)(random_);
}

std::unique_ptr<FileIo> MakeFaultyIo(FaultInjector* faults) {
  return std::make_unique<FaultyIo>(faults);
}

}  // namespace nsa::engine
