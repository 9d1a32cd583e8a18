// What kernels/cuda/device.h asks of its machine, on a GPU, beside what the emulator and
// tests/cuda_host/fragments.h take it for.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/quant.h"
#include "tests/cuda_host/fragments.h"

namespace nsa::kernels::cuda {
namespace {

using cuda_host::Element;

uint16_t HostBits(Bf16, float x) { return F32ToBF16(x); }
uint16_t HostBits(F16, float x) { return F32ToF16(x); }

/// Small integers, which both types hold exactly and whose sums are exact.
template <typename T>
std::vector<T> Integers(int count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<T> x;
  for (int i = 0; i < count; ++i) {
    x.push_back({HostBits(T{}, static_cast<float>(static_cast<int>(random() % 17) - 8))});
  }
  return x;
}

float OnHost(Bf16 x) { return BF16ToF32(x.bits); }
float OnHost(F16 x) { return F16ToF32(x.bits); }

template <typename T>
struct Matrices {
  const T* a;  // [16, 16]
  const T* b;  // [16, 8]
  float* d;    // [16, 8]: a·b + their index
};

template <typename T>
std::vector<float> Product(const std::vector<T>& a, const std::vector<T>& b) {
  std::vector<float> d(16 * 8);
  for (int i = 0; i < 16 * 8; ++i) {
    d[i] = static_cast<float>(i);
    for (int k = 0; k < 16; ++k) d[i] += OnHost(a[i / 8 * 16 + k]) * OnHost(b[k * 8 + i % 8]);
  }
  return d;
}

template <typename T>
NSA_DEVICE void MultiplyFragments(const Matrices<T>& m, const uint32_t (&a)[4],
                                  const uint32_t (&b)[2]) {
  float d[4];
  NSA_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Element at = cuda_host::FragmentC(LaneIndex(), i);
    d[i] = static_cast<float>(at.row * 8 + at.column);
  }
  Mma(d, a, b, T{});
  NSA_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Element at = cuda_host::FragmentC(LaneIndex(), i);
    m.d[at.row * 8 + at.column] = d[i];
  }
}

template <typename T>
NSA_KERNEL(32)
MmaKernel(NSA_ARGS Matrices<T> m) {
  uint32_t a[4] = {}, b[2] = {};
  NSA_UNROLL
  for (int half = 0; half < 2; ++half) {
    NSA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const Element at = cuda_host::FragmentA(LaneIndex(), i, half);
      a[i] |= uint32_t{m.a[at.row * 16 + at.column].bits} << 16 * half;
    }
    NSA_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Element at = cuda_host::FragmentB(LaneIndex(), i, half);
      b[i] |= uint32_t{m.b[at.row * 8 + at.column].bits} << 16 * half;
    }
  }
  MultiplyFragments(m, a, b);
}

/// The same with operands that come through cp.async and ldmatrix.
NSA_KERNEL(32) LoadMatrixKernel(NSA_ARGS Matrices<F16> m) {
  __shared__ alignas(16) F16 a[16 * 16];
  __shared__ alignas(16) F16 b[16 * 8];
  const int lane = LaneIndex();
  CopyAsync(a + 8 * lane, m.a + 8 * lane);
  CommitCopies();
  if (lane < 16) CopyAsync(b + 8 * lane, m.b + 8 * lane);
  CommitCopies();
  WaitCopies<0>();
  SyncWarp();
  uint32_t fragment_a[4], fragment_b[2];
  LoadMatrix<false>(fragment_a, a + lane % 16 * 16 + lane / 16 * 8);
  LoadMatrix<true>(fragment_b, b + lane % 16 * 8);
  MultiplyFragments(m, fragment_a, fragment_b);
}

template <typename T>
void ExpectMma() {
  const std::vector<T> a = Integers<T>(16 * 16, 1), b = Integers<T>(16 * 8, 2);
  std::vector<float> d(16 * 8);
  Stream stream;
  Launch(stream, {.name = "mma", .num_threads = 32}, MmaKernel<T>,
         Matrices<T>{a.data(), b.data(), d.data()});
  EXPECT_EQ(d, Product(a, b));
}

