#ifndef NSA_TESTS_KERNELS_GEMM_CASES_H_
#define NSA_TESTS_KERNELS_GEMM_CASES_H_

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/ops/gemm.h"
#include "kernels/quant.h"
#include "kernels/reference/reference.h"

/// Weights and calls that every backend's gemm is tested with.
namespace nsa::kernels {

inline constexpr WeightType kQuantised[] = {WeightType::kQ4_0, WeightType::kQ4_1, WeightType::kQ5_0,
                                            WeightType::kQ5_1, WeightType::kQ8_0, WeightType::kQ4_K,
                                            WeightType::kQ5_K, WeightType::kQ6_K};
inline constexpr WeightType kDense[] = {WeightType::kF32, WeightType::kF16, WeightType::kBF16};

inline std::vector<float> RandomFloats(std::mt19937& rng, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(rng);
  return values;
}

inline uint16_t RandomHalf(std::mt19937& rng) {
  return F32ToF16(std::uniform_real_distribution<float>(-0.02f, 0.02f)(rng));
}

/// Random bytes with sane float16 scales: every value of q and of the small integer scales occurs.
struct Weights {
  Weights(std::mt19937& rng, WeightType type, int64_t num_rows, int64_t num_columns) {
    const WeightBlock& block = *FindWeightBlock(type);
    bytes.resize(static_cast<size_t>(num_rows * RowBytes(type, num_columns)));
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng());
    for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(block.num_bytes)) {
      if (type == WeightType::kF32) {
        const float value = F16ToF32(RandomHalf(rng));
        std::memcpy(&bytes[at], &value, 4);
      } else if (type == WeightType::kBF16) {
        SetHalf(at, F32ToBF16(F16ToF32(RandomHalf(rng))));
      } else {
        SetHalf(type == WeightType::kQ6_K ? at + 208 : at, RandomHalf(rng));
      }
      if (type == WeightType::kQ4_1 || type == WeightType::kQ5_1 || type == WeightType::kQ4_K ||
          type == WeightType::kQ5_K) {
        SetHalf(at + 2, RandomHalf(rng));
      }
    }
    matrix = {bytes.data(), type, num_rows, num_columns};
  }
  void SetHalf(size_t at, uint16_t value) { std::memcpy(&bytes[at], &value, 2); }

  std::vector<uint8_t> bytes;
  WeightMatrix matrix;
};

struct Call {
  int64_t num_rows = 1;
  int64_t x_gap = 0;  // floats between rows of x
  int64_t y_gap = 0;
  const float* bias = nullptr;
  bool accumulate = false;
  float scale = 1;
};

inline constexpr float kUntouched = 12345.0f;

inline GemmParams MakeParams(int64_t num_outputs, int64_t num_columns, const Call& call,
                             const std::vector<float>& x, std::vector<float>& y) {
  GemmParams p;
  p.x = x.data();
  p.x_stride = num_columns + call.x_gap;
  p.y_stride = num_outputs + call.y_gap;
  y.resize(static_cast<size_t>(call.num_rows * p.y_stride) + 1, kUntouched);
  p.y = y.data();
  p.num_rows = call.num_rows;
  p.bias = call.bias;
  p.accumulate = call.accumulate;
  p.scale = call.scale;
  return p;
}
inline GemmParams MakeParams(const PackedMatrix& w, const Call& call, const std::vector<float>& x,
                             std::vector<float>& y) {
  GemmParams p = MakeParams(w.num_rows(), w.num_columns(), call, x, y);
  p.w = &w;
  return p;
}

inline std::vector<float> RunReference(const PackedMatrix& w, const Call& call,
                                       const std::vector<float>& x) {
  std::vector<float> y;
  reference::Gemm(MakeParams(w, call, x, y));
  return y;
}

}  // namespace nsa::kernels

#endif  // NSA_TESTS_KERNELS_GEMM_CASES_H_
