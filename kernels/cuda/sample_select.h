#ifndef NSA_KERNELS_CUDA_SAMPLE_SELECT_H_
#define NSA_KERNELS_CUDA_SAMPLE_SELECT_H_

#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/reduce.h"
#include "kernels/cuda/sample_order.h"

/// Where in the order of tokens a count or a mass is reached, without a sort: by the digits of keys
/// from the top, with a histogram of the tokens that share the digits so far.
namespace nsa::kernels::cuda {

inline constexpr int kDigitBits = 11;  // of the last digit one less
inline constexpr int kBins = 1 << kDigitBits;
inline constexpr int kBinGroups = 64;
inline constexpr int kTopShift = 32 - kDigitBits;

/// A histogram in shared memory, a mass in two words: integer additions to 32 bits are instructions
/// there, and carries say themselves.
struct Bins {
  uint32_t* low;    // [kBins]
  uint32_t* high;   // [kBins]
  uint32_t* count;  // [kBins]
};

struct Amount {
  int64_t mass;
  int64_t count;
};

/// Of a row: all tokens that can be drawn, and the mass of those that min_p keeps.
struct Totals {
  Amount all;
  int64_t above_min_p;
};

/// What is looked for: the first token with which this count or mass is reached.
struct Goal {
  bool by_count;
  int64_t least;
};

/// Its key, and what comes before that key.
struct Place {
  uint32_t key;
  Amount before;
};

NSA_DEVICE bool Reaches(const Goal& goal, const Amount& sum) {
  return (goal.by_count ? sum.count : sum.mass) >= goal.least;
}

NSA_DEVICE void ClearBins(const Bins& bins) {
  for (int i = ThreadIndex(); i < kBins; i += kSampleThreads) {
    bins.low[i] = bins.high[i] = bins.count[i] = 0;
  }
}
NSA_DEVICE void AddToBin(const Bins& bins, uint32_t bin, int64_t mass) {
  const auto low = static_cast<uint32_t>(mass);
  const uint32_t carry = AtomicAdd(&bins.low[bin], low) + low < low ? 1 : 0;
  const uint32_t high = static_cast<uint32_t>(mass >> 32) + carry;
  if (high > 0) AtomicAdd(&bins.high[bin], high);
  AtomicAdd(&bins.count[bin], uint32_t{1});
}
NSA_DEVICE Amount BinAt(const Bins& bins, int bin) {
  return {static_cast<int64_t>(uint64_t{bins.high[bin]} << 32 | bins.low[bin]),
          int64_t{bins.count[bin]}};
}
NSA_DEVICE Amount Sum(const Amount& a, const Amount& b) {
  return {a.mass + b.mass, a.count + b.count};
}

/// The sums of all tokens into the bins of their keys' top digits; all threads get the totals.
NSA_DEVICE Totals CountAll(const SampleRow& row, float min_p, const Bins& top) {
  NSA_SHARED(int64_t, sums, 3);
  if (ThreadIndex() < 3) sums[ThreadIndex()] = 0;
  ClearBins(top);
  SyncThreads();
  // min_p is relative to the best token, which always stays.
  const int64_t of_best = int64_t{1} << (kMassBits - row.mass_shift);
  const double limit = static_cast<double>(min_p < 1 ? min_p : 1) * static_cast<double>(of_best);
  int64_t mine[3] = {0, 0, 0};
  NSA_UNROLL_BY(2)
  for (int i = ThreadIndex(); i < row.size; i += kSampleThreads) {
    const float logit = row.logits[i];
    const int64_t mass = MassOf(row, logit);
    if (mass == 0) continue;
    AddToBin(top, KeyOf(logit) >> kTopShift, mass);
    mine[0] += mass;
    mine[1] += 1;
    if (static_cast<double>(mass) >= limit) mine[2] += mass;
  }
  NSA_UNROLL
  for (int i = 0; i < 3; ++i) {
    const int64_t of_warp = WarpSum(mine[i]);
    if (LaneIndex() == 0) AtomicAdd(&sums[i], of_warp);
  }
  SyncThreads();
  return {{sums[0], sums[1]}, min_p > 1 ? of_best : sums[2]};
}

/// Tokens whose keys begin with `prefix`, into the bins of the digit behind it.
NSA_DEVICE void CountPart(const SampleRow& row, uint32_t prefix, int prefix_shift, int digit_shift,
                          const Bins& part) {
  ClearBins(part);
  SyncThreads();
  const uint32_t digits = (uint32_t{1} << (prefix_shift - digit_shift)) - 1;
  NSA_UNROLL_BY(4)
  for (int i = ThreadIndex(); i < row.size; i += kSampleThreads) {
    const float logit = row.logits[i];
    const uint32_t key = KeyOf(logit);
    if (key >> prefix_shift != prefix) continue;
    const int64_t mass = MassOf(row, logit);
    if (mass > 0) AddToBin(part, key >> digit_shift & digits, mass);
  }
  SyncThreads();
}

struct Bin {
  int index;
  Amount before;
};

/// The bin in which the goal is reached, by one thread.
NSA_DEVICE Bin WalkBins(const Bins& bins, const Amount* groups, Amount before, const Goal& goal) {
  int group = 0;
  while (group < kBinGroups && !Reaches(goal, Sum(before, groups[group]))) {
    before = Sum(before, groups[group++]);
  }
  DeviceCheck(group < kBinGroups);
  int bin = group * (kBins / kBinGroups);
  while (bin < kBins - 1 && !Reaches(goal, Sum(before, BinAt(bins, bin)))) {
    before = Sum(before, BinAt(bins, bin++));
  }
  return {bin, before};
}

/// The same for all threads, with what is before the bins.
NSA_DEVICE Bin FindBin(const Bins& bins, const Amount& before, const Goal& goal) {
  constexpr int kGroupBins = kBins / kBinGroups;
  NSA_SHARED(Amount, groups, kBinGroups);
  NSA_SHARED(Bin, found, 1);
  if (ThreadIndex() < kBinGroups) {
    Amount sum = {0, 0};
    for (int i = 0; i < kGroupBins; ++i) {
      // Each lane begins elsewhere: all in one bank would wait for each other.
      const int bin = ThreadIndex() * kGroupBins + (i + ThreadIndex()) % kGroupBins;
      sum = Sum(sum, BinAt(bins, bin));
    }
    groups[ThreadIndex()] = sum;
  }
  SyncThreads();
  if (ThreadIndex() == 0) found[0] = WalkBins(bins, &groups[0], before, goal);
  SyncThreads();
  return found[0];
}

/// Of a row whose top digits are counted.
NSA_DEVICE Place FindPlace(const SampleRow& row, const Bins& top, const Bins& part,
                           const Goal& goal) {
  Bin bin = FindBin(top, {0, 0}, goal);
  auto key = static_cast<uint32_t>(bin.index);
  for (int shift = kTopShift; shift > 0;) {
    const int next = shift > kDigitBits ? shift - kDigitBits : 0;
    CountPart(row, key, shift, next, part);
    bin = FindBin(part, bin.before, goal);
    key = key << (shift - next) | static_cast<uint32_t>(bin.index);
    shift = next;
  }
  return {key, bin.before};
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_SAMPLE_SELECT_H_
