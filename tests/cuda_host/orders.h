#ifndef NSA_TESTS_CUDA_HOST_ORDERS_H_
#define NSA_TESTS_CUDA_HOST_ORDERS_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <source_location>
#include <utility>
#include <vector>

#include "tests/cuda_host/emulator.h"

namespace nsa::cuda_host {

inline constexpr Order kOrders[] = {{Order::Kind::kForward},
                                    {Order::Kind::kBackward},
                                    {Order::Kind::kShuffled, 1},
                                    {Order::Kind::kShuffled, 2}};

/// The race checker: whether run(), which returns a vector of what its launches wrote, gives the
/// bits of `expected` in every order of threads and CTAs.
template <typename Run, typename Result>
bool IsSameInEveryOrder(Run&& run, const Result& expected) {
  bool is_same = true;
  for (const Order& order : kOrders) {
    SetOrder(order);
    const auto actual = run();
    is_same = is_same && actual.size() == expected.size() &&
              (actual.empty() ||
               std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(actual[0])) == 0);
  }
  SetOrder(kOrders[0]);
  return is_same;
}
template <typename Run>
bool IsSameInEveryOrder(Run&& run) {
  SetOrder(kOrders[0]);
  const auto expected = run();
  return IsSameInEveryOrder(run, expected);
}

/// What run() returns, which must not depend on the order.
template <typename Run>
auto InEveryOrder(Run&& run) {
  EXPECT_TRUE(IsSameInEveryOrder(run)) << "a race: results depend on the order of threads";
  return run();
}

/// Whether the loss of a barrier shows: other bits than with it, be it in every order alike, or a
/// broken rule.
template <typename Run, typename Result>
bool IsMissed(const std::source_location& barrier, Run&& run, const Result& expected) {
  SkipBarrier(&barrier);
  bool is_missed = true;
  try {
    is_missed = !IsSameInEveryOrder(run, expected);
  } catch (const Error&) {
    SetOrder(kOrders[0]);
  }
  SkipBarrier(nullptr);
  return is_missed;
}

/// Whether the race checker misses each barrier of run()'s kernels in turn: that it would see the
/// race if somebody forgot it, and that there is none too many. Names those that it does not miss.
template <typename Run>
void ExpectEveryBarrierIsMissed(Run&& run) {
  if (!IsEmulated()) GTEST_SKIP() << "a GPU leaves no barrier out";
  ForgetBarriers();
  const auto expected = run();
  const std::vector<std::source_location> barriers = BarriersSeen();
  EXPECT_FALSE(barriers.empty());
  for (const std::source_location& barrier : barriers) {
    EXPECT_TRUE(IsMissed(barrier, run, expected)) << barrier.file_name() << ":" << barrier.line();
  }
}

/// That a launch of run() breaks a rule of CUDA.
template <typename Run>
void ExpectError(Run&& run) {
  if (!IsEmulated()) GTEST_SKIP() << "on a GPU this ends the process";
  EXPECT_THROW(run(), Error);
}

/// For operators whose results go through exp, log, tanh or FastDivide: the reference's bits where
/// the host's functions stand in for the device's. A GPU's differ by two units in the last place
/// (CUDA C++ Programming Guide, "Mathematical Functions"), some eight in all behind a sum of
/// products: within 1e-6 of the largest expected magnitude; NaN and infinity are the same.
inline void ExpectSameButForMath(const std::vector<float>& actual,
                                 const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  if (IsEmulated()) {
    EXPECT_EQ(std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)), 0);
    return;
  }
  float scale = 0;
  for (const float x : expected) {
    if (std::isfinite(x)) scale = std::max(scale, std::fabs(x));
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isfinite(expected[i])) {
      ASSERT_NEAR(actual[i], expected[i], 1e-6f * scale) << "at " << i;
    } else {
      ASSERT_TRUE(std::isnan(expected[i]) ? std::isnan(actual[i]) : actual[i] == expected[i]) << i;
    }
  }
}

}  // namespace nsa::cuda_host

#endif  // NSA_TESTS_CUDA_HOST_ORDERS_H_
