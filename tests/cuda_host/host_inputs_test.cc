#include "kernels/cuda/host_inputs.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "tests/cuda_host/device_memory.h"
#include "tests/cuda_host/emulator.h"
#include "tests/cuda_host/streams.h"

namespace nsa::kernels::cuda {
namespace {

using cuda_host::IsDeviceMemory;

template <typename T>
std::vector<T> Read(Stream& stream, const T* device, int64_t count) {
  EXPECT_TRUE(IsDeviceMemory(device, count * static_cast<int64_t>(sizeof(T))));
  std::vector<T> host(static_cast<size_t>(count));
  CopyBytes(stream, host.data(), device, count * static_cast<int64_t>(sizeof(T)));
  return host;
}

TEST(HostInputsTest, KeptInputsAreCopiedOnceAStep) {
  Stream stream;
  HostInputs inputs(stream, 4096);
  std::vector<int32_t> ids = {1, 2, 3};
  const int32_t* first = inputs.Place(ids.data(), 3);
  EXPECT_EQ(Read(stream, first, 3), ids);
  EXPECT_EQ(inputs.Place(ids.data(), 3), first);
  EXPECT_NE(inputs.Place(ids.data(), 2), first);
  inputs.BeginStep();
  EXPECT_EQ(inputs.area(), 1);
  const std::vector<int32_t> before = ids;
  ids = {4, 5, 6};
  const int32_t* second = inputs.Place(ids.data(), 3);
  EXPECT_EQ(Read(stream, second, 3), ids);
  EXPECT_EQ(Read(stream, first, 3), before);  // whose step may still run
  inputs.BeginStep();
  EXPECT_EQ(inputs.area(), 0);
  EXPECT_EQ(inputs.Place(ids.data(), 3), first);  // the same addresses in turns, for graphs
  EXPECT_EQ(inputs.Place(static_cast<const int32_t*>(nullptr), 3), nullptr);
}

/// Steps that nobody waits for, on a stream that does nothing before.
std::vector<const int32_t*> RunSteps(Stream& stream, HostInputs& inputs) {
  std::vector<const int32_t*> placed;
  for (int32_t step = 0; step < 3; ++step) {
    inputs.BeginStep();
    const std::vector<int32_t> ids = {step, 10 * step};
    placed.push_back(inputs.Place(ids.data(), 2));
  }
  Wait(stream);
  return placed;
}

TEST(HostInputsTest, NobodyWritesWhatIsStillToBeCopied) {
  Stream stream = CreateStream();
  {
    HostInputs inputs(stream, 64);
    const std::vector<const int32_t*> placed = RunSteps(stream, inputs);
    EXPECT_EQ(placed[2], placed[0]);
    EXPECT_EQ(Read(stream, placed[2], 2), (std::vector<int32_t>{2, 20}));
    EXPECT_EQ(Read(stream, placed[1], 2), (std::vector<int32_t>{1, 10}));
    const cuda_host::IgnoreEvents ignored;
    EXPECT_THROW(RunSteps(stream, inputs), cuda_host::Error);
  }
  DestroyStream(stream);
}

TEST(HostInputsTest, ChangingInputsAreCopiedEachTime) {
  Stream stream;
  HostInputs inputs(stream, 4096);
  std::vector<int32_t> ids = {1, 2, 3};
  const int32_t* first = inputs.Copy(ids.data(), 3);
  ids = {7, 8, 9};
  const int32_t* second = inputs.Copy(ids.data(), 3);
  EXPECT_EQ(Read(stream, first, 3), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(Read(stream, second, 3), ids);
  EXPECT_EQ(inputs.Copy(ids.data(), 0), nullptr);
}

TEST(HostInputsTest, SegmentsComeWithTheirPageTables) {
  Stream stream;
  HostInputs inputs(stream, 64);  // outgrown at once
  std::vector<int32_t> table(40), other = {7};
  std::iota(table.begin(), table.end(), 100);
  const AttentionSegment segments[] = {{table.data(), 39 * 64, 0, 64}, {other.data(), 5, 64, 1}};
  const std::vector<int32_t> before = {1, 2, 3};
  const int32_t* placed_before = inputs.Place(before.data(), 3);
  const AttentionSegment* placed = inputs.PlaceSegments(segments, 2);
  EXPECT_EQ(inputs.PlaceSegments(segments, 2), placed);
  const std::vector<AttentionSegment> host = Read(stream, placed, 2);
  EXPECT_EQ(host[0].position, 39 * 64);
  EXPECT_EQ(host[0].num_rows, 64);
  EXPECT_EQ(host[1].row_begin, 64);
  EXPECT_EQ(Read(stream, host[0].page_table, 40), table);
  EXPECT_EQ(Read(stream, host[1].page_table, 1), other);
  EXPECT_EQ(Read(stream, placed_before, 3), before);  // stays until the step ends
  EXPECT_EQ(inputs.PlaceSegments(segments, 0), nullptr);
}

}  // namespace
}  // namespace nsa::kernels::cuda
