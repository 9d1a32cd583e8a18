#include "kernels/grad/grad_windows.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "tests/kernels/cpu_targets.h"
#include "tests/kernels/grad_batch.h"
#include "tests/kernels/grad_windows_cases.h"

namespace nsa::kernels::grad {
namespace {

/// Results of T's operators, gradients from a fixed grad of the windows.
template <typename T>
struct Results {
  explicit Results(const WindowsCase& c)
      : gathered(c.num_windows() * c.num_heads * c.length * c.head_dim),
        mean(c.num_windows() * c.num_heads * c.head_dim),
        grad_x(c.cu_seqlens.back() * c.num_heads * c.head_dim, T{-7}),
        grad_position(int64_t{c.length} * c.head_dim, T{-7}),
        mean_grad_x(grad_x),
        x(As<T>(RandomDoubles(static_cast<int64_t>(grad_x.size()), 1))),
        position(As<T>(RandomDoubles(static_cast<int64_t>(grad_position.size()), 2))),
        grad_gathered(As<T>(RandomDoubles(static_cast<int64_t>(gathered.size()), 3))),
        grad_mean(As<T>(RandomDoubles(static_cast<int64_t>(mean.size()), 4))) {}

  std::vector<T> gathered, mean, grad_x, grad_position, mean_grad_x;
  std::vector<T> x, position, grad_gathered, grad_mean;
};

template <typename T>
Results<T> RunReference(const WindowsCase& c) {
  Results<T> r(c);
  const WindowsShape shape = c.shape();
  reference::GatherWindows<T>({shape, r.x.data(), r.position.data()}, r.gathered.data());
  reference::GatherWindowsBackward<T>(
      {shape, r.grad_gathered.data(), r.grad_x.data(), r.grad_position.data()});
  reference::MeanWindows(shape, r.x.data(), r.mean.data());
  reference::MeanWindowsBackward(shape, r.grad_mean.data(), r.mean_grad_x.data());
  return r;
}

Results<float> RunCpu(const WindowsCase& c, int num_threads) {
  Results<float> r(c);
  const WindowsShape shape = c.shape();
  kernels::cpu::Context context(num_threads);
  cpu::GatherWindows(context, {shape, r.x.data(), r.position.data()}, r.gathered.data());
  cpu::GatherWindowsBackward(
      context, {shape, r.grad_gathered.data(), r.grad_x.data(), r.grad_position.data()});
  cpu::MeanWindows(context, shape, r.x.data(), r.mean.data());
  cpu::MeanWindowsBackward(context, shape, r.grad_mean.data(), r.mean_grad_x.data());
  return r;
}

void ExpectNear(const std::vector<double>& expected, const std::vector<float>& actual) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(expected[i], actual[i], 2e-5) << i;
}

class GradWindowsTest : public CpuTargetTest {};

TEST_P(GradWindowsTest, CpuMatchesTheReferenceInDouble) {
  for (const WindowsCase& c : WindowsCases()) {
    const Results<double> expected = RunReference<double>(c);
    const Results<float> actual = RunCpu(c, 2);
    ExpectNear(expected.gathered, actual.gathered);
    ExpectNear(expected.grad_x, actual.grad_x);
    ExpectNear(expected.grad_position, actual.grad_position);
    ExpectNear(expected.mean, actual.mean);
    ExpectNear(expected.mean_grad_x, actual.mean_grad_x);
  }
}

NSA_INSTANTIATE_CPU_TARGETS(GradWindowsTest);

TEST(GradWindowsCpuTest, BitsDoNotDependOnThreads) {
  for (const WindowsCase& c : WindowsCases()) {
    const Results<float> one = RunCpu(c, 1), many = RunCpu(c, 4);
    EXPECT_EQ(one.gathered, many.gathered);
    EXPECT_EQ(one.grad_x, many.grad_x);
    EXPECT_EQ(one.grad_position, many.grad_position);
    EXPECT_EQ(one.mean, many.mean);
    EXPECT_EQ(one.mean_grad_x, many.mean_grad_x);
  }
}

// Both are linear: Σ grad·f(x) = Σ backward(grad)·x, and the same for the position.
TEST(GradWindowsReferenceTest, BackwardIsTheTranspose) {
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  };
  for (const WindowsCase& c : WindowsCases()) {
    const Results<double> r = RunReference<double>(c);
    EXPECT_NEAR(dot(r.grad_mean, r.mean), dot(r.mean_grad_x, r.x), 1e-8);
    EXPECT_NEAR(dot(r.grad_gathered, r.gathered),
                dot(r.grad_x, r.x) + dot(r.grad_position, r.position), 1e-8);
  }
}

}  // namespace
}  // namespace nsa::kernels::grad
