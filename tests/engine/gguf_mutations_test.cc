// Files that are not what they say: none may crash the reader, make it allocate more than the file
// justifies, or be accepted with a tensor outside the file. Run under sanitizers too.

#include "tests/engine/gguf_mutations.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "engine/weights/gguf.h"
#include "kernels/quant.h"
#include "tests/engine/gguf_builder.h"

namespace {

// Bytes that live now, and their most since the last reset; one thread allocates here.
size_t g_live_bytes = 0;
size_t g_peak_bytes = 0;

void* Allocate(size_t size) {
  void* memory = std::malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  g_live_bytes += malloc_usable_size(memory);
  g_peak_bytes = std::max(g_peak_bytes, g_live_bytes);
  return memory;
}

void Release(void* memory) {
  if (memory == nullptr) return;
  g_live_bytes -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

void* operator new(size_t size) { return Allocate(size); }
void* operator new[](size_t size) { return Allocate(size); }
void operator delete(void* memory) noexcept { Release(memory); }
void operator delete[](void* memory) noexcept { Release(memory); }
void operator delete(void* memory, size_t) noexcept { Release(memory); }
void operator delete[](void* memory, size_t) noexcept { Release(memory); }

namespace nsa::engine {
namespace {

constexpr size_t kPageBytes = 4096;
// The widest growth that the format allows: a byte in an array of uint8 becomes a uint64_t, and a
// metadata entry of 13 bytes an entry of a half-full hash table.
constexpr size_t kBytesPerFileByte = 16;
constexpr size_t kFixedBytes = 16 << 10;

/// What an accepted file of at most one page promises about its tensors.
void CheckTensors(const GgufFile& file, const std::string& bytes) {
  std::vector<std::pair<uintptr_t, uintptr_t>> ranges;
  for (const WeightTensor& tensor : file.weights().tensors()) {
    const auto begin = reinterpret_cast<uintptr_t>(tensor.data);
    // The mapping begins with a page.
    const uintptr_t map = begin / kPageBytes * kPageBytes;
    ASSERT_GT(tensor.num_bytes, 0);
    ASSERT_LE(begin - map + static_cast<uintptr_t>(tensor.num_bytes), bytes.size());
    ASSERT_EQ(reinterpret_cast<uintptr_t>(tensor.name.data()) / kPageBytes * kPageBytes, map);
    ASSERT_EQ(std::memcmp(tensor.data, bytes.data() + (begin - map),
                          static_cast<size_t>(tensor.num_bytes)),
              0);
    ASSERT_GE(tensor.shape.size(), 1u);
    ASSERT_LE(tensor.shape.size(), 4u);
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) rows *= tensor.shape[i];
    ASSERT_EQ(tensor.num_bytes, rows * kernels::RowBytes(tensor.type, tensor.shape.back()));
    ASSERT_EQ(file.weights().Find(tensor.name), &tensor);
    ranges.emplace_back(begin, begin + static_cast<uintptr_t>(tensor.num_bytes));
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) ASSERT_LE(ranges[i - 1].second, ranges[i].first);
}

class GgufMutations : public testing::Test {
 protected:
  GgufMutations() : bytes_(SmallGguf(3, &header_bytes_)) {
    descriptor_ = open(temp_.path().c_str(), O_WRONLY | O_CLOEXEC);
  }
  ~GgufMutations() override { close(descriptor_); }

  void Check(const std::string& mutant) {
    if (HasFatalFailure()) return;
    ASSERT_LE(mutant.size(), kPageBytes);
    ASSERT_EQ(pwrite(descriptor_, mutant.data(), mutant.size(), 0),
              static_cast<ssize_t>(mutant.size()));
    ASSERT_EQ(ftruncate(descriptor_, static_cast<off_t>(mutant.size())), 0);
    const size_t live_before = g_live_bytes;
    g_peak_bytes = g_live_bytes;
    {
      const auto file = GgufFile::Open(temp_.path());
      const size_t used = g_peak_bytes - live_before;
      ASSERT_LE(used, kFixedBytes + kBytesPerFileByte * mutant.size());
      if (file.ok()) {
        ++num_accepted_;
        CheckTensors(**file, mutant);
      } else {
        ++num_refused_;
        CheckMessage(file.status());
      }
    }
    ASSERT_EQ(g_live_bytes, live_before) << "memory is lost, file of " << mutant.size();
  }

  void CheckMessage(const absl::Status& status) {
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    const std::string message(status.message());
    ASSERT_EQ(message.rfind(temp_.path(), 0), 0u) << message;
    ASSERT_LE(message.size(), temp_.path().size() + 700);
    ASSERT_TRUE(
        std::all_of(message.begin(), message.end(), [](char c) { return c >= ' ' || c < 0; }));
  }

  TakeMutant checker() {
    return [this](const std::string& mutant) { Check(mutant); };
  }

  size_t header_bytes_ = 0;
  TempFile temp_;
  std::string bytes_;
  int descriptor_ = -1;
  int num_accepted_ = 0;
  int num_refused_ = 0;
};

TEST_F(GgufMutations, RefusesAFileCutAnywhere) {
  for (const uint32_t version : {2u, 3u}) {
    const std::string bytes = SmallGguf(version);
    for (size_t size = 0; size < bytes.size(); ++size) Check(bytes.substr(0, size));
    EXPECT_EQ(num_accepted_, 0);
    Check(bytes);
    ASSERT_EQ(num_accepted_, 1);
    num_accepted_ = 0;
  }
}

TEST_F(GgufMutations, SurvivesEveryByteOfTheHeader) {
  MutateBytes(bytes_, header_bytes_, checker());
  // Values, and letters of names, may be anything.
  EXPECT_GT(num_accepted_, 1000);
  EXPECT_GT(num_refused_, 1000);
}

TEST_F(GgufMutations, SurvivesOddNumbersEverywhere) {
  MutateNumbers<uint64_t>(bytes_, header_bytes_, checker());
  MutateNumbers<uint32_t>(bytes_, header_bytes_, checker());
  EXPECT_GT(num_accepted_, 500);
  EXPECT_GT(num_refused_, 1000);
}

TEST_F(GgufMutations, SurvivesRandomEdits) {
  MutateAtRandom(bytes_, 20000, checker());
  EXPECT_GT(num_accepted_, 100);
  EXPECT_GT(num_refused_, 1000);
}

/// Peak of heap bytes while `bytes` is read.
size_t PeakOf(const std::string& bytes, bool accepted) {
  const TempFile temp(bytes);
  const size_t live_before = g_live_bytes;
  g_peak_bytes = g_live_bytes;
  const auto file = GgufFile::Open(temp.path());
  const size_t peak_bytes = g_peak_bytes - live_before;
  EXPECT_EQ(file.ok(), accepted) << file.status();
  return peak_bytes;
}

TEST(GgufMemory, GrowsWithTheFileAlone) {
  constexpr size_t kMany = 1 << 20;
  GgufBuilder bytes_array;
  bytes_array.Header(3, 0, 1).Array("a", GgufBuilder::kU8, std::vector<uint8_t>(kMany));
  EXPECT_LE(PeakOf(bytes_array.bytes(), true), kBytesPerFileByte * bytes_array.size());

  GgufBuilder texts;
  texts.Header(3, 0, 1).TextArray("a", std::vector<std::string>(kMany / 8));
  EXPECT_LE(PeakOf(texts.bytes(), true), kBytesPerFileByte * texts.size());

  constexpr int kKeys = 50000;
  GgufBuilder keys;
  keys.Header(3, 0, kKeys);
  for (int i = 0; i < kKeys; ++i) {
    keys.Value(std::string(reinterpret_cast<const char*>(&i), 3), GgufBuilder::kU8, uint8_t{0});
  }
  EXPECT_LE(PeakOf(keys.bytes(), true), kBytesPerFileByte * keys.size());

  GgufBuilder tensors;
  tensors.Header(3, kKeys, 0);
  for (int i = 0; i < kKeys; ++i) {
    tensors.Tensor(std::string(reinterpret_cast<const char*>(&i), 3), {1, 1, 1, 1}, 0,
                   static_cast<uint64_t>(i) * 32);
  }
  tensors.Pad(32).Data(kKeys * 32);
  EXPECT_LE(PeakOf(tensors.bytes(), true), kBytesPerFileByte * tensors.size());
}

TEST(GgufMemory, AClaimAllocatesNothing) {
  GgufBuilder claim;
  claim.Header(3, 0, 1).Key("a", GgufBuilder::kArray).Put(GgufBuilder::kU8);
  claim.Put(uint64_t{1} << 40).Data(1000);
  EXPECT_LE(PeakOf(claim.bytes(), false), kFixedBytes);
}

}  // namespace
}  // namespace nsa::engine
