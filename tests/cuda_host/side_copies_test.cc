// Copies beside the operators, and whether the emulator sees who forgets an order.

#include "kernels/cuda/side_copies.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/launch_queue.h"
#include "kernels/cuda/runtime.h"
#include "tests/cuda_host/streams.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int64_t kCount = 4096;  // of floats: four pages of the system
constexpr int64_t kBytes = kCount * static_cast<int64_t>(sizeof(float));
constexpr int kPatience = 20;

struct FillArgs {
  float* x;
  float value;
};
NSA_KERNEL(32) FillKernel(NSA_ARGS FillArgs a) {
  for (int64_t i = ThreadIndex(); i < kCount; i += 32) a.x[i] = a.value;
}
struct AddArgs {
  const float* x;
  float* y;
};
NSA_KERNEL(32) AddKernel(NSA_ARGS AddArgs a) {
  for (int64_t i = ThreadIndex(); i < kCount; i += 32) a.y[i] = a.x[i] + 1;
}

class SideCopiesTest : public testing::Test {
 protected:
  using Direction = SideCopies::Direction;

  SideCopiesTest() {
    compute_.queue = &queue_;
    copies_ = MakeSideCopies(compute_, queue_);
    host_ = copies_->AllocateHost(2 * kBytes);
    cuda_host::SetCopyDelay(3);
  }
  ~SideCopiesTest() override {
    copies_.reset();
    cuda_host::SetCopyDelay(0);
    DestroyStream(compute_);
  }

  float* device(int index) const { return FloatsOf(device_[index]); }
  float* host() const { return FloatsOf(host_); }
  static float* FloatsOf(const Memory& memory) { return reinterpret_cast<float*>(memory.data()); }

  void Fill(float* x, float value) {
    Launch(compute_, {.name = "fill", .num_threads = 32}, FillKernel, FillArgs{x, value});
  }
  void Add(const float* x, float* y) {
    Launch(compute_, {.name = "add", .num_threads = 32}, AddKernel, AddArgs{x, y});
  }
  void Start(Direction direction, float* on_device, float* on_host, int64_t ticket) {
    const SideCopies::Piece piece = {reinterpret_cast<std::byte*>(on_device),
                                     reinterpret_cast<std::byte*>(on_host), kBytes};
    copies_->Start(direction, std::span(&piece, 1), ticket);
  }
  void WaitFor(int64_t ticket) {
    for (int i = 0; i < kPatience; ++i) {
      const std::vector<int64_t> ended = copies_->TakeEnded();
      if (std::ranges::find(ended, ticket) != ended.end()) return;
      EXPECT_TRUE(ended.empty());
    }
    FAIL() << "copy " << ticket << " does not end";
  }
  std::vector<float> Read(const float* on_device) {
    queue_.Flush(compute_);
    std::vector<float> values(kCount);
    CopyBytes(compute_, values.data(), on_device, kBytes);
    Wait(compute_);
    return values;
  }
  static std::vector<float> All(float value) { return std::vector<float>(kCount, value); }
  std::vector<float> Host(int64_t first = 0) const {
    return {host() + first, host() + first + kCount};
  }

  Stream compute_ = CreateStream();
  LaunchQueue queue_;
  Memory device_[2] = {AllocateDevice(kBytes), AllocateDevice(kBytes)};
  Memory host_;
  std::unique_ptr<SideCopies> copies_;
};

TEST_F(SideCopiesTest, WhatGoesOutIsWhatWasAskedForBefore) {
  Fill(device(0), 7);  // stands in the queue
  Start(Direction::kToHost, device(0), host(), 5);
  EXPECT_TRUE(copies_->TakeEnded().empty());
  WaitFor(5);
  EXPECT_EQ(Host(), All(7));
  Fill(device(0), 8);
  EXPECT_EQ(Read(device(0)), All(8));
  EXPECT_EQ(Host(), All(7));
}

TEST_F(SideCopiesTest, WhatComesInIsReadByWhatIsAskedForBehind) {
  std::fill_n(host(), kCount, 3.F);
  Fill(device(0), 7);
  Add(device(0), device(1));  // reads what stood there
  Start(Direction::kToDevice, device(0), host(), 1);
  WaitFor(1);
  EXPECT_EQ(Read(device(1)), All(8));
  Add(device(0), device(1));
  EXPECT_EQ(Read(device(1)), All(4));
}

