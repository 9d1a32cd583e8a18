#ifndef NSA_TESTS_CUDA_HOST_CMP_CALL_H_
#define NSA_TESTS_CUDA_HOST_CMP_CALL_H_

#include <cstdint>
#include <vector>

#include "kernels/ops/cmp_attn.h"
#include "tests/kernels/attention_cases.h"

namespace nsa::kernels {

inline constexpr float kUntouched = 12345;

/// What a call of compressed attention is asked for.
struct CmpWanted {
  int64_t max_page_distance = -1;
  bool out = true;
  bool scores = true;
  bool lse = true;
};

/// Outputs, log-sum-exps and scores of rows, untouched where they were not wanted.
struct CmpLeft {
  std::vector<float> out;
  std::vector<float> lse;
  std::vector<float> scores;

  std::vector<float> All() const {
    std::vector<float> all = out;
    all.insert(all.end(), lse.begin(), lse.end());
    all.insert(all.end(), scores.begin(), scores.end());
    return all;
  }
};

/// A call that leaves what is wanted in `left`.
inline CmpAttnParams CmpParamsOf(const AttentionWorld& world,
                                 const std::vector<AttentionSegment>& segments,
                                 const CmpWanted& wanted, CmpLeft& left) {
  const AttentionCase& c = world.test_case();
  const AttentionResult result = world.MakeResult();
  left = {result.out, result.lse, {}};
  CmpAttnParams params = {world.Query(segments),    c.length, c.stride,
                          wanted.max_page_distance, {},       {}};
  params.scores.stride = CmpScoreStride(world.num_pages(), c.stride);
  // A split behind the last row: where a barrier is missed, scores land there.
  left.scores.assign(world.num_rows() * world.num_q_heads() * params.scores.stride + 512,
                     kUntouched);
  params.scores.data = wanted.scores ? left.scores.data() : nullptr;
  params.result = {wanted.out ? left.out.data() : nullptr, wanted.lse ? left.lse.data() : nullptr};
  return params;
}

inline void ExpectClose(const CmpLeft& actual, const CmpLeft& expected, float tolerance) {
  ExpectClose(actual.out, expected.out, tolerance);
  ExpectClose(actual.lse, expected.lse, tolerance);
  ExpectClose(actual.scores, expected.scores, tolerance);
}

}  // namespace nsa::kernels

#endif  // NSA_TESTS_CUDA_HOST_CMP_CALL_H_
