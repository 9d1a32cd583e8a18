#include "engine/spill_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/faults.h"

namespace nsa::engine {
namespace {

constexpr size_t kPartBytes = 5000, kNumParts = 3;

/// Lets everything through and remembers the file.
class WatchingIo final : public FileIo {
 public:
  explicit WatchingIo(std::atomic<int>* file) : file_(file) {}
  ssize_t Write(int file, const std::byte* data, size_t num_bytes, off_t offset) override {
    *file_ = file;
    return FileIo::Write(file, data, num_bytes, offset);
  }

 private:
  std::atomic<int>* file_;
};

/// Fails as it is told, at first with EINTR, which is none.
class FailingIo final : public FileIo {
 public:
  FailingIo(bool write_fails, bool read_ends) : write_fails_(write_fails), read_ends_(read_ends) {}
  ssize_t Write(int file, const std::byte* data, size_t num_bytes, off_t offset) override {
    if (!std::exchange(interrupted_, true)) {
      errno = EINTR;
      return -1;
    }
    if (!write_fails_) return FileIo::Write(file, data, num_bytes, offset);
    errno = ENOSPC;
    return -1;
  }
  ssize_t Read(int file, std::byte* data, size_t num_bytes, off_t offset) override {
    return read_ends_ ? 0 : FileIo::Read(file, data, num_bytes, offset);
  }

 private:
  const bool write_fails_, read_ends_;
  bool interrupted_ = false;
};

class SpillFileTest : public testing::Test {
 protected:
  SpillFileTest() {
    const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
    folder_ = testing::TempDir() + "nsa_spill_" + std::to_string(getpid()) + "_" + name;
    std::filesystem::create_directories(folder_);
    for (auto& page : pages_) page.resize(kNumParts * kPartBytes);
  }
  ~SpillFileTest() override {
    std::error_code error;
    std::filesystem::remove_all(folder_, error);
  }

  void Open(std::unique_ptr<FileIo> io = nullptr) {
    auto file = SpillFile::Create({.folder = folder_,
                                   .block_bytes = kNumParts * kPartBytes,
                                   .num_blocks = 8,
                                   .io = std::move(io)},
                                  [this](int32_t page) { return Parts(page); });
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
  }

  std::vector<std::span<std::byte>> Parts(int32_t page) {
    std::vector<std::span<std::byte>> parts;
    for (size_t i = 0; i < kNumParts; ++i) {
      parts.push_back(std::span(pages_[page]).subspan(i * kPartBytes, kPartBytes));
    }
    return parts;
  }

  void Fill(int32_t page, int value) {
    for (size_t i = 0; i < pages_[page].size(); ++i) {
      pages_[page][i] = static_cast<std::byte>(static_cast<size_t>(value) + i % 101);
    }
  }