TEST_F(SideCopiesTest, DirectionsGoSideBySideAndEachInItsOrder) {
  std::fill_n(host() + kCount, kCount, 3.F);
  Fill(device(0), 1);
  Start(Direction::kToHost, device(0), host(), 1);
  Start(Direction::kToHost, device(0), host(), 2);
  Start(Direction::kToDevice, device(1), host() + kCount, 3);
  std::vector<int64_t> ended;
  for (int i = 0; i < kPatience && ended.size() < 3; ++i) {
    for (const int64_t ticket : copies_->TakeEnded()) ended.push_back(ticket);
  }
  ASSERT_EQ(ended.size(), 3u);
  EXPECT_LT(std::ranges::find(ended, 1), std::ranges::find(ended, 2));
  EXPECT_NE(ended.back(), 3) << "it waited for what goes out";
}

TEST_F(SideCopiesTest, ClearComesBehindWhatGoesOut) {
  std::fill_n(host(), 2 * kCount, 9.F);
  Fill(device(0), 5);
  Start(Direction::kToHost, device(0), host(), 1);
  copies_->Clear(host_.data(), kBytes);
  Start(Direction::kToHost, device(0), host() + kCount, 2);
  WaitFor(1);
  WaitFor(2);
  EXPECT_EQ(Host(), All(0));
  EXPECT_EQ(Host(kCount), All(5));
}

TEST_F(SideCopiesTest, TheEndWaitsForAll) {
  Fill(device(0), 5);
  Start(Direction::kToHost, device(0), host(), 1);
  copies_.reset();
  EXPECT_EQ(Host(), All(5));
}

using SideCopiesDeathTest = SideCopiesTest;

TEST_F(SideCopiesDeathTest, ACopyWithoutAnOrderIsFound) {
  Fill(device(0), 5);
  queue_.Flush(compute_);
  Stream other = CreateStream();
  EXPECT_DEATH(CopyBytes(other, host(), device(0), kBytes), "not ordered behind kernels");
  Event event;
  event.Record(compute_);
  cuda_host::SetCopyDelay(3);
  nsa::kernels::cuda::WaitFor(other, event);
  CopyBytes(other, host(), device(0), kBytes);
  Wait(other);
  EXPECT_EQ(Host(), All(5));
  DestroyStream(other);
}

/// Launches that stand in a queue which the copies do not know.
TEST_F(SideCopiesDeathTest, AMissingFlushIsFound) {
  LaunchQueue other;
  compute_.queue = &other;
  Fill(device(0), 5);
  Start(Direction::kToHost, device(0), host(), 1);
  EXPECT_DEATH(other.Flush(compute_), "");
  WaitFor(1);
  other.Flush(compute_);
}

TEST_F(SideCopiesDeathTest, WhoWritesWhatGoesOutIsFound) {
  Start(Direction::kToHost, device(0), host(), 1);
  Add(device(0), device(1));  // may read it
  EXPECT_EQ(Read(device(1)), All(1));
  Fill(device(0), 5);
  EXPECT_DEATH(queue_.Flush(compute_), "");
  EXPECT_DEATH(CopyBytes(compute_, device(0), host() + kCount, kBytes), "another stream's copy");
  WaitFor(1);
  queue_.Flush(compute_);
}

TEST_F(SideCopiesDeathTest, WhoReadsWhatComesInIsFound) {
  Start(Direction::kToDevice, device(0), host(), 1);
  EXPECT_DEATH((void)Read(device(0)), "another stream's copy");
  Add(device(0), device(1));
  EXPECT_DEATH(queue_.Flush(compute_), "");
  WaitFor(1);
  queue_.Flush(compute_);
}

TEST_F(SideCopiesDeathTest, WhoTouchesABlockUnderWayIsFound) {
  Start(Direction::kToHost, device(0), host(), 1);
  EXPECT_DEATH(EXPECT_EQ(host()[5], 0), "");
  WaitFor(1);
  EXPECT_EQ(host()[5], 0);
  Start(Direction::kToDevice, device(0), host(), 2);
  EXPECT_EQ(host()[5], 0);  // may be read
  EXPECT_DEATH(host()[5] = 1, "");
  EXPECT_DEATH(host_ = Memory(), "copy is under way|check failed");
  WaitFor(2);
  host()[5] = 1;
}

}  // namespace
}  // namespace nsa::kernels::cuda
