#ifndef NSA_KERNELS_CUDA_SAMPLE_ORDER_H_
#define NSA_KERNELS_CUDA_SAMPLE_ORDER_H_

#include <cstdint>

#include "kernels/cuda/device.h"

/// A row of logits as keys that are ordered as its tokens are, and as masses: weights exp((logit −
/// best) / temperature) in whole units, whose sums have the same bits in every order.
namespace nsa::kernels::cuda {

inline constexpr int kSampleThreads = 512;

/// A weight of 1. Below half a unit, exp(−31.2), a token is never drawn.
inline constexpr int kMassBits = 44;
/// Sums of masses stay below 2⁶³: the unit is larger for vocabularies of 2¹⁹ tokens and more.
/// Rounding moves sums by 2⁻²⁷ of the best token's, or of as many tokens' as a unit has grown.
inline constexpr int kVocabularyBits = 63 - kMassBits;
inline constexpr int64_t kMaxVocabulary = int64_t{1} << 30;
NSA_DEVICE int MassShiftOf(int64_t vocabulary_size) {
  int shift = 0;
  while (vocabulary_size >> (kVocabularyBits + shift) != 0) ++shift;
  return shift;
}

struct SampleRow {
  const float* logits;
  int size;
  double best;
  double inverse_temperature;
  int mass_shift;
};

/// Larger logits have smaller keys, equal ones the same: −0 is 0.
NSA_DEVICE uint32_t KeyOf(float logit) {
  const uint32_t bits = FloatBits(logit + 0.0f);
  return bits >> 31 != 0 ? bits : bits ^ 0x7FFFFFFFu;
}
NSA_DEVICE float LogitOfKey(uint32_t key) {
  return FloatOfBits(key >> 31 != 0 ? key : key ^ 0x7FFFFFFFu);
}

/// exp(x)·2^kMassBits, x ≤ 0, to the nearest: exp(x) = 2ⁿ·exp(r), |r| ≤ ln 2 / 2, by Taylor's
/// series to r¹², whose rest is below 2⁻⁵². No function of the device's, so that bits are the same
/// everywhere.
NSA_DEVICE int64_t ExpMass(double x) {
  if (!(x > -32)) return 0;
  DeviceCheck(x <= 0);
  constexpr double kLog2E = 0x1.71547652b82fep+0;
  constexpr double kLn2High = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;
  const double n = RoundEven(x * kLog2E);
  const double r = Fma(-n, kLn2Low, Fma(-n, kLn2High, x));
  double sum = 1.0 / 479001600;
  sum = Fma(sum, r, 1.0 / 39916800);
  sum = Fma(sum, r, 1.0 / 3628800);
  sum = Fma(sum, r, 1.0 / 362880);
  sum = Fma(sum, r, 1.0 / 40320);
  sum = Fma(sum, r, 1.0 / 5040);
  sum = Fma(sum, r, 1.0 / 720);
  sum = Fma(sum, r, 1.0 / 120);
  sum = Fma(sum, r, 1.0 / 24);
  sum = Fma(sum, r, 1.0 / 6);
  sum = Fma(sum, r, 0.5);
  sum = Fma(sum, r, 1.0);
  sum = Fma(sum, r, 1.0);
  constexpr int kBits = 52;
  const int shift = kBits - kMassBits - static_cast<int>(n);  // from kBits − kMassBits up to 55
  const auto scaled = static_cast<int64_t>(sum * static_cast<double>(int64_t{1} << kBits));
  return (scaled + (int64_t{1} << (shift - 1))) >> shift;
}

/// 0 for what cannot be drawn: −inf, and NaN of a bias.
NSA_DEVICE int64_t MassOf(const SampleRow& row, float logit) {
  if (!(logit > -Infinity())) return 0;
  const int64_t mass = ExpMass((static_cast<double>(logit) - row.best) * row.inverse_temperature);
  return (mass + (int64_t{1} << row.mass_shift >> 1)) >> row.mass_shift;
}

/// ⌊a / b⌋ of a ≥ 0 and b > 0, where it is below 2³⁰: a GPU has no instruction for it.
NSA_DEVICE int64_t Quotient(int64_t a, int64_t b) {
  DeviceCheck(a >= 0 && b > 0);
  auto q = static_cast<int64_t>(static_cast<double>(a) / static_cast<double>(b));
  while (q * b > a) --q;
  while ((q + 1) * b <= a) ++q;
  return q;
}

/// The token of the largest logit, of several the lowest id; −1 where none is above −inf.
struct Best {
  float logit;
  int32_t id;
};
NSA_DEVICE Best FindBest(const float* logits, int size) {
  NSA_SHARED(uint32_t, keys, kSampleThreads / kWarpSize);
  NSA_SHARED(int32_t, ids, kSampleThreads / kWarpSize);
  uint32_t key = KeyOf(-Infinity());
  int32_t id = -1;
  NSA_UNROLL_BY(4)
  for (int i = ThreadIndex(); i < size; i += kSampleThreads) {
    const float logit = logits[i];
    // A NaN, which a bias may make, is not above −inf.
    if (logit > -Infinity() && KeyOf(logit) < key) key = KeyOf(logit), id = i;
  }
  const auto take = [&](uint32_t other_key, int32_t other_id) {
    if (other_key > key || (other_key == key && other_id >= id)) return;
    key = other_key, id = other_id;
  };
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const uint32_t other_key = ShuffleXor(key, step);
    take(other_key, ShuffleXor(id, step));
  }
  if (LaneIndex() == 0) keys[WarpIndex()] = key, ids[WarpIndex()] = id;
  SyncThreads();
  for (int w = 0; w < kSampleThreads / kWarpSize; ++w) take(keys[w], ids[w]);
  return {LogitOfKey(key), id};
}

/// The id of the token that comes `rank`-th (from 0) of those with this key, in the order of ids.
NSA_DEVICE int32_t IdOf(const SampleRow& row, uint32_t key, int rank) {
  constexpr int kWarps = kSampleThreads / kWarpSize;
  NSA_SHARED(int, counts, kWarps);
  NSA_SHARED(int32_t, found, 1);
  // A warp has neighbouring ids, so that counts of warps are ordered as ids are.
  const int share = (row.size + kSampleThreads - 1) / kSampleThreads * kWarpSize;
  const int begin = WarpIndex() * share;
  const auto matches = [&](int i) {
    const int id = begin + i + LaneIndex();
    return Ballot(id < row.size && row.logits[id] > -Infinity() && KeyOf(row.logits[id]) == key);
  };
  int count = 0;
  for (int i = 0; i < share; i += kWarpSize) count += BitCount(matches(i));
  if (LaneIndex() == 0) counts[WarpIndex()] = count;
  SyncThreads();
  for (int w = 0; w < WarpIndex(); ++w) rank -= counts[w];
  if (rank >= 0 && rank < count) {
    int i = 0;
    uint32_t left = matches(i);
    while (rank >= BitCount(left)) {
      rank -= BitCount(left);
      left = matches(i += kWarpSize);
    }
    for (; rank > 0; --rank) left &= left - 1;
    if (LaneIndex() == 0) found[0] = begin + i + LowestBit(left);
  }
  SyncThreads();
  return found[0];
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_SAMPLE_ORDER_H_
