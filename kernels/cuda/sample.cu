#include <cstdint>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sample_order.h"
#include "kernels/cuda/sample_select.h"
#include "kernels/sampling.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kMaskWords = kBins;  // of ids that are looked at together

struct Args {
  const SampleParams* rows;  // [grid_x] on the device, or null
  SampleParams one;
};

NSA_DEVICE bool HasNan(const SampleParams& p) {
  NSA_SHARED(uint32_t, found, 1);
  if (ThreadIndex() == 0) found[0] = 0;
  SyncThreads();
  bool mine = false;
  NSA_UNROLL_BY(4)
  for (int64_t i = ThreadIndex(); i < p.vocabulary_size; i += kSampleThreads) {
    mine |= p.logits[i] != p.logits[i];
  }
  if (mine) AtomicOr(&found[0], uint32_t{1});
  SyncThreads();
  return found[0] != 0;
}

NSA_DEVICE float& LogitOf(const SampleParams& p, int32_t token_id) {
  DeviceCheck(token_id >= 0 && token_id < p.vocabulary_size);
  return p.logits[token_id];
}

/// A token may have several biases, which are added in their order by the first one's thread.
NSA_DEVICE void AddBiases(const SampleParams& p) {
  for (int64_t i = ThreadIndex(); i < p.num_biases; i += kSampleThreads) {
    const int32_t token_id = p.biases[i].token_id;
    bool is_first = true;
    for (int64_t j = 0; j < i; ++j) is_first = is_first && p.biases[j].token_id != token_id;
    if (!is_first) continue;
    float& logit = LogitOf(p, token_id);
    for (int64_t j = i; j < p.num_biases; ++j) {
      if (p.biases[j].token_id == token_id) logit += p.biases[j].bias;
    }
  }
}

/// Through a mask, a bit an id, of a part of the vocabulary after the other.
NSA_DEVICE void KeepAllowedOnly(const SampleParams& p, uint32_t* mask) {
  constexpr int64_t kIds = int64_t{32} * kMaskWords;
  for (int64_t begin = 0; begin < p.vocabulary_size; begin += kIds) {
    for (int i = ThreadIndex(); i < kMaskWords; i += kSampleThreads) mask[i] = 0;
    SyncThreads();
    for (int64_t i = ThreadIndex(); i < p.num_allowed; i += kSampleThreads) {
      const int64_t id = p.allowed[i] - begin;
      DeviceCheck(p.allowed[i] >= 0 && p.allowed[i] < p.vocabulary_size);
      if (id >= 0 && id < kIds) AtomicOr(&mask[id / 32], uint32_t{1} << id % 32);
    }
    SyncThreads();
    for (int64_t id = ThreadIndex(); id < kIds; id += kSampleThreads) {
      if (begin + id >= p.vocabulary_size) break;
      if ((mask[id / 32] >> id % 32 & 1) == 0) p.logits[begin + id] = -Infinity();
    }
    SyncThreads();
  }
}

/// AdjustLogits of kernels/sampling.h. Between two steps threads wait: both may change one logit.
NSA_DEVICE void AdjustOnDevice(const SampleParams& p, uint32_t* mask) {
  if (p.num_counts > 0) {
    for (int64_t i = ThreadIndex(); i < p.num_counts; i += kSampleThreads) {
      float& logit = LogitOf(p, p.counts[i].token_id);
      logit = Penalise(p, p.counts[i], logit);
    }
    SyncThreads();
  }
  if (p.num_biases > 0) {
    AddBiases(p);
    SyncThreads();
  }
  if (p.allowed != nullptr) KeepAllowedOnly(p, mask);
  if (p.num_banned > 0) {
    for (int64_t i = ThreadIndex(); i < p.num_banned; i += kSampleThreads) {
      LogitOf(p, p.banned[i]) = -Infinity();
    }
    SyncThreads();
  }
}

