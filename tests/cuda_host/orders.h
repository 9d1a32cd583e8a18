#ifndef NSA_TESTS_CUDA_HOST_ORDERS_H_
#define NSA_TESTS_CUDA_HOST_ORDERS_H_

#include <gtest/gtest.h>

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
/// same bits in every order of threads and CTAs.
template <typename Run>
bool IsSameInEveryOrder(Run&& run) {
  SetOrder(kOrders[0]);
  const auto expected = run();
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

/// What run() returns, which must not depend on the order.
template <typename Run>
auto InEveryOrder(Run&& run) {
  EXPECT_TRUE(IsSameInEveryOrder(run)) << "a race: results depend on the order of threads";
  return run();
}

/// Whether the race checker misses each barrier of run()'s kernels in turn: that it would see the
/// race if somebody forgot it, and that there is none too many. Names those that it does not miss.
template <typename Run>
void ExpectEveryBarrierIsMissed(Run&& run) {
  ForgetBarriers();
  run();
  const std::vector<std::source_location> barriers = BarriersSeen();
  EXPECT_FALSE(barriers.empty());
  for (const std::source_location& barrier : barriers) {
    SkipBarrier(&barrier);
    EXPECT_FALSE(IsSameInEveryOrder(run)) << barrier.file_name() << ":" << barrier.line();
  }
  SkipBarrier(nullptr);
}

}  // namespace nsa::cuda_host

#endif  // NSA_TESTS_CUDA_HOST_ORDERS_H_
