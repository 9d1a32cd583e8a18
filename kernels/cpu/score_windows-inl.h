// From the scores of windows to those of sel_blocks, compiled once for each Highway target: no
// include guard of the usual kind.
#if defined(NSA_KERNELS_CPU_SCORE_WINDOWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef NSA_KERNELS_CPU_SCORE_WINDOWS_INL_H_
#undef NSA_KERNELS_CPU_SCORE_WINDOWS_INL_H_
#else
#define NSA_KERNELS_CPU_SCORE_WINDOWS_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/cpu/cmp_scores-inl.h"
#include "kernels/cpu/score_call.h"
#include "kernels/cpu/score_keys-inl.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::cpu {
namespace HWY_NAMESPACE {

template <typename T>
void ScoreWindowsOf(const ScoreCall& call, const RowTile& tile, const ScorePart& part,
                    float* memory, float* scores) {
  CmpScorer<T> scorer(call.params.query, call.params.stride, call.params.max_page_distance, tile,
                      part.first_kv_head, part.num_kv_heads);
  scorer.Prepare(part.first_page, part.end_page, memory);
  const int64_t stride = call.ScoreFloats(tile);
  for (int head = 0; head < part.num_kv_heads; ++head) {
    scorer.ChooseHead(head);
    scorer.Score(
        part.first_page, part.end_page, {.end_page = part.end_page},
        scores + head * call.NumQueries(tile) * stride + part.first_page * call.RowsPerPage(),
        stride);
  }
}

/// Scores of a tile's queries for some pages: scores[KV head of the part][query][cache row].
HWY_INLINE void ScoreWindows(const ScoreCall& call, const RowTile& tile, const ScorePart& part,
                             float* memory, float* scores) {
  WithCmpType(call.params.query.kv.cmp_dtype,
              [&]<typename T>(T) { ScoreWindowsOf<T>(call, tile, part, memory, scores); });
}

/// The log-sum-exp of one query's scores over windows `lse_windows` times as long; `scores` begins
/// with window 0's. `coarse` has room for a vector behind the windows.
HWY_INLINE float CoarseLogSumExp(const ScoreTopkParams& params, int64_t num_coarse,
                                 const float* HWY_RESTRICT scores, float* HWY_RESTRICT coarse) {
  const int factor = params.lse_windows, step = params.length / params.stride;
  for (int64_t j = 0; j < num_coarse; ++j) {
    float sum = 0;
    for (int i = 0; i < factor; ++i) sum += scores[j * factor + int64_t{i} * step];
    coarse[j] = sum / static_cast<float>(factor);
  }
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(F32Tag()));
  const int64_t size = (num_coarse + lanes - 1) / lanes * lanes;
  std::fill(coarse + num_coarse, coarse + size, kNegativeInfinity);
  const float maximum = FiniteMaximum(MaximumOf(size, coarse));
  return maximum + std::log(ExpInPlace(maximum, size, coarse));
}

/// Probabilities of one row's windows, reduced over the group: probabilities[cache row], 0 for rows
/// that the query does not see. Overwrites the scores ([group] × stride apart). `coarse` as
/// CoarseFloats.
HWY_INLINE void GroupProbabilities(const ScoreCall& call, const QueryRow& row, int kv_head,
                                   float* scores, int64_t stride, int64_t num_probabilities,
                                   float* HWY_RESTRICT coarse, float* HWY_RESTRICT probabilities) {
  const F32Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const ScoreTopkParams& params = call.params;
  std::fill_n(probabilities, num_probabilities, 0.0f);
  const int64_t end = call.EndRow(row.position);
  if (end == call.FirstRow()) return;
  const int64_t size = (end + lanes - 1) / lanes * lanes;
  const int64_t num_coarse = call.NumCoarseWindows(row.position);
  for (int h = 0; h < call.group; ++h) {
    float* head_scores = scores + h * stride;
    MaskOutside(call.FirstRow(), end, size, head_scores);
    float factor = params.group_reduction == GroupReduction::kMean ? 1.0f / call.group : 1.0f;
    if (params.cmp_lse != nullptr) {
      const int64_t head = int64_t{kv_head} * call.group + h;
      ExpInPlace(params.cmp_lse[row.row * params.query.num_q_heads + head],
                 std::min(size, num_probabilities), head_scores);
    } else if (num_coarse > 0) {
      const float lse = CoarseLogSumExp(params, num_coarse, head_scores + call.FirstRow(), coarse);
      ExpInPlace(lse, size, head_scores);
    } else {
      factor /= ExpInPlace(FiniteMaximum(MaximumOf(size, head_scores)), size, head_scores);
    }
    for (int64_t i = 0; i < std::min(size, num_probabilities); i += lanes) {
      const auto sum = hn::LoadU(d, probabilities + i);
      const auto weight = hn::LoadU(d, head_scores + i);
      hn::StoreU(hn::MulAdd(weight, hn::Set(d, factor), sum), d, probabilities + i);
    }
  }
}

/// keys[block] for all candidates (Eq. 9). Cache rows block·b … block·b + a + b − 2 overlap a
/// block, a = length/stride and b = sel_block_size/stride, the e-th of them in min(e + 1, a, b, a +
/// b − 1 − e) strides.
HWY_INLINE void ScoreBlocks(const ScoreCall& call, int64_t num_candidates,
                            const float* HWY_RESTRICT probabilities, int32_t* HWY_RESTRICT keys) {
  const ScoreTopkParams& params = call.params;
  const int a = params.length / params.stride;
  const int b = params.sel_block_size / params.stride;
  const int span = a + b - 1;
  if (params.block_score == BlockScore::kOverlapSum && a == 2 && b == 4) {
    for (int64_t block = 0; block < num_candidates; ++block) {
      const float* p = probabilities + block * 4;
      const float inner = (p[1] + p[2]) + p[3];
      keys[block] = ScoreKey((p[0] + p[4]) + 2 * inner);
    }
  } else if (params.block_score == BlockScore::kOverlapSum) {
    // Counting windows by their overlap is the same as this: each stride of a block gets the mass
    // of the a windows that cover it.
    for (int64_t block = 0; block < num_candidates; ++block) {
      const float* p = probabilities + block * b;
      float score = 0;
      for (int e = 0; e < b; ++e) {
        for (int i = 0; i < a; ++i) score += p[e + i];
      }
      keys[block] = ScoreKey(score);
    }
  } else {
    for (int64_t block = 0; block < num_candidates; ++block) {
      const float* p = probabilities + block * b;
      float score = 0;
      for (int e = 0; e < span; ++e) score = p[e] <= score ? score : p[e];  // keeps NaN
      keys[block] = ScoreKey(score);
    }
  }
}

/// keys[block] for the candidates of a row; `memory` as ChooserFloats. Overwrites the
/// scores ([group] × stride apart).
HWY_INLINE void WindowKeys(const ScoreCall& call, const QueryRow& row, int kv_head, float* scores,
                           int64_t stride, float* memory, int32_t* keys) {
  const int64_t num_candidates = call.NumCandidates(row.position);
  const int64_t num_probabilities = call.ProbabilityFloats(num_candidates);
  GroupProbabilities(call, row, kv_head, scores, stride, num_probabilities,
                     memory + num_probabilities, memory);
  ScoreBlocks(call, num_candidates, memory, keys);
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::cpu
HWY_AFTER_NAMESPACE();

#endif  // NSA_KERNELS_CPU_SCORE_WINDOWS_INL_H_
