#ifndef NSA_TESTS_CUDA_HOST_DEVICE_H_
#define NSA_TESTS_CUDA_HOST_DEVICE_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <source_location>

#include "kernels/cuda/device_types.h"
#include "kernels/quant.h"
#include "tests/cuda_host/emulator.h"
#include "tests/cuda_host/fragments.h"

/// The names of kernels/cuda/device_gpu.h on the emulator.
#define NSA_DEVICE inline
#define NSA_KERNEL(num_threads) void
#define NSA_KERNEL_SHARING(num_threads, num_ctas) void
#define NSA_ARGS const
#define NSA_UNROLL
#define NSA_UNROLL_BY(count)
#define NSA_SHARED(type, name, count)                                 \
  type* const name = static_cast<type*>(nsa::cuda_host::StaticShared( \
      int64_t{count} * int64_t{sizeof(type)}, std::source_location::current()))

namespace nsa::kernels::cuda {

using SourceLocation = std::source_location;

inline int ThreadIndex() { return cuda_host::Here().thread; }
inline int NumThreads() { return cuda_host::Here().num_threads; }
inline int LaneIndex() { return ThreadIndex() % kWarpSize; }
inline int WarpIndex() { return ThreadIndex() / kWarpSize; }
inline int64_t CtaX() { return cuda_host::Here().cta_x; }
inline int64_t CtaY() { return cuda_host::Here().cta_y; }

inline void DeviceCheck(bool condition, SourceLocation where = SourceLocation::current()) {
  if (!condition) cuda_host::Fail("check failed in line " + std::to_string(where.line()));
}

class SharedArena {
 public:
  template <typename T>
  T* Take(int count) {
    return static_cast<T*>(cuda_host::DynamicShared(index_++, int64_t{count} * int64_t{sizeof(T)}));
  }

 private:
  int index_ = 0;
};

inline void SyncThreads(SourceLocation where = SourceLocation::current()) {
  cuda_host::Barrier(where);
}
inline void SyncWarp(uint32_t mask = kAllLanes, SourceLocation where = SourceLocation::current()) {
  cuda_host::WarpStep("SyncWarp", mask, nullptr, [](const cuda_host::Lanes&) {}, where);
}

/// What a lane brings to a shuffle, and gets of it.
template <typename T>
struct ShuffleStep {
  T value;
  int source_lane;
  T result;

