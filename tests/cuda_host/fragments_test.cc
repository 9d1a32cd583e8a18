#include "tests/cuda_host/fragments.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels/cuda/launch.h"
#include "tests/cuda_host/orders.h"

namespace nsa::cuda_host {
namespace {

using namespace kernels::cuda;  // NOLINT(google-build-using-namespace): kernels live there

/// Small integers, which both types hold exactly and whose sums are exact.
template <typename T>
std::vector<T> Integers(int count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<T> x(static_cast<size_t>(count));
  for (T& value : x) {
    const float integer = static_cast<float>(static_cast<int>(random() % 17) - 8);
    if constexpr (std::is_same_v<T, Bf16>) {
      value = ToBf16(integer);
    } else {
      value = ToF16(integer);
    }
  }
  return x;
}

/// c + a·b of a [16, 16], b [16, 8], c [16, 8], row-major.
template <typename T>
std::vector<float> Product(const std::vector<T>& a, const std::vector<T>& b) {
  std::vector<float> c(16 * 8);
  for (int i = 0; i < 16 * 8; ++i) {
    c[i] = static_cast<float>(i);
    for (int k = 0; k < 16; ++k) c[i] += ToFloat(a[i / 8 * 16 + k]) * ToFloat(b[k * 8 + i % 8]);
  }
  return c;
}

using Layout = Element (*)(int lane, int i, int half);

/// The same by one Mma, with operands laid out as `layout_a` and FragmentB say.
template <typename T>
std::vector<float> MmaProduct(const std::vector<T>& a, const std::vector<T>& b, Layout layout_a) {
  std::vector<float> c(16 * 8);
  RunLaunch({.name = "mma", .num_threads = 32}, [&] {
    const int lane = LaneIndex();
    uint32_t fragment_a[4] = {}, fragment_b[2] = {};
    float d[4];
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) {
        const Element at = layout_a(lane, i, half);
        fragment_a[i] |= uint32_t{a[at.row * 16 + at.column].bits} << 16 * half;
      }
      for (int i = 0; i < 2; ++i) {
        const Element at = FragmentB(lane, i, half);
        fragment_b[i] |= uint32_t{b[at.row * 8 + at.column].bits} << 16 * half;
      }
    }
    for (int i = 0; i < 4; ++i) {
      const Element at = FragmentC(lane, i);
      d[i] = static_cast<float>(at.row * 8 + at.column);
    }
    Mma(d, fragment_a, fragment_b, T{});
    for (int i = 0; i < 4; ++i) {
      const Element at = FragmentC(lane, i);
      c[at.row * 8 + at.column] = d[i];
    }
  });
  return c;
}

// Written out from the PTX ISA's figures, lane by lane, without the formulas of fragments.h.
TEST(FragmentsTest, PlacesOfTheFigures) {
  const auto is = [](Element at, int row, int column) {
    return at.row == row && at.column == column;
  };
  EXPECT_TRUE(is(FragmentA(0, 0, 0), 0, 0) && is(FragmentA(0, 0, 1), 0, 1));
  EXPECT_TRUE(is(FragmentA(0, 1, 0), 8, 0) && is(FragmentA(0, 2, 0), 0, 8));
  EXPECT_TRUE(is(FragmentA(0, 3, 1), 8, 9) && is(FragmentA(31, 3, 1), 15, 15));
  EXPECT_TRUE(is(FragmentA(5, 0, 0), 1, 2) && is(FragmentA(30, 1, 1), 15, 5));
  EXPECT_TRUE(is(FragmentB(0, 0, 1), 1, 0) && is(FragmentB(0, 1, 0), 8, 0));
  EXPECT_TRUE(is(FragmentB(6, 0, 0), 4, 1) && is(FragmentB(31, 1, 1), 15, 7));
  EXPECT_TRUE(is(FragmentC(0, 1), 0, 1) && is(FragmentC(0, 2), 8, 0));
  EXPECT_TRUE(is(FragmentC(7, 0), 1, 6) && is(FragmentC(31, 3), 15, 7));
  EXPECT_TRUE(is(FragmentInt8A(0, 0, 3), 0, 3) && is(FragmentInt8A(1, 1, 0), 8, 4));
  EXPECT_TRUE(is(FragmentInt8A(0, 2, 0), 0, 16) && is(FragmentInt8A(31, 3, 3), 15, 31));
  EXPECT_TRUE(is(FragmentInt8B(0, 0, 1), 1, 0) && is(FragmentInt8B(7, 0, 0), 12, 1));
  EXPECT_TRUE(is(FragmentInt8B(0, 1, 0), 16, 0) && is(FragmentInt8B(31, 1, 3), 31, 7));
  EXPECT_TRUE(is(FragmentLoaded(0, 1, false), 0, 1) && is(FragmentLoaded(0, 1, true), 1, 0));
  EXPECT_TRUE(is(FragmentLoaded(9, 0, false), 2, 2) && is(FragmentLoaded(9, 0, true), 2, 2));
  EXPECT_TRUE(is(FragmentLoaded(31, 1, false), 7, 7) && is(FragmentLoaded(4, 0, true), 0, 1));
}

