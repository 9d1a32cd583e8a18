#include "tests/cuda_host/emulator.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/cuda_host/fiber.h"
#include "tests/cuda_host/shared_arrays.h"

namespace nsa::cuda_host {
namespace {

using kernels::cuda::kWarpSize;
using kernels::cuda::LaunchShape;

constexpr int kMaxThreads = 1024;
// Of one CTA on sm_80, the smallest that is served (CUDA C++ Programming Guide, "Compute
// Capabilities").
constexpr int64_t kMaxSharedBytes = int64_t{163} * 1024;
constexpr std::string_view kDynamic = "dynamic shared memory";  // in the place of a file's name

std::string Text(const std::source_location& where) {
  const std::string path = where.file_name();
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(where.line());
}

bool SamePlace(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

struct Copy {
  void* to;
  const void* from;
  int bytes;
  int source_bytes;
  int group;
};

void Perform(const Copy& copy) {
  std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.source_bytes));
  std::memset(static_cast<std::byte*>(copy.to) + copy.source_bytes, 0,
              static_cast<size_t>(copy.bytes - copy.source_bytes));
}

enum class State : uint8_t { kReady, kAtBarrier, kInWarp, kEnded };

struct Thread {
  Fiber fiber;
  bool started = false;
  State state = State::kReady;
  Place place = {};
  // What it waits for.
  const char* instruction = "";
  std::source_location where;
  uint32_t mask = 0;
  void* brought = nullptr;
  // cp.async: copies that are under way, by groups.
  std::vector<Copy> copies;
  int open_group = 0;
};

class Machine {
 public:
  static Machine& The() {
    static Machine machine;
    return machine;
  }
  void SetOrder(Order order) { order_ = order; }
  std::vector<std::source_location>& barriers() { return barriers_; }
  void SkipBarrier(const std::source_location* where) {
    skipped_.reset();
    if (where != nullptr) skipped_ = *where;
  }
  bool IsSkipped(const std::source_location& barrier);
  void Run(const LaunchShape& shape, const std::function<void()>& kernel);

  Thread& self() { return *threads_[static_cast<size_t>(running_)]; }
  bool copies_at_once() const { return order_.kind == Order::Kind::kBackward; }
  [[noreturn]] void Fail(int thread, const std::string& what) const;
  void Barrier(const std::source_location& where);
  void WarpStep(uint32_t mask, void (*combine)(const Lanes&));
  void* StaticShared(int64_t bytes, const std::source_location& where);
  void* DynamicShared(int index, int64_t bytes);
  const SharedArrays& shared() const { return shared_; }

 private:
  static void ThreadBody(void* thread);
  void CheckShape() const;
  std::vector<int64_t> Permutation(int64_t count);
  void RunCta(int64_t cta);
  void DrawRanks();
  void SetReady(int thread);
  void SwitchAway();
  void ReportDeadlock() const;
  void* FindOrAddShared(std::string_view file, int64_t line, int64_t bytes);
  std::string Waits(const Thread& thread) const;
  int FillByte() const;

