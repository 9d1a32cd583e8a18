#ifndef NSA_KERNELS_CUDA_CHOOSE_BLOCKS_H_
#define NSA_KERNELS_CUDA_CHOOSE_BLOCKS_H_

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/device.h"
#include "kernels/cuda/reduce.h"

/// The n best of many scored blocks, exactly: ties go to the lower index.
namespace nsa::kernels::cuda {

/// Scores ≥ 0 in the order of their bits. 0 is never chosen; forced blocks stand above all scores.
inline constexpr int kKeyBits = 31;
inline constexpr uint32_t kForcedKey = 0x7FFFFFFF;
NSA_DEVICE uint32_t KeyOf(float score) { return score >= 0 ? FloatBits(score) + 1 : 0; }

/// Of a CTA that chooses: a warp for a few hundred candidates, so that nobody waits for others.
inline constexpr int kMaxChooserThreads = 1024;
inline int NumChooserThreads(int64_t num_candidates) {
  const int64_t warps = std::clamp<int64_t>(num_candidates / 512, 1, 32);
  return static_cast<int>(warps) * kWarpSize;
}
/// Keys are read in each of up to 31 passes: from shared memory where they fit with room to spare.
constexpr int64_t NumSharedKeys(int64_t num_candidates) {
  constexpr int64_t kMaxKeys = 32768;
  return num_candidates <= kMaxKeys ? num_candidates : 0;
}
/// Dynamic shared memory: keys, then two numbers a warp, twice.
inline int64_t ChooserBytes(int64_t num_candidates) {
  return CeilDiv(NumSharedKeys(num_candidates), 4) * 16 + int64_t{4} * kWarpSize * 4;
}

/// How many there are of two kinds.
struct Counts {
  uint32_t above;
  uint32_t ties;
};

/// What the CTA's warps counted, before this warp and in all. Which of two places in shared memory
/// they use alternates, so that one barrier is enough.
class CtaCounter {
 public:
  explicit NSA_DEVICE CtaCounter(uint32_t* memory) : memory_(memory) {}

  /// `mine` is the warp's, in every lane.
  NSA_DEVICE Counts Add(const Counts& mine, Counts& before) {
    uint32_t* counts = memory_ + turn_ * 2 * kWarpSize;
    turn_ ^= 1;
    const int num_warps = NumThreads() / kWarpSize;
    before = {0, 0};
    if (num_warps == 1) return mine;
    if (LaneIndex() == 0) {
      counts[2 * WarpIndex()] = mine.above;
      counts[2 * WarpIndex() + 1] = mine.ties;
    }
    SyncThreads();
    Counts all = {0, 0};
    for (int w = 0; w < num_warps; ++w) {
      if (w == WarpIndex()) before = all;
      all = {all.above + counts[2 * w], all.ties + counts[2 * w + 1]};
    }
    return all;
  }

 private:
  uint32_t* memory_;  // [2, kWarpSize, 2]
  int turn_ = 0;
};

NSA_DEVICE uint32_t WarpSumOfCounts(uint32_t x) {
  for (int step = kWarpSize / 2; step > 0; step /= 2) x += ShuffleXor(x, step);
  return x;
}

/// Keys at or above `least`.
NSA_DEVICE uint32_t CountFrom(const uint32_t* keys, int size, uint32_t least, CtaCounter& counter) {
  uint32_t count = 0;
  for (int i = ThreadIndex(); i < size; i += NumThreads()) count += keys[i] >= least ? 1 : 0;
  Counts before;
  return counter.Add({WarpSumOfCounts(count), 0}, before).above;
}

/// The largest key that n keys reach, bit by bit; 1 where fewer than n may be chosen.
NSA_DEVICE uint32_t NthKey(const uint32_t* keys, int size, uint32_t n, CtaCounter& counter) {
  uint32_t threshold = 0;
  for (int bit = kKeyBits - 1; bit >= 0; --bit) {
    const uint32_t higher = threshold | uint32_t{1} << bit;
    // A warp goes one way, whatever its lanes read.
    const uint32_t count = Shuffle(CountFrom(keys, size, higher, counter), 0);
    if (count >= n) threshold = higher;
    if (count == n) break;
  }
  return threshold == 0 ? 1 : threshold;
}

NSA_DEVICE uint32_t Least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/// Writes the best n of keys[0, size) in rising order and returns how many there are, to all
/// threads. `num_shared_keys` is NumSharedKeys of what ChooserBytes of the launch was told.
NSA_DEVICE uint32_t ChooseBlocks(const uint32_t* keys, int size, uint32_t n, int num_shared_keys,
                                 int32_t* selected) {
  SharedArena arena;
  auto* copy = arena.Take<uint32_t>(num_shared_keys);
  CtaCounter counter(arena.Take<uint32_t>(4 * kWarpSize));
  if (num_shared_keys > 0) {
    for (int i = ThreadIndex(); i < size; i += NumThreads()) copy[i] = keys[i];
    keys = copy;
  }
  // Nobody waits for the copy: each thread reads those keys alone that it wrote.
  const uint32_t threshold = NthKey(keys, size, n, counter);
  const uint32_t num_ties = n - CountFrom(keys, size, threshold + 1, counter);
  Counts so_far = {0, 0};
  for (int first = 0; first < size; first += NumThreads()) {
    const int i = first + ThreadIndex();
    const uint32_t key = i < size ? keys[i] : 0;
    const uint32_t above = Ballot(key > threshold), ties = Ballot(key == threshold);
    Counts before;
    const Counts all = counter.Add(
        {static_cast<uint32_t>(BitCount(above)), static_cast<uint32_t>(BitCount(ties))}, before);
    const uint32_t lower_lanes = (uint32_t{1} << LaneIndex()) - 1;
    const uint32_t above_before =
        so_far.above + before.above + static_cast<uint32_t>(BitCount(above & lower_lanes));
    const uint32_t ties_before =
        so_far.ties + before.ties + static_cast<uint32_t>(BitCount(ties & lower_lanes));
    const uint32_t place = above_before + Least(ties_before, num_ties);
    const bool is_chosen = key > threshold || (key == threshold && ties_before < num_ties);
    if (is_chosen && place < n) selected[place] = i;  // < n: a list has no more room
    so_far = {so_far.above + all.above, so_far.ties + all.ties};
  }
  return Least(n, so_far.above + Least(so_far.ties, num_ties));
}

}  // namespace nsa::kernels::cuda

#endif  // NSA_KERNELS_CUDA_CHOOSE_BLOCKS_H_