template <typename T>
void ExpectMmaIsTheProduct() {
  const std::vector<T> a = Integers<T>(16 * 16, 1), b = Integers<T>(16 * 8, 2);
  EXPECT_EQ(InEveryOrder([&] { return MmaProduct<T>(a, b, FragmentA); }), Product(a, b));
}

TEST(FragmentsTest, MmaIsTheProduct) {
  ExpectMmaIsTheProduct<Bf16>();
  ExpectMmaIsTheProduct<F16>();
}

// Registers 1 and 2 of A are easily taken one for the other.
TEST(FragmentsTest, AWrongLayoutShows) {
  const std::vector<Bf16> a = Integers<Bf16>(16 * 16, 1), b = Integers<Bf16>(16 * 8, 2);
  const Layout swapped = [](int lane, int i, int half) {
    return FragmentA(lane, i == 1 ? 2 : i == 2 ? 1 : i, half);
  };
  EXPECT_NE(MmaProduct<Bf16>(a, b, swapped), Product(a, b));
}

/// c + a·b of bytes by one MmaInt8 over 16·kHalves columns. b is column-major.
template <int kHalves>
std::vector<int32_t> Int8Product(const std::vector<int8_t>& a, const std::vector<int8_t>& b) {
  constexpr int kColumns = 16 * kHalves;
  std::vector<int32_t> c(16 * 8);
  RunLaunch({.name = "mma", .num_threads = 32}, [&] {
    const int lane = LaneIndex();
    uint32_t fragment_a[2 * kHalves] = {}, fragment_b[kHalves] = {};
    for (int byte = 0; byte < 4; ++byte) {
      for (int i = 0; i < 2 * kHalves; ++i) {
        const Element at = FragmentInt8A(lane, i, byte);
        const auto bits = static_cast<uint8_t>(a[at.row * kColumns + at.column]);
        fragment_a[i] |= uint32_t{bits} << 8 * byte;
      }
      for (int i = 0; i < kHalves; ++i) {
        const Element at = FragmentInt8B(lane, i, byte);
        const auto bits = static_cast<uint8_t>(b[at.column * kColumns + at.row]);
        fragment_b[i] |= uint32_t{bits} << 8 * byte;
      }
    }
    int32_t d[4];
    for (int i = 0; i < 4; ++i) {
      const Element at = FragmentC(lane, i);
      d[i] = at.row * 8 + at.column;
    }
    MmaInt8(d, fragment_a, fragment_b);
    for (int i = 0; i < 4; ++i) {
      const Element at = FragmentC(lane, i);
      c[at.row * 8 + at.column] = d[i];
    }
  });
  return c;
}

template <int kHalves>
void ExpectMmaInt8IsTheProduct() {
  constexpr int kColumns = 16 * kHalves;
  std::mt19937 random(6);
  std::vector<int8_t> a(16 * kColumns), b(8 * kColumns);
  for (int8_t& value : a) value = static_cast<int8_t>(random());
  for (int8_t& value : b) value = static_cast<int8_t>(random());
  std::vector<int32_t> expected(16 * 8);
  for (int i = 0; i < 16 * 8; ++i) {
    expected[i] = i;
    for (int k = 0; k < kColumns; ++k) {
      expected[i] += a[i / 8 * kColumns + k] * b[i % 8 * kColumns + k];
    }
  }
  EXPECT_EQ(InEveryOrder([&] { return Int8Product<kHalves>(a, b); }), expected);
}