  Order order_;
  std::vector<std::source_location> barriers_;
  std::optional<std::source_location> skipped_;
  std::mt19937_64 random_;
  LaunchShape shape_;
  const std::function<void()>* kernel_ = nullptr;
  Fiber scheduler_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<int> rank_of_;    // of threads: the ready one of the lowest rank goes on
  std::vector<int> thread_of_;  // of ranks
  std::array<uint64_t, kMaxThreads / 64> ready_ = {};  // a bit a rank
  int running_ = 0;
  int num_at_barrier_ = 0;
  std::array<int, kMaxThreads / kWarpSize> num_in_warp_ = {};  // that wait there
  int num_ended_ = 0;
  SharedArrays shared_;
  std::exception_ptr failure_;
};

void Machine::CheckShape() const {
  const auto require = [this](bool holds, const char* what) {
    if (!holds) throw Error(std::string(shape_.name) + ": " + what);
  };
  require(shape_.grid_x >= 0 && shape_.grid_x <= INT32_MAX, "grid_x is not in [0, 2^31)");
  require(shape_.grid_y >= 0 && shape_.grid_y <= UINT16_MAX, "grid_y is not in [0, 2^16)");
  require(shape_.num_threads > 0 && shape_.num_threads <= kMaxThreads, "threads not in [1, 1024]");
  require(shape_.num_threads % kWarpSize == 0, "threads are no whole warps");
  require(shape_.shared_bytes >= 0 && shape_.shared_bytes <= kMaxSharedBytes,
          "more shared memory than a CTA may have");
}

std::vector<int64_t> Machine::Permutation(int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (order_.kind == Order::Kind::kBackward) std::reverse(order.begin(), order.end());
  if (order_.kind == Order::Kind::kShuffled) std::shuffle(order.begin(), order.end(), random_);
  return order;
}

void Machine::Run(const LaunchShape& shape, const std::function<void()>& kernel) {
  shape_ = shape;
  if (shape.grid_x == 0 || shape.grid_y == 0) return;
  CheckShape();
  kernel_ = &kernel;
  random_.seed(order_.seed);
  while (threads_.size() < static_cast<size_t>(shape.num_threads)) {
    threads_.push_back(std::make_unique<Thread>());
  }
  for (const int64_t cta : Permutation(shape.grid_x * shape.grid_y)) RunCta(cta);
}

void Machine::RunCta(int64_t cta) {
  shared_.Clear();
  ready_ = {};
  num_at_barrier_ = num_ended_ = 0;
  num_in_warp_ = {};
  DrawRanks();
  for (int i = 0; i < shape_.num_threads; ++i) {
    Thread& thread = *threads_[static_cast<size_t>(i)];
    thread.place = {i, shape_.num_threads, cta % shape_.grid_x, cta / shape_.grid_x};
    thread.copies.clear();
    thread.open_group = 0;
    if (!std::exchange(thread.started, true)) thread.fiber.Start(&Machine::ThreadBody, &thread);
    SetReady(i);
  }
  running_ = thread_of_[0];
  ready_[0] &= ~uint64_t{1};
  scheduler_.SwitchTo(self().fiber);
  if (failure_ == nullptr && num_ended_ < shape_.num_threads) {
    try {
      ReportDeadlock();
    } catch (const Error&) {
      failure_ = std::current_exception();
    }
  }
  if (failure_ == nullptr) return;
  // The other threads stand somewhere in the kernel: begin them anew.
  for (const auto& thread : threads_) thread->started = false;
  shared_.Clear();
  std::rethrow_exception(std::exchange(failure_, nullptr));
}

void Machine::DrawRanks() {
  const std::vector<int64_t> order = Permutation(shape_.num_threads);
  thread_of_.assign(order.begin(), order.end());
  rank_of_.resize(order.size());
  for (size_t rank = 0; rank < order.size(); ++rank) {
    rank_of_[static_cast<size_t>(thread_of_[rank])] = static_cast<int>(rank);
  }
}

void Machine::SetReady(int thread) {
  threads_[static_cast<size_t>(thread)]->state = State::kReady;
  const int rank = rank_of_[static_cast<size_t>(thread)];
  ready_[static_cast<size_t>(rank / 64)] |= uint64_t{1} << rank % 64;
}

/// To the next ready thread, or to the scheduler where there is none.
void Machine::SwitchAway() {
  Fiber& here = self().fiber;
  for (size_t word = 0; word < ready_.size() && failure_ == nullptr; ++word) {
    if (ready_[word] == 0) continue;
    const int rank = static_cast<int>(word) * 64 + std::countr_zero(ready_[word]);
    ready_[word] &= ready_[word] - 1;
    running_ = thread_of_[static_cast<size_t>(rank)];
    if (&self().fiber != &here) here.SwitchTo(self().fiber);
    return;
  }
  here.SwitchTo(scheduler_);
}

std::string Machine::Waits(const Thread& thread) const {
  if (thread.state == State::kEnded) return "has ended";
  return std::string("waits in ") + thread.instruction + " at " + Text(thread.where);
}

void Machine::Fail(int thread, const std::string& what) const {
  const Place& place = threads_[static_cast<size_t>(thread)]->place;
  throw Error(std::string(shape_.name) + ": CTA (" + std::to_string(place.cta_x) + ", " +
              std::to_string(place.cta_y) + "), thread " + std::to_string(thread) + ": " + what);
}

void Machine::ReportDeadlock() const {
  int waiting = -1;
  for (int i = 0; i < shape_.num_threads; ++i) {
    if (threads_[static_cast<size_t>(i)]->state != State::kEnded) waiting = i;
  }
  const Thread& one = *threads_[static_cast<size_t>(waiting)];
  const int first = one.state == State::kInWarp ? waiting / kWarpSize * kWarpSize : 0;
  const int end = one.state == State::kInWarp ? first + kWarpSize : shape_.num_threads;
  for (int i = first; i < end; ++i) {
    const Thread& other = *threads_[static_cast<size_t>(i)];
    const bool is_awaited = one.state == State::kAtBarrier || (one.mask >> (i - first) & 1) != 0;
    if (is_awaited && (other.state != one.state || !SamePlace(other.where, one.where) ||
                       (one.state == State::kInWarp && other.mask != one.mask))) {
      Fail(waiting,
           Waits(one) + ", but thread " + std::to_string(i) + " " + Waits(other) +
               (other.mask != one.mask && other.state == State::kInWarp ? " with another mask"
                                                                        : ""));
    }
  }
  Fail(waiting, Waits(one) + ", and nobody comes");
}

bool Machine::IsSkipped(const std::source_location& barrier) {
  const auto is_same = [&](const std::source_location& other) { return SamePlace(barrier, other); };
  if (std::none_of(barriers_.begin(), barriers_.end(), is_same)) barriers_.push_back(barrier);
  return skipped_.has_value() && is_same(*skipped_);
}

void Machine::Barrier(const std::source_location& where) {
  if (IsSkipped(where)) return;
  Thread& thread = self();
  thread.state = State::kAtBarrier;
  thread.instruction = "SyncThreads";
  thread.where = where;
  if (++num_at_barrier_ == shape_.num_threads) {
    for (int i = 0; i < shape_.num_threads; ++i) {
      // Elsewhere, a GPU would let them pass: its barriers are counters.
      if (!SamePlace(threads_[static_cast<size_t>(i)]->where, where)) ReportDeadlock();
    }
    num_at_barrier_ = 0;
    if (order_.kind == Order::Kind::kShuffled) DrawRanks();
    for (int i = 0; i < shape_.num_threads; ++i) SetReady(i);
  }
  SwitchAway();
}

void Machine::WarpStep(uint32_t mask, void (*combine)(const Lanes&)) {
  Thread& thread = self();
  const int first = thread.place.thread / kWarpSize * kWarpSize;
  if ((mask >> thread.place.thread % kWarpSize & 1) == 0) {
    Fail(thread.place.thread, std::string("is not in its own mask of ") + thread.instruction +
                                  " at " + Text(thread.where));
  }
  int& num_waiting = num_in_warp_[static_cast<size_t>(first / kWarpSize)];
  if (++num_waiting < std::popcount(mask)) {
    SwitchAway();
    return;
  }
  Lanes lanes = {};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const Thread& other = *threads_[static_cast<size_t>(first + lane)];
    if (other.state != State::kInWarp || other.mask != mask ||
        !SamePlace(other.where, thread.where)) {
      SwitchAway();  // the lane that comes last does the work of all
      return;
    }
    lanes[static_cast<size_t>(lane)] = other.brought;
  }
  combine(lanes);
  num_waiting -= std::popcount(mask);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) != 0) SetReady(first + lane);
  }
  SwitchAway();
}

