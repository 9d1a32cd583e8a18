#include "tests/cuda_host/emulator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"
#include "tests/cuda_host/orders.h"

namespace nsa::cuda_host {
namespace {

using namespace kernels::cuda;  // NOLINT(google-build-using-namespace): kernels live there
using testing::AllOf;
using testing::HasSubstr;

/// The message of the Error that the launch ends with; empty where it ends well.
template <typename Kernel>
std::string ErrorOf(const LaunchShape& shape, Kernel&& kernel) {
  try {
    RunLaunch(shape, kernel);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

struct ReverseArgs {
  float* y;  // [grid_x, 64]
  bool has_barrier;
};

/// Turns a CTA's values around through shared memory.
NSA_KERNEL(64) Reverse(NSA_ARGS ReverseArgs args) {
  NSA_SHARED(float, values, 64);
  values[ThreadIndex()] = static_cast<float>(100 * CtaX() + ThreadIndex());
  if (args.has_barrier) SyncThreads();
  args.y[CtaX() * 64 + ThreadIndex()] = values[63 - ThreadIndex()];
}

std::vector<float> RunReverse(bool has_barrier) {
  std::vector<float> y(3 * 64);
  Stream stream;
  Launch(stream, {.name = "reverse", .grid_x = 3, .num_threads = 64}, Reverse,
         ReverseArgs{y.data(), has_barrier});
  return y;
}

TEST(EmulatorTest, ThreadsMeetAtBarriers) {
  const std::vector<float> y = InEveryOrder([] { return RunReverse(true); });
  for (int i = 0; i < 3 * 64; ++i) EXPECT_EQ(y[i], 100 * (i / 64) + 63 - i % 64);
}

TEST(EmulatorTest, AMissingBarrierShows) {
  EXPECT_FALSE(IsSameInEveryOrder([] { return RunReverse(false); }));
}

TEST(EmulatorTest, EveryBarrierIsMissed) {
  ExpectEveryBarrierIsMissed([] { return RunReverse(true); });
  EXPECT_EQ(BarriersSeen().size(), 1);
}

// The first barrier of a loop is there, the one behind the reads is not.
TEST(EmulatorTest, AMissingSecondBarrierShows) {
  for (const bool has_both : {true, false}) {
    const auto run = [&] {
      std::vector<int> y(64, 0);
      RunLaunch({.name = "rounds", .num_threads = 64}, [&] {
        NSA_SHARED(int, values, 64);
        for (int round = 0; round < 3; ++round) {
          values[ThreadIndex()] = 64 * round + ThreadIndex();
          SyncThreads();
          y[ThreadIndex()] += values[63 - ThreadIndex()];
          if (has_both) SyncThreads();
        }
      });
      return y;
    };
    EXPECT_EQ(IsSameInEveryOrder(run), has_both);
  }
}

TEST(EmulatorTest, AMissingWarpBarrierShows) {
  for (const bool has_barrier : {true, false}) {
    const auto run = [&] {
      std::vector<int> y(32);
      RunLaunch({.name = "warp", .num_threads = 32}, [&] {
        NSA_SHARED(int, values, 32);
        values[LaneIndex()] = LaneIndex();
        if (has_barrier) SyncWarp();
        y[LaneIndex()] = values[31 - LaneIndex()];
      });
      return y;
    };
    EXPECT_EQ(IsSameInEveryOrder(run), has_barrier);
  }
}

TEST(EmulatorTest, SharedMemoryThatNobodyWroteShows) {
  EXPECT_FALSE(IsSameInEveryOrder([] {
    std::vector<int> y(32);
    RunLaunch({.name = "unwritten", .num_threads = 32}, [&] {
      NSA_SHARED(int, values, 32);
      y[LaneIndex()] = values[LaneIndex()];
    });
    return y;
  }));
}

TEST(EmulatorTest, CtasThatLeanOnEachOtherShow) {
  EXPECT_FALSE(IsSameInEveryOrder([] {
    std::vector<int> y(4, 0);
    RunLaunch({.name = "ctas", .grid_x = 4, .num_threads = 32}, [&] {
      if (ThreadIndex() == 0) y[CtaX()] = std::accumulate(y.begin(), y.end(), 1);
    });
    return y;
  }));
}

TEST(EmulatorTest, AThreadThatEndsBeforeABarrier) {
  const std::string error = ErrorOf({.name = "early", .grid_x = 2, .num_threads = 64}, [] {
    if (CtaX() == 1 && ThreadIndex() == 40) return;
    SyncThreads();
  });
  EXPECT_THAT(error,
              AllOf(HasSubstr("early: CTA (1, 0)"), HasSubstr("SyncThreads at emulator_test"),
                    HasSubstr("thread 40 has ended")));
}

TEST(EmulatorTest, ThreadsAtTwoBarriers) {
  const std::string error = ErrorOf({.name = "apart", .num_threads = 64}, [] {
    const bool is_first = ThreadIndex() < 32;
    if (is_first) SyncThreads();
    if (!is_first) SyncThreads();
  });
  EXPECT_THAT(error, AllOf(HasSubstr("apart: CTA (0, 0), thread"),
                           HasSubstr("waits in SyncThreads"), HasSubstr("but thread")));
}

TEST(EmulatorTest, ALaneThatStaysAwayFromAShuffle) {
  const std::string error = ErrorOf({.name = "lanes", .num_threads = 64}, [] {
    if (ThreadIndex() != 37) ShuffleXor(1.0f, 1);
  });
  EXPECT_THAT(error, AllOf(HasSubstr("waits in Shuffle"), HasSubstr("thread 37 has ended")));
}

TEST(EmulatorTest, MasksThatDiffer) {
  const std::string error = ErrorOf({.name = "masks", .num_threads = 32}, [] {
    Ballot(true, LaneIndex() < 16 ? kAllLanes : 0xFFFFFFFEu);
  });
  EXPECT_THAT(error, HasSubstr("another mask"));
  EXPECT_THAT(ErrorOf({.name = "own", .num_threads = 32}, [] { SyncWarp(1); }),
              HasSubstr("not in its own mask"));
}

TEST(EmulatorTest, AShuffleFromALaneThatTakesNoPart) {
  const std::string error = ErrorOf({.name = "absent", .num_threads = 32}, [] {
    if (LaneIndex() < 16) Shuffle(LaneIndex(), 20, 0x0000FFFFu);
  });
  EXPECT_THAT(error, HasSubstr("takes no part"));
}

TEST(EmulatorTest, ALaunchAfterAFailedOneIsSound) {
  ErrorOf({.name = "early", .num_threads = 64}, [] {
    if (ThreadIndex() > 5) SyncThreads();
  });
  EXPECT_EQ(RunReverse(true)[0], 63);
}

TEST(EmulatorTest, WarpsShuffleAndVote) {
  const std::vector<uint32_t> y = InEveryOrder([] {
    std::vector<uint32_t> y(3 * 96);
    RunLaunch({.name = "warps", .num_threads = 96}, [&] {
      const auto t = static_cast<uint32_t>(ThreadIndex());
      uint32_t sum = t;
      for (int step = 16; step > 0; step /= 2) sum += ShuffleXor(sum, step);
      y[3 * t] = sum;
      y[3 * t + 1] = Shuffle(t, (LaneIndex() + 1) % 32);
      y[3 * t + 2] = LaneIndex() % 2 == 0 ? Ballot(t % 4 == 0, 0x55555555u) : 0;
    });
    return y;
  });
  for (uint32_t t = 0; t < 96; ++t) {
    EXPECT_EQ(y[3 * t], 32 * (t / 32 * 32) + 31 * 16);
    EXPECT_EQ(y[3 * t + 1], t / 32 * 32 + (t + 1) % 32);
    EXPECT_EQ(y[3 * t + 2], t % 2 == 0 ? 0x11111111u : 0);
  }
}

TEST(EmulatorTest, AtomicsLoseNothing) {
  struct Sums {
    uint32_t count;
    uint32_t bits;
    int64_t sum;
  };
  const std::vector<Sums> y = InEveryOrder([] {
    std::vector<Sums> y = {{5, 0, -1}};
    RunLaunch({.name = "atomics", .grid_x = 3, .num_threads = 64}, [&] {
      AtomicAdd(&y[0].count, uint32_t{2});
      AtomicOr(&y[0].bits, uint32_t{1} << LaneIndex() / 2);
      AtomicAdd(&y[0].sum, int64_t{1} << 40);
    });
    return y;
  });
  EXPECT_EQ(y[0].count, 5 + 2 * 3 * 64);
  EXPECT_EQ(y[0].bits, 0xFFFFu);
  EXPECT_EQ(y[0].sum, (int64_t{3 * 64} << 40) - 1);
}

TEST(EmulatorTest, AtomicsGiveWhatWasThere) {
  std::vector<int> seen(64, 0);
  uint32_t count = 0;
  RunLaunch({.name = "before", .num_threads = 64}, [&] { ++seen[AtomicAdd(&count, uint32_t{1})]; });
  EXPECT_THAT(seen, testing::Each(1));
}

TEST(EmulatorTest, BitsAndProducts) {
  EXPECT_EQ(FloatBits(-1.5f), 0xBFC00000u);
  EXPECT_EQ(FloatOfBits(0xBFC00000u), -1.5f);
  EXPECT_EQ(BitCount(0x80000101u), 3);
  EXPECT_EQ(LowestBit(0x80000100u), 8);
  EXPECT_EQ(MultiplyHigh(uint64_t{1} << 63, 6), 3u);
  EXPECT_EQ(MultiplyHigh(~uint64_t{0}, ~uint64_t{0}), ~uint64_t{0} - 1);
  EXPECT_EQ(Fma(3.0, 1.0 / 3.0, -1.0), -0x1p-54);  // the product is not rounded
  EXPECT_EQ(RoundEven(2.5), 2.0);
  EXPECT_EQ(RoundUp(2.25), 3.0);
}

TEST(EmulatorTest, CopiesArriveWhenTheyAreWaitedFor) {
  const auto run = [](bool waits) {
    const std::vector<U32x4> x = {{{1, 2, 3, 4}}, {{5, 6, 7, 8}}};
    std::vector<uint32_t> y(12);
    RunLaunch({.name = "copies", .num_threads = 32, .shared_bytes = 48}, [&] {
      SharedArena arena;
      auto* staged = arena.Take<U32x4>(3);
      if (ThreadIndex() != 0) return;
      CopyAsync(staged, x.data());
      CommitCopies();
      CopyAsync(staged + 1, x.data() + 1);
      CopyAsync(staged + 2, x.data(), false);
      CommitCopies();
      WaitCopies<1>();
      for (int i = 0; i < 4; ++i) y[i] = staged[0].x[i];
      if (waits) WaitCopies<0>();
      for (int i = 4; i < 12; ++i) y[i] = staged[i / 4].x[i % 4];
      WaitCopies<0>();
    });
    return y;
  };
  EXPECT_THAT(InEveryOrder([&] { return run(true); }),
              testing::ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0));
  EXPECT_FALSE(IsSameInEveryOrder([&] { return run(false); }));
}

TEST(EmulatorTest, ShortCopies) {
  const std::vector<uint32_t> x = {1, 2, 3, 4};
  std::vector<uint32_t> y(6);
  RunLaunch({.name = "copies", .num_threads = 32, .shared_bytes = 32}, [&] {
    SharedArena arena;
    auto* staged = arena.Take<uint32_t>(6);
    if (ThreadIndex() != 0) return;
    CopyAsync<8>(staged, x.data() + 2);
    CopyAsync<4>(staged + 2, x.data() + 1);
    CopyAsync<4>(staged + 3, x.data(), false);
    CopyAsync<8>(staged + 4, x.data(), false);
    CommitCopies();
    WaitCopies<0>();
    for (int i = 0; i < 6; ++i) y[i] = staged[i];
  });
  EXPECT_THAT(y, testing::ElementsAre(3, 4, 2, 0, 0, 0));
}

TEST(EmulatorTest, WrongCopies) {
  alignas(16) const uint32_t x[8] = {};
  const LaunchShape shape = {.name = "copies", .num_threads = 32};
  EXPECT_THAT(ErrorOf(shape,
                      [&] {
                        NSA_SHARED(U32x4, staged, 1);
                        CopyAsync(staged, x);
                      }),
              HasSubstr("ends before its copies are there"));
  EXPECT_THAT(ErrorOf(shape,
                      [&] {
                        NSA_SHARED(U32x4, staged, 1);
                        CopyAsync(staged, x + 1);
                      }),
              HasSubstr("no multiple of its size"));
  EXPECT_THAT(ErrorOf(shape,
                      [&] {
                        NSA_SHARED(U32x4, staged, 1);
                        CopyAsync(staged, static_cast<const U32x4*>(nullptr) + 4);
                      }),
              HasSubstr("near null"));
  EXPECT_THAT(ErrorOf(shape,
                      [&] {
                        NSA_SHARED(U32x4, staged, 1);
                        CopyAsync(staged + 1, x);
                      }),
              HasSubstr("outside of the CTA's shared arrays"));
}

TEST(EmulatorTest, SharedMemoryHasLimits) {
  EXPECT_THAT(ErrorOf({.name = "arena", .num_threads = 32, .shared_bytes = 32},
                      [] {
                        SharedArena arena;
                        arena.Take<float>(3);
                        arena.Take<float>(5);
                      }),
              HasSubstr("more dynamic shared memory"));
  EXPECT_THAT(ErrorOf({.name = "large", .num_threads = 32},
                      [] {
                        NSA_SHARED(float, values, 50000);
                        values[0] = 0;
                      }),
              HasSubstr("more shared memory than a CTA may have"));
  EXPECT_THAT(ErrorOf({.name = "grid", .grid_y = 65536, .num_threads = 32}, [] {}),
              HasSubstr("grid_y"));
  EXPECT_THAT(ErrorOf({.name = "threads", .num_threads = 1056}, [] {}), HasSubstr("threads"));
}

#ifdef __SANITIZE_ADDRESS__
TEST(EmulatorDeathTest, WritesAndReadsBehindAnArray) {
  const LaunchShape shape = {.name = "behind", .num_threads = 64, .shared_bytes = 256};
  EXPECT_DEATH(RunLaunch(shape,
                         [] {
                           NSA_SHARED(float, values, 63);
                           values[ThreadIndex()] = 1;
                           SyncThreads();
                         }),
               "heap-buffer-overflow");
  EXPECT_DEATH(RunLaunch(shape,
                         [] {
                           SharedArena arena;
                           arena.Take<float>(32)[ThreadIndex()] = 1;
                         }),
               "heap-buffer-overflow");
  const std::vector<float> x(64);
  float sum = 0;
  EXPECT_DEATH(RunLaunch(shape, [&] { sum += x.data()[ThreadIndex() + 1]; }),
               "heap-buffer-overflow");
}
#endif

}  // namespace
}  // namespace nsa::cuda_host