  static void Combine(const cuda_host::Lanes& lanes) {
    for (void* lane : lanes) {
      if (lane == nullptr) continue;
      auto& step = *static_cast<ShuffleStep*>(lane);
      if (step.source_lane < 0 || step.source_lane >= kWarpSize ||
          lanes[static_cast<size_t>(step.source_lane)] == nullptr) {
        cuda_host::Fail("a shuffle reads a lane that takes no part");
      }
      step.result = static_cast<ShuffleStep*>(lanes[static_cast<size_t>(step.source_lane)])->value;
    }
  }
};

template <typename T>
T Shuffle(T value, int source_lane, uint32_t mask = kAllLanes,
          SourceLocation where = SourceLocation::current()) {
  static_assert(sizeof(T) == 4);
  ShuffleStep<T> step = {value, source_lane, {}};
  cuda_host::WarpStep("Shuffle", mask, &step, &ShuffleStep<T>::Combine, where);
  return step.result;
}
template <typename T>
T ShuffleXor(T value, int lane_mask, uint32_t mask = kAllLanes,
             SourceLocation where = SourceLocation::current()) {
  return Shuffle(value, LaneIndex() ^ lane_mask, mask, where);
}

struct BallotStep {
  bool predicate;
  uint32_t result;
  static void Combine(const cuda_host::Lanes& lanes);
};
inline uint32_t Ballot(bool predicate, uint32_t mask = kAllLanes,
                       SourceLocation where = SourceLocation::current()) {
  BallotStep step = {predicate, 0};
  cuda_host::WarpStep("Ballot", mask, &step, &BallotStep::Combine, where);
  return step.result;
}

// Threads of the emulator take turns, and none in here.
template <typename T>
T AddAtOnce(T* address, T x) {
  const T before = *address;
  *address = before + x;
  return before;
}
inline uint32_t AtomicAdd(uint32_t* address, uint32_t x) { return AddAtOnce(address, x); }
inline int64_t AtomicAdd(int64_t* address, int64_t x) { return AddAtOnce(address, x); }
inline uint32_t AtomicOr(uint32_t* address, uint32_t x) {
  const uint32_t before = *address;
  *address = before | x;
  return before;
}

inline uint32_t FloatBits(float x) { return std::bit_cast<uint32_t>(x); }
inline float FloatOfBits(uint32_t bits) { return std::bit_cast<float>(bits); }
inline int BitCount(uint32_t x) { return std::popcount(x); }
inline int LowestBit(uint32_t x) { return std::countr_zero(x); }
inline uint64_t MultiplyHigh(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(Wide{a} * b >> 64);
}

inline float ToFloat(float x) { return x; }
inline float ToFloat(Bf16 x) { return BF16ToF32(x.bits); }
inline float ToFloat(F16 x) { return F16ToF32(x.bits); }
// The device makes every NaN 0x7FFF.
inline Bf16 ToBf16(float x) { return {std::isnan(x) ? uint16_t{0x7FFF} : F32ToBF16(x)}; }
inline uint32_t ToBf16Pair(float low, float high) {
  return uint32_t{ToBf16(low).bits} | uint32_t{ToBf16(high).bits} << 16;
}
inline F16 ToF16(float x) { return {std::isnan(x) ? uint16_t{0x7FFF} : F32ToF16(x)}; }

inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline double Fma(double a, double b, double c) { return std::fma(a, b, c); }
inline int32_t Dp4a(uint32_t a, uint32_t b, int32_t c) {
  for (int i = 0; i < 4; ++i) {
    c += int32_t{static_cast<int8_t>(a >> 8 * i)} * int32_t{static_cast<int8_t>(b >> 8 * i)};
  }
  return c;
}
inline float FastDivide(float a, float b) { return a / b; }
inline float Sqrt(float x) { return std::sqrt(x); }
inline float Exp(float x) { return std::exp(x); }
inline float Exp2(float x) { return std::exp2(x); }
inline float Log(float x) { return std::log(x); }
inline float Tanh(float x) { return std::tanh(x); }
inline float Max(float x, float y) { return std::fmax(x, y); }
inline float Abs(float x) { return std::fabs(x); }
inline float RoundEven(float x) { return std::nearbyint(x); }
inline double RoundEven(double x) { return std::nearbyint(x); }
inline double RoundUp(double x) { return std::ceil(x); }
inline float Infinity() { return std::numeric_limits<float>::infinity(); }
inline float NotANumber() { return std::numeric_limits<float>::quiet_NaN(); }

/// What a lane brings to Mma: its fragments; the sum stays in `d`.
struct MmaStep {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
  float (*to_float)(uint16_t);
  static void Combine(const cuda_host::Lanes& lanes);
};
template <typename T>
void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], T,
         SourceLocation where = SourceLocation::current()) {
  MmaStep step = {d, a, b, [](uint16_t bits) { return ToFloat(T{bits}); }};
  cuda_host::WarpStep("Mma", kAllLanes, &step, &MmaStep::Combine, where);
}

/// The same for MmaInt8, whose a and b have 2·`num_halves` and `num_halves` registers.
struct MmaInt8Step {
  int32_t* d;
  const uint32_t* a;
  const uint32_t* b;
  int num_halves;  // of 32 columns
  static void Combine(const cuda_host::Lanes& lanes);
};
template <int kRegisters>
void MmaInt8(int32_t (&d)[4], const uint32_t (&a)[kRegisters], const uint32_t (&b)[kRegisters / 2],
             SourceLocation where = SourceLocation::current()) {
  static_assert(kRegisters == 2 || kRegisters == 4);
  MmaInt8Step step = {d, a, b, kRegisters / 2};
  cuda_host::WarpStep("MmaInt8", kAllLanes, &step, &MmaInt8Step::Combine, where);
}

/// What a lane brings to LoadMatrix: the address of a row, and room for `count` registers.
struct LoadMatrixStep {
  const void* row;
  uint32_t* registers;
  int count;
  bool transpose;
  static void Combine(const cuda_host::Lanes& lanes);
};
template <bool kTranspose, int kCount>
void LoadMatrix(uint32_t (&r)[kCount], const void* row,
                SourceLocation where = SourceLocation::current()) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4);
  // Lanes whose address is not read may bring any.
  if (LaneIndex() < 8 * kCount) cuda_host::CheckShared(row, 16, "LoadMatrix");
  LoadMatrixStep step = {row, r, kCount, kTranspose};
  cuda_host::WarpStep("LoadMatrix", kAllLanes, &step, &LoadMatrixStep::Combine, where);
}

inline U32x4 LoadVector(const U32x4* from) {
  cuda_host::CheckAligned(from, sizeof(U32x4), "LoadVector");
  return *from;
}
inline U32x4 LoadOnce(const U32x4* global) {
  cuda_host::CheckAligned(global, sizeof(U32x4), "LoadOnce");
  return *global;
}

template <int kBytes = 16>
void CopyAsync(void* shared, const void* global, bool valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  cuda_host::StartCopy(shared, global, kBytes, valid ? kBytes : 0);
}
inline void CommitCopies() { cuda_host::CloseCopies(); }
template <int kPending>
void WaitCopies() {
  cuda_host::FinishCopies(kPending);
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_TESTS_CUDA_HOST_DEVICE_H_