  /// Runs moves to their end.
  std::vector<PageMove> Run(const std::vector<PageMove>& moves) {
    for (const PageMove& move : moves) file_->Start(move);
    std::vector<PageMove> ended;
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (ended.size() < moves.size() && absl::Now() < deadline) {
      for (PageMove& move : file_->TakeEnded()) ended.push_back(std::move(move));
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(ended.size(), moves.size());
    return ended;
  }
  absl::Status RunOne(int32_t page, int32_t block, bool out) {
    return Run({{.page = page, .block = block, .out = out, .status = absl::OkStatus()}})[0].status;
  }

  size_t NumFilesInFolder() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::string folder_;
  std::vector<std::byte> pages_[4];
  std::unique_ptr<SpillFile> file_;
};

TEST_F(SpillFileTest, PagesComeBackAsTheyWere) {
  Open();
  for (int page = 0; page < 4; ++page) {
    Fill(page, page);
    ASSERT_TRUE(RunOne(page, 7 - page, true).ok());
  }
  const std::vector<std::byte> third = pages_[3];
  for (auto& page : pages_) page.assign(page.size(), std::byte{255});
  ASSERT_TRUE(RunOne(0, 4, false).ok());  // another page index, its block
  EXPECT_EQ(pages_[0], third);
}

/// The order of one block's moves is the order in which they were asked for.
TEST_F(SpillFileTest, MovesKeepTheirOrder) {
  Open();
  Fill(0, 1);
  Fill(1, 50);
  const std::vector<std::byte> first = pages_[0], second = pages_[1];
  const absl::Status ok;
  Run({{.page = 0, .block = 3, .out = true, .status = ok},
       {.page = 2, .block = 3, .out = false, .status = ok},
       {.page = 1, .block = 3, .out = true, .status = ok},
       {.page = 3, .block = 3, .out = false, .status = ok}});
  EXPECT_EQ(pages_[2], first);
  EXPECT_EQ(pages_[3], second);
}

TEST_F(SpillFileTest, NobodyElseCanOpenTheFile) {
  std::atomic<int> descriptor{-1};
  Open(std::make_unique<WatchingIo>(&descriptor));
  Fill(0, 9);
  ASSERT_TRUE(RunOne(0, 0, true).ok());
  struct stat info{};
  ASSERT_EQ(fstat(descriptor, &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(info.st_nlink, 0u) << "it has a name";
  EXPECT_EQ(NumFilesInFolder(), 0u);
}

TEST_F(SpillFileTest, ErasedBlocksHoldNothing) {
  std::atomic<int> descriptor{-1};
  Open(std::make_unique<WatchingIo>(&descriptor));
  for (const int page : {0, 1, 2}) {
    Fill(page, 40 + page);
    ASSERT_TRUE(RunOne(page, page, true).ok());
  }
  file_->Erase({0, 2, 5});  // the last was never written
  Fill(3, 1);
  ASSERT_TRUE(RunOne(3, 3, true).ok());  // so the erasing has ended
  for (int block = 0; block < 3; ++block) {
    std::vector<std::byte> content(kNumParts * kPartBytes);
    ASSERT_EQ(pread(descriptor, content.data(), content.size(),
                    static_cast<off_t>(block * content.size())),
              static_cast<ssize_t>(content.size()));
    const std::vector<std::byte> zeros(content.size());
    EXPECT_EQ(content, block == 1 ? pages_[1] : zeros) << block;
  }
}

TEST_F(SpillFileTest, ShortTransfersAreGoneOnWith) {
  FaultInjector::Options options;
  options.probability[static_cast<size_t>(Fault::kSpillShort)] = 0.9;
  FaultInjector faults(options);
  Open(MakeFaultyIo(&faults));
  Fill(0, 3);
  const std::vector<std::byte> before = pages_[0];
  ASSERT_TRUE(RunOne(0, 2, true).ok());
  Fill(0, 4);
  ASSERT_TRUE(RunOne(0, 2, false).ok());
  EXPECT_EQ(pages_[0], before);
}

TEST_F(SpillFileTest, FailuresAreTold) {
  Open(std::make_unique<FailingIo>(true, false));
  const absl::Status full = RunOne(0, 0, true);
  EXPECT_TRUE(absl::IsUnavailable(full));
  EXPECT_NE(full.message().find("No space left"), std::string::npos) << full;
  Open(std::make_unique<FailingIo>(false, true));
  EXPECT_TRUE(RunOne(0, 0, true).ok()) << "an interrupted call is none that failed";
  const absl::Status ends = RunOne(0, 0, false);
  EXPECT_NE(ends.message().find("ends too early"), std::string::npos) << ends;
}

TEST_F(SpillFileTest, WhatCannotBeIsSaidAtTheStart) {
  const auto parts = [](int32_t) { return std::vector<std::span<std::byte>>(); };
  const auto nowhere = SpillFile::Create(
      {.folder = folder_ + "/none", .block_bytes = 1, .num_blocks = 1, .io = nullptr}, parts);
  EXPECT_TRUE(absl::IsInvalidArgument(nowhere.status())) << nowhere.status();
  EXPECT_NE(nowhere.status().message().find("--kv_spill_dir"), std::string::npos);
  const auto huge = SpillFile::Create(
      {.folder = folder_, .block_bytes = int64_t{1} << 40, .num_blocks = 1 << 20, .io = nullptr},
      parts);
  EXPECT_TRUE(absl::IsResourceExhausted(huge.status())) << huge.status();
  EXPECT_NE(huge.status().message().find("--kv_spill_gib"), std::string::npos);
}

/// Also where moves are under way.
TEST_F(SpillFileTest, ProcessDeathLeavesNothing) {
  EXPECT_EXIT(
      {
        Open();
        Fill(0, 7);
        (void)RunOne(0, 0, true);
        for (int i = 0; i < 100; ++i)
          file_->Start({.page = 0, .block = 1, .out = true, .status = {}});
        kill(getpid(), SIGKILL);
      },
      testing::KilledBySignal(SIGKILL), "");
  EXPECT_EQ(NumFilesInFolder(), 0u);
}

TEST_F(SpillFileTest, EndsWithMovesUnderWay) {
  FaultInjector::Options options;
  options.probability[static_cast<size_t>(Fault::kSpillSlow)] = 1;
  options.delay = absl::Milliseconds(5);
  FaultInjector faults(options);
  Open(MakeFaultyIo(&faults));
  for (int i = 0; i < 1000; ++i) file_->Start({.page = 0, .block = 1, .out = true, .status = {}});
  file_.reset();  // does not wait for all of them
}

TEST(FaultInjector, ReadsWhatIsWritten) {
  const auto options =
      FaultInjector::Parse("spill_write=0.5,preempt_every=7,delay_ms=50,seed=3,step_slow=1");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->probability[static_cast<size_t>(Fault::kSpillWrite)], 0.5);
  EXPECT_EQ(options->probability[static_cast<size_t>(Fault::kStepSlow)], 1);
  EXPECT_EQ(options->preempt_every, 7);
  EXPECT_EQ(options->delay, absl::Milliseconds(50));
  EXPECT_EQ(options->seed, 3u);
  EXPECT_TRUE(FaultInjector::Parse("").ok());
  for (const char* bad : {"spill", "spill_write=2", "spill_write=x", "spill_write=-1", "nan=nan",
                          "spill_read=nan", "seed", "=1"}) {
    const auto refused = FaultInjector::Parse(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << bad;
  }
}

}  // namespace
}  // namespace nsa::engine
