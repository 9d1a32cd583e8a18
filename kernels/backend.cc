#include "kernels/backend.h"

#include <chrono>
#include <cstring>

namespace nsa::kernels {

Memory Backend::Allocate(int64_t num_bytes) { return AllocateHost(num_bytes); }

void Backend::Write(void* target, const void* source, int64_t num_bytes) {
  std::memcpy(target, source, static_cast<size_t>(num_bytes));
}

void Backend::Read(void* target, const void* source, int64_t num_bytes) {
  std::memcpy(target, source, static_cast<size_t>(num_bytes));
}

void Backend::WriteAhead(void* target, const void* source, int64_t num_bytes) {
  Write(target, source, num_bytes);
}

std::unique_ptr<SideCopies> Backend::MakeSideCopies() { return nullptr; }

Memory Backend::AllocateForReads(int64_t num_bytes) { return AllocateHost(num_bytes); }

void Backend::ReadLater(void* target, const void* source, int64_t num_bytes) {
  Read(target, source, num_bytes);
}

void Backend::SparseAttn(const SparseAttnParams& params) {
  using Clock = std::chrono::steady_clock;
  SparseAttnTimes unused;
  SparseAttnTimes& times = params.times != nullptr ? *params.times : unused;
  Clock::time_point last = Clock::now();
  const auto count = [&last](double& seconds) {
    const Clock::time_point now = Clock::now();
    seconds += std::chrono::duration<double>(now - last).count();
    last = now;
  };
  if (params.cmp.has_value()) CmpAttn(*params.cmp);
  ScoreTopk(params.score);
  if (params.on_chosen != nullptr) (*params.on_chosen)();
  count(times.cmp);
  SelAttn(params.sel);
  count(times.slc);
  if (params.win.has_value()) WinAttn(*params.win);
  count(times.win);
  if (params.merge.has_value()) Merge(*params.merge);
  count(times.merge);
}

StoredMatrix Backend::Store(const WeightMatrix& matrix) { return {.matrix = matrix, .memory = {}}; }

}  // namespace nsa::kernels