TEST(DeviceTest, MmaHasTheFragmentsOfTheEmulator) {
  ExpectMma<Bf16>();
  ExpectMma<F16>();
}

TEST(DeviceTest, LoadMatrixHasTheFragmentsOfTheEmulator) {
  const std::vector<F16> a = Integers<F16>(16 * 16, 3), b = Integers<F16>(16 * 8, 4);
  std::vector<float> d(16 * 8);
  Stream stream;
  Launch(stream, {.name = "ldmatrix", .num_threads = 32}, LoadMatrixKernel,
         Matrices<F16>{a.data(), b.data(), d.data()});
  EXPECT_EQ(d, Product(a, b));
}

struct Copies {
  const uint32_t* x;  // [64, 4]
  uint32_t* y;        // [64, 4]
};

NSA_KERNEL(64) CopyKernel(NSA_ARGS Copies c) {
  __shared__ U32x4 shared[64];
  CopyAsync(shared + ThreadIndex(), c.x + 4 * ThreadIndex(), ThreadIndex() % 3 != 0);
  CommitCopies();
  WaitCopies<0>();
  SyncThreads();
  for (int i = 0; i < 4; ++i) c.y[4 * ThreadIndex() + i] = shared[63 - ThreadIndex()].x[i];
}

TEST(DeviceTest, CopiesThatAreNotValidGiveZeros) {
  std::vector<uint32_t> x(256), y(256, 7);
  for (uint32_t i = 0; i < 256; ++i) x[i] = i + 1;
  Stream stream;
  Launch(stream, {.name = "copy", .num_threads = 64}, CopyKernel, Copies{x.data(), y.data()});
  for (uint32_t i = 0; i < 256; ++i) {
    const uint32_t source = 63 - i / 4;
    EXPECT_EQ(y[i], source % 3 == 0 ? 0 : 4 * source + i % 4 + 1) << i;
  }
}

struct Lanes {
  uint32_t* y;  // [3, 64]
};

NSA_KERNEL(64) LanesKernel(NSA_ARGS Lanes lanes) {
  const auto mine = static_cast<uint32_t>(100 * WarpIndex() + LaneIndex());
  lanes.y[ThreadIndex()] = Shuffle(mine, LaneIndex() / 8);
  lanes.y[64 + ThreadIndex()] = ShuffleXor(mine, 5);
  lanes.y[128 + ThreadIndex()] = Ballot(LaneIndex() % 3 == WarpIndex());
}

TEST(DeviceTest, LanesExchange) {
  std::vector<uint32_t> y(192);
  Stream stream;
  Launch(stream, {.name = "lanes", .num_threads = 64}, LanesKernel, Lanes{y.data()});
  uint32_t expected[2] = {};
  for (uint32_t lane = 0; lane < 32; ++lane) {
    if (lane % 3 < 2) expected[lane % 3] |= uint32_t{1} << lane;
  }
  for (uint32_t i = 0; i < 64; ++i) {
    EXPECT_EQ(y[i], 100 * (i / 32) + i % 32 / 8) << i;
    EXPECT_EQ(y[64 + i], 100 * (i / 32) + (i % 32 ^ 5)) << i;
    EXPECT_EQ(y[128 + i], expected[i / 32]) << i;
  }
}

struct Conversions {
  const float* x;
  uint16_t* bf16;
  uint16_t* f16;
  float* back;  // of both, one after the other
  int count;
};

NSA_KERNEL(256) ConvertKernel(NSA_ARGS Conversions c) {
  const int i = static_cast<int>(CtaX()) * 256 + ThreadIndex();
  if (i >= c.count) return;
  const Bf16 bf16 = ToBf16(c.x[i]);
  const F16 f16 = ToF16(c.x[i]);
  c.bf16[i] = bf16.bits;
  c.f16[i] = f16.bits;
  c.back[i] = ToFloat(bf16);
  c.back[c.count + i] = ToFloat(f16);
}