void Machine::ThreadBody(void* argument) {
  auto& thread = *static_cast<Thread*>(argument);
  Machine& machine = The();
  for (;;) {
    try {
      (*machine.kernel_)();
      if (!thread.copies.empty())
        machine.Fail(thread.place.thread, "ends before its copies are there");
    } catch (...) {
      machine.failure_ = std::current_exception();
    }
    thread.state = State::kEnded;
    ++machine.num_ended_;
    machine.SwitchAway();
  }
}

int Machine::FillByte() const {
  if (order_.kind == Order::Kind::kForward) return 0xFF;  // NaN in every type
  if (order_.kind == Order::Kind::kBackward) return 0;
  return static_cast<int>(order_.seed % 97 + 1);
}

void* Machine::FindOrAddShared(std::string_view file, int64_t line, int64_t bytes) {
  const SharedArray* array = shared_.Find(file, line);
  const bool is_new = array == nullptr;
  if (is_new) array = &shared_.Add(file, line, bytes, FillByte());
  if (array->bytes() != bytes) {
    Fail(running_, "asks for " + std::to_string(bytes) + " bytes of shared memory where another " +
                       "thread asked for " + std::to_string(array->bytes()));
  }
  if (!is_new) return array->data();
  if (shared_.TotalBytes(kDynamic) > shape_.shared_bytes) {
    Fail(running_, "takes more dynamic shared memory than the launch gave");
  }
  if (shared_.TotalBytes("") - shared_.TotalBytes(kDynamic) + shape_.shared_bytes >
      kMaxSharedBytes) {
    Fail(running_, "takes more shared memory than a CTA may have");
  }
  return array->data();
}