/// The smallest mass of all prefixes of the order that top_k, top_p or min_p keep.
NSA_DEVICE int64_t KeptMass(const SampleParams& p, const SampleRow& row, const Bins& top,
                            const Bins& part, const Totals& totals) {
  int64_t kept = totals.all.mass;
  if (p.top_k > 0 && p.top_k < totals.all.count) {
    const Place place = FindPlace(row, top, part, {true, p.top_k});
    kept = place.before.mass + (p.top_k - place.before.count) * MassOf(row, LogitOfKey(place.key));
  }
  if (p.top_p < 1) {
    const auto wanted =
        static_cast<int64_t>(RoundUp(static_cast<double>(p.top_p) * static_cast<double>(kept)));
    const int64_t least = wanted > 1 ? wanted : 1;
    const Place place = FindPlace(row, top, part, {false, least});
    const int64_t mass = MassOf(row, LogitOfKey(place.key));
    kept = place.before.mass + (Quotient(least - 1 - place.before.mass, mass) + 1) * mass;
  }
  return totals.above_min_p < kept ? totals.above_min_p : kept;
}

/// Draws among tokens by their masses, in the order of logits: the first at which the sum exceeds
/// the drawn part of what is kept.
NSA_DEVICE int32_t Draw(const SampleParams& p, float best, const Bins& top, const Bins& part) {
  const SampleRow row = {p.logits, static_cast<int>(p.vocabulary_size), static_cast<double>(best),
                         1.0 / static_cast<double>(p.temperature), MassShiftOf(p.vocabulary_size)};
  const Totals totals = CountAll(row, p.min_p, top);
  const auto kept = static_cast<uint64_t>(KeptMass(p, row, top, part, totals));
  const auto target = static_cast<int64_t>(MultiplyHigh(DrawBits(p.seed, p.step) << 11, kept));
  const Place place = FindPlace(row, top, part, {false, target + 1});
  const int64_t rank = Quotient(target - place.before.mass, MassOf(row, LogitOfKey(place.key)));
  return IdOf(row, place.key, static_cast<int>(rank));
}

/// Its result, the same in every thread.
NSA_DEVICE int32_t SampleOne(const SampleParams& p, const Bins& top, const Bins& part) {
  DeviceCheck(p.vocabulary_size < kMaxVocabulary);
  if (HasNan(p)) return kLogitsNan;
  AdjustOnDevice(p, part.low);
  const Best best = FindBest(p.logits, static_cast<int>(p.vocabulary_size));
  if (best.id < 0) return kNoToken;
  if (p.temperature == 0 || p.top_k == 1 || best.logit == Infinity()) return best.id;
  return Draw(p, best.logit, top, part);
}

/// A CTA a row.
NSA_KERNEL(kSampleThreads) SampleKernel(NSA_ARGS Args args) {
  const SampleParams& p = args.rows == nullptr ? args.one : args.rows[CtaX()];
  SharedArena arena;
  const auto take = [&arena] {
    return Bins{arena.Take<uint32_t>(kBins), arena.Take<uint32_t>(kBins),
                arena.Take<uint32_t>(kBins)};
  };
  const Bins top = take(), part = take();
  const int32_t token_id = SampleOne(p, top, part);
  if (ThreadIndex() == 0) *p.token_id = token_id;
}

void LaunchRows(Stream& stream, int64_t num_rows, const Args& args) {
  Launch(stream,
         {.name = "sample",
          .grid_x = num_rows,
          .num_threads = kSampleThreads,
          .shared_bytes = 6 * kBins * int64_t{sizeof(uint32_t)}},
         SampleKernel, args);
}

}  // namespace

void Sample(Stream& stream, const SampleParams& params) {
  LaunchRows(stream, 1, {nullptr, params});
}

void SampleBatch(Stream& stream, const SampleParams* rows, int64_t num_rows) {
  LaunchRows(stream, num_rows, {rows, {}});
}

}  // namespace nsa::kernels::cuda