TEST(DeviceTest, ConversionsAreTheHosts) {
  std::mt19937 random(6);
  std::vector<float> x = {0.0f, -0.0f, 1e-45f, 65504, 65519, 65520, 3.4e38f};
  for (const float f : {std::numeric_limits<float>::infinity(), 1.00390625f, 1.01171875f}) {
    x.insert(x.end(), {f, -f});
  }
  while (x.size() < 100'000) x.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  const int count = static_cast<int>(x.size());
  std::vector<uint16_t> bf16(x.size()), f16(x.size());
  std::vector<float> back(2 * x.size());
  Stream stream;
  Launch(stream, {.name = "convert", .grid_x = CeilDiv(count, 256), .num_threads = 256},
         ConvertKernel, Conversions{x.data(), bf16.data(), f16.data(), back.data(), count});
  for (int i = 0; i < count; ++i) {
    const bool is_nan = std::isnan(x[i]);
    ASSERT_EQ(bf16[i], is_nan ? 0x7FFF : F32ToBF16(x[i])) << x[i];
    ASSERT_EQ(f16[i], is_nan ? 0x7FFF : F32ToF16(x[i])) << x[i];
    if (is_nan) continue;
    ASSERT_EQ(back[i], BF16ToF32(bf16[i])) << x[i];
    ASSERT_EQ(back[count + i], F16ToF32(f16[i])) << x[i];
  }
}

constexpr int kNumFunctions = 5;

struct Functions {
  const float* x;
  float* y;  // [kNumFunctions, count]
  int count;
};

NSA_KERNEL(256) FunctionsKernel(NSA_ARGS Functions f) {
  const int i = static_cast<int>(CtaX()) * 256 + ThreadIndex();
  if (i >= f.count) return;
  const float x = f.x[i];
  const float y[kNumFunctions] = {Exp(x), Log(Abs(x)), Tanh(x), Sqrt(Abs(x)), FastDivide(1.5f, x)};
  for (int k = 0; k < kNumFunctions; ++k) f.y[k * f.count + i] = y[k];
}

/// |actual − exact| in units of the last place of the exact one.
double Ulps(float actual, double exact) {
  const auto rounded = static_cast<float>(exact);
  const float next = std::nextafter(std::fabs(rounded), std::numeric_limits<float>::infinity());
  return std::fabs(actual - exact) / (next - std::fabs(rounded));
}

// What tests/cuda_host/orders.h takes for granted of results behind these (ExpectSameButForMath).
TEST(DeviceTest, FunctionsAreWithinTwoUnits) {
  std::mt19937 random(8);
  std::uniform_real_distribution<float> uniform(-80, 80);
  std::vector<float> x(100'000);
  for (float& value : x) value = uniform(random);
  const int count = static_cast<int>(x.size());
  std::vector<float> y(kNumFunctions * x.size());
  Stream stream;
  Launch(stream, {.name = "functions", .grid_x = CeilDiv(count, 256), .num_threads = 256},
         FunctionsKernel, Functions{x.data(), y.data(), count});
  double worst[kNumFunctions] = {};
  for (int i = 0; i < count; ++i) {
    const double v = x[i];
    const double exact[kNumFunctions] = {std::exp(v), std::log(std::fabs(v)), std::tanh(v),
                                         std::sqrt(std::fabs(v)), 1.5 / v};
    for (int k = 0; k < kNumFunctions; ++k) {
      worst[k] = std::max(worst[k], Ulps(y[k * count + i], exact[k]));
    }
  }
  constexpr const char* kNames[] = {"exp", "log", "tanh", "sqrt", "divide"};
  constexpr double kLimits[] = {2, 2, 2, 0.5, 2};
  for (int k = 0; k < kNumFunctions; ++k) {
    RecordProperty(kNames[k], std::to_string(worst[k]));
    EXPECT_LE(worst[k], kLimits[k]) << kNames[k];
  }
}

}  // namespace
}  // namespace nsa::kernels::cuda