TEST(FragmentsTest, MmaInt8IsTheProduct) {
  ExpectMmaInt8IsTheProduct<1>();
  ExpectMmaInt8IsTheProduct<2>();
}

TEST(FragmentsTest, LoadOnceWantsAlignedAddresses) {
  alignas(16) const uint32_t words[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  const auto load = [&](int first) {
    uint32_t last = 0;
    RunLaunch({.name = "once", .num_threads = 32},
              [&] { last = LoadOnce(reinterpret_cast<const U32x4*>(words + first)).x[3]; });
    return last;
  };
  EXPECT_EQ(load(4), 7u);
  EXPECT_THROW(load(1), Error);
}

// A by ldmatrix.x4 from rows, B by ldmatrix.x2.trans from rows: the usual way to feed an Mma.
TEST(FragmentsTest, LoadMatrixFeedsMma) {
  const std::vector<F16> a = Integers<F16>(16 * 16, 3), b = Integers<F16>(16 * 8, 4);
  const auto run = [&] {
    std::vector<float> c(16 * 8);
    RunLaunch({.name = "ldmatrix", .num_threads = 32}, [&] {
      NSA_SHARED(F16, shared_a, 16 * 16);
      NSA_SHARED(F16, shared_b, 16 * 8);
      const int lane = LaneIndex();
      for (int i = lane; i < 16 * 16; i += 32) shared_a[i] = a[i];
      for (int i = lane; i < 16 * 8; i += 32) shared_b[i] = b[i];
      SyncWarp();
      uint32_t fragment_a[4], fragment_b[2];
      LoadMatrix<false>(fragment_a, shared_a + lane % 16 * 16 + lane / 16 * 8);
      LoadMatrix<true>(fragment_b, shared_b + lane % 16 * 8);
      float d[4];
      for (int i = 0; i < 4; ++i) {
        const Element at = FragmentC(lane, i);
        d[i] = static_cast<float>(at.row * 8 + at.column);
      }
      Mma(d, fragment_a, fragment_b, F16{});
      for (int i = 0; i < 4; ++i) {
        const Element at = FragmentC(lane, i);
        c[at.row * 8 + at.column] = d[i];
      }
    });
    return c;
  };
  EXPECT_EQ(InEveryOrder(run), Product(a, b));
}

TEST(FragmentsTest, LoadMatrixOfOneAndOutside) {
  uint32_t got[32] = {};
  RunLaunch({.name = "one", .num_threads = 32}, [&] {
    NSA_SHARED(uint16_t, rows, 64);
    rows[2 * LaneIndex()] = static_cast<uint16_t>(2 * LaneIndex());
    rows[2 * LaneIndex() + 1] = static_cast<uint16_t>(2 * LaneIndex() + 1);
    SyncWarp();
    uint32_t fragment[1];
    LoadMatrix<true>(fragment, rows + LaneIndex() % 8 * 8);
    got[LaneIndex()] = fragment[0];
  });
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t first = lane % 4 * 2 * 8 + lane / 4;  // [row 2·(lane % 4)][column lane / 4]
    EXPECT_EQ(got[lane], first | (first + 8) << 16);
  }
  EXPECT_THROW(RunLaunch({.name = "outside", .num_threads = 32},
                         [&] {
                           NSA_SHARED(uint16_t, rows, 64);
                           uint32_t fragment[1];
                           LoadMatrix<false>(fragment, rows + (LaneIndex() + 1) * 8);
                         }),
               Error);
}

TEST(FragmentsTest, BytesAndBits) {
  // 127 · 127 + 1 · 2 + −1 · −1 + −128 · −128 + 5
  EXPECT_EQ(Dp4a(0x80FF017F, 0x80FF027F, 5), 32521);
  EXPECT_EQ(static_cast<uint32_t>(BitCount(0xF0000001)), 5u);
  EXPECT_EQ(FloatBits(1.5f), 0x3FC00000u);
  EXPECT_EQ(FloatOfBits(0x3FC00000u), 1.5f);
}

TEST(FragmentsTest, NansBecomeTheDevicesNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(ToBf16(-nan).bits, 0x7FFF);
  EXPECT_EQ(ToF16(-nan).bits, 0x7FFF);
}

}  // namespace
}  // namespace nsa::cuda_host
