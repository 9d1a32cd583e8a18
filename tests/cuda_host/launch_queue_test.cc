#include "kernels/cuda/launch_queue.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

/// x[i] = 2·x[i] + addend, an element a CTA: the order of launches shows.
struct StepArgs {
  double* x;
  double addend;
};
NSA_KERNEL(32) StepKernel(NSA_ARGS StepArgs a) {
  if (ThreadIndex() == 0) a.x[CtaX()] = 2 * a.x[CtaX()] + a.addend;
}
NSA_KERNEL(32) OtherKernel(NSA_ARGS StepArgs a) {
  if (ThreadIndex() == 0) a.x[CtaX()] = 3 * a.x[CtaX()] - a.addend;
}

constexpr int kNumLaunches = 20;

class LaunchQueueTest : public testing::Test {
 protected:
  /// A step's launches; `with_other` makes another chain.
  void Enqueue(Stream& stream, std::vector<double>& x, double addend, bool with_other = false) {
    const LaunchShape shape = {
        .name = "step", .grid_x = static_cast<int64_t>(x.size()), .num_threads = 32};
    for (int i = 0; i < kNumLaunches; ++i) {
      const StepArgs args = {x.data(), addend + (i == 7 ? 1 : 0)};
      Launch(stream, shape, with_other && i == 3 ? OtherKernel : StepKernel, args);
    }
  }
  /// What the launches give without a queue.
  std::vector<double> Expected(std::vector<double> x, double addend, bool with_other = false) {
    Stream stream;
    Enqueue(stream, x, addend, with_other);
    return x;
  }
  void Step(std::vector<double>& x, double addend, bool with_other = false) {
    const std::vector<double> expected = Expected(x, addend, with_other);
    Enqueue(stream_, x, addend, with_other);
    EXPECT_NE(x, expected);  // nothing runs before the flush
    queue_.Flush(stream_);
    EXPECT_EQ(x, expected);
  }

  LaunchQueue queue_;
  Stream stream_ = {.handle = nullptr, .queue = &queue_};
};

TEST_F(LaunchQueueTest, TheSecondStepMakesAGraph) {
  std::vector<double> x(4, 1.0);
  Step(x, 0.5);
  EXPECT_EQ(queue_.counts().direct_launches, kNumLaunches);
  EXPECT_EQ(queue_.counts().graphs_made, 0);
  for (int step = 0; step < 3; ++step) Step(x, 0.5);
  EXPECT_EQ(queue_.counts().direct_launches, kNumLaunches);
  EXPECT_EQ(queue_.counts().graphs_made, 1);
  EXPECT_EQ(queue_.counts().graph_launches, 3);
  EXPECT_EQ(queue_.counts().updates, 0);
}

TEST_F(LaunchQueueTest, ChangedArgumentsAreExchanged) {
  std::vector<double> x(4, 1.0), y(4, 2.0);
  for (int step = 0; step < 2; ++step) Step(x, 0.5);
  Step(x, 0.25);
  EXPECT_EQ(queue_.counts().updates, kNumLaunches);
  Step(y, 0.25);
  EXPECT_EQ(queue_.counts().updates, 2 * kNumLaunches);
  EXPECT_EQ(queue_.counts().graphs_made, 1);
  EXPECT_EQ(queue_.counts().graph_launches, 3);
}

TEST_F(LaunchQueueTest, EachShapeHasItsGraph) {
  std::vector<double> x(4, 1.0), wide(8, 1.0);
  for (int step = 0; step < 3; ++step) {
    Step(x, 0.5);
    Step(wide, 0.5);
    Step(x, 0.5, /*with_other=*/true);
  }
  EXPECT_EQ(queue_.counts().graphs_made, 3);
  EXPECT_EQ(queue_.counts().graph_launches, 6);
}

TEST_F(LaunchQueueTest, EachAreaOfInputsHasItsGraph) {
  std::vector<double> x(4, 1.0), y(4, 1.0);
  for (int step = 0; step < 8; ++step) {
    Enqueue(stream_, step % 2 == 0 ? x : y, 0.5);
    queue_.Flush(stream_, step % 2);
  }
  EXPECT_EQ(x, y);
  EXPECT_EQ(queue_.counts().graphs_made, 2);
  EXPECT_EQ(queue_.counts().graph_launches, 6);
  EXPECT_EQ(queue_.counts().updates, 0);
}

TEST_F(LaunchQueueTest, ManyShapesPushTheOldestOut) {
  for (int round = 0; round < 2; ++round) {
    for (size_t size = 1; size <= 48; ++size) {
      std::vector<double> x(size, 1.0);
      Step(x, 0.5);
      Step(x, 0.75);
    }
  }
  std::vector<double> x(24, 1.0);
  Step(x, 0.5);
  EXPECT_GE(queue_.counts().graphs_made, 48);
}

TEST_F(LaunchQueueTest, FewLaunchesGoOneByOne) {
  std::vector<double> x(2, 1.0);
  const LaunchShape shape = {.name = "step", .grid_x = 2, .num_threads = 32};
  for (int step = 0; step < 3; ++step) {
    Launch(stream_, shape, StepKernel, StepArgs{x.data(), 1.0});
    queue_.Flush(stream_);
  }
  EXPECT_EQ(x[0], 15.0);
  EXPECT_EQ(queue_.counts().graphs_made, 0);
  EXPECT_EQ(queue_.counts().direct_launches, 3);
  queue_.Flush(stream_);  // of nothing
  EXPECT_EQ(queue_.counts().direct_launches, 3);
}

}  // namespace
}  // namespace nsa::kernels::cuda