void* Machine::StaticShared(int64_t bytes, const std::source_location& where) {
  return FindOrAddShared(where.file_name(), int64_t{where.line()} << 16 | where.column(), bytes);
}

void* Machine::DynamicShared(int index, int64_t bytes) {
  return FindOrAddShared(kDynamic, index, bytes);
}

}  // namespace

bool IsEmulated() { return true; }

void SetOrder(Order order) { Machine::The().SetOrder(order); }

std::vector<std::source_location> BarriersSeen() { return Machine::The().barriers(); }

void ForgetBarriers() { Machine::The().barriers().clear(); }

void SkipBarrier(const std::source_location* where) { Machine::The().SkipBarrier(where); }

void RunLaunch(const LaunchShape& shape, const std::function<void()>& kernel) {
  Machine::The().Run(shape, kernel);
}

const Place& Here() { return Machine::The().self().place; }

void Fail(const std::string& what) { Machine::The().Fail(Here().thread, what); }

void Barrier(const std::source_location& where) { Machine::The().Barrier(where); }

void WarpStep(const char* instruction, uint32_t mask, void* mine, void (*combine)(const Lanes&),
              const std::source_location& where) {
  const bool is_barrier = mine == nullptr;
  if (is_barrier && Machine::The().IsSkipped(where)) return;
  Thread& thread = Machine::The().self();
  thread.state = State::kInWarp;
  thread.instruction = instruction;
  thread.where = where;
  thread.mask = mask;
  thread.brought = mine;
  Machine::The().WarpStep(mask, combine);
}

void* StaticShared(int64_t bytes, const std::source_location& where) {
  return Machine::The().StaticShared(bytes, where);
}

void* DynamicShared(int index, int64_t bytes) { return Machine::The().DynamicShared(index, bytes); }

void CheckShared(const void* address, int64_t bytes, const char* instruction) {
  if (!Machine::The().shared().Hold(address, bytes)) {
    Fail(std::string(instruction) + " outside of the CTA's shared arrays");
  }
  CheckAligned(address, bytes, instruction);
}

void CheckAligned(const void* address, int64_t bytes, const char* instruction) {
  if (reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) != 0) {
    Fail(std::string(instruction) + " from an address that is no multiple of its size");
  }
}

void StartCopy(void* shared, const void* global, int bytes, int source_bytes) {
  CheckShared(shared, bytes, "CopyAsync");
  CheckAligned(global, bytes, "CopyAsync");
  // What a pointer in shared memory is before somebody writes it, and an offset.
  constexpr uintptr_t kNearNull = uintptr_t{1} << 24;
  if (source_bytes > 0 && reinterpret_cast<uintptr_t>(global) < kNearNull) {
    Fail("CopyAsync from an address near null");
  }
  Thread& thread = Machine::The().self();
  const Copy copy = {shared, global, bytes, source_bytes, thread.open_group};
  if (Machine::The().copies_at_once()) Perform(copy);
  thread.copies.push_back(copy);
}

void CloseCopies() { ++Machine::The().self().open_group; }

void FinishCopies(int num_pending) {
  Thread& thread = Machine::The().self();
  std::erase_if(thread.copies, [&](const Copy& copy) {
    if (copy.group >= thread.open_group - num_pending) return false;
    if (!Machine::The().copies_at_once()) Perform(copy);
    return true;
  });
}

}  // namespace nsa::cuda_host
