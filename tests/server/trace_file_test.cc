#include "server/tracing/trace_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/server/fake_engine.h"

namespace nsa::server {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class TraceFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              ("trace_file_" + std::to_string(getpid()) + "_" + RandomId(4));
    std::filesystem::create_directories(folder_);
    options_.path = (folder_ / "traces.jsonl").string();
    options_.model_name = "m";
    options_.on_spans = [this](SpanOutcome outcome, int64_t num_spans) {
      counts_[static_cast<size_t>(outcome)] += num_spans;
    };
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<TraceFile> Open() {
    auto file = TraceFile::Open(options_);
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }

  /// One span each.
  static std::shared_ptr<CallRecorder> Ended(const std::string& id) {
    CallRecord record;
    record.request_id = id;
    record.trace_id = RandomId(16);
    record.began = absl::Now();
    record.request_attributes = {{"gen_ai.operation.name", "chat"}};
    auto recorder = std::make_shared<CallRecorder>(std::move(record), nullptr);
    recorder->End(absl::OkStatus());
    return recorder;
  }

  int64_t count(SpanOutcome outcome) const { return counts_[static_cast<size_t>(outcome)]; }

  /// Ids of the requests in a file, each line of which must be JSON, in order.
  static std::vector<std::string> Ids(const std::string& path) {
    std::vector<std::string> ids;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const auto json = nlohmann::json::parse(line, nullptr, false);
      if (json.is_discarded()) {
        ids.push_back("broken");
        continue;
      }
      for (const auto& a : json["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["attributes"]) {
        if (a["key"] == "gen_ai.response.id") ids.push_back(a["value"]["stringValue"]);
      }
    }
    return ids;
  }

  std::filesystem::path folder_;
  TraceFile::Options options_;
  std::array<std::atomic<int64_t>, 3> counts_{};
};

TEST_F(TraceFileTest, ALineForEachCallInOrderAndNothingIsLostAtTheEnd) {
  std::vector<std::string> expected;
  {
    auto file = Open();
    for (int i = 0; i < 500; ++i) {
      expected.push_back(std::to_string(i));
      file->Add(Ended(expected.back()));
    }
  }
  EXPECT_EQ(Ids(options_.path), expected);
  EXPECT_EQ(count(SpanOutcome::kWritten), 500);
  EXPECT_EQ(count(SpanOutcome::kQueueFull) + count(SpanOutcome::kWriteFailed), 0);
  struct stat status{};
  ASSERT_EQ(stat(options_.path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U) << "names of requests are nobody else's";
}

TEST_F(TraceFileTest, AppendsToWhatIsThere) {
  Open()->Add(Ended("first"));
  Open()->Add(Ended("second"));
  EXPECT_EQ(Ids(options_.path), (std::vector<std::string>{"first", "second"}));
}

TEST_F(TraceFileTest, AFileThatWasMovedAwayIsBegunAnew) {
  auto file = Open();
  file->Add(Ended("first"));
  ASSERT_TRUE(Eventually([&] { return count(SpanOutcome::kWritten) == 1; }));
  const std::string old = options_.path + ".old";
  std::filesystem::rename(options_.path, old);
  file->Add(Ended("second"));
  ASSERT_TRUE(Eventually([&] { return count(SpanOutcome::kWritten) == 2; }));
  EXPECT_EQ(Ids(old), std::vector<std::string>{"first"});
  EXPECT_EQ(Ids(options_.path), std::vector<std::string>{"second"});
}

TEST_F(TraceFileTest, TwoFilesOfTheLargestSizeAreAllThatItTakes) {
  options_.max_bytes = 8000;
  auto file = Open();
  for (int i = 0; i < 60; ++i) {
    file->Add(Ended(std::to_string(i)));
    ASSERT_TRUE(Eventually([&] { return count(SpanOutcome::kWritten) == i + 1; }));
  }
  EXPECT_LE(std::filesystem::file_size(options_.path), 8000U);
  EXPECT_LE(std::filesystem::file_size(options_.path + ".1"), 8000U);
  std::vector<std::string> ids = Ids(options_.path + ".1");
  for (const std::string& id : Ids(options_.path)) ids.push_back(id);
  ASSERT_FALSE(ids.empty());
  EXPECT_LT(ids.size(), 60U) << "the oldest went";
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(ids[i], std::to_string(60 - ids.size() + i));
}

TEST_F(TraceFileTest, AFullDiskCostsSpansAlone) {
  options_.path = "/dev/full";
  auto file = Open();
  for (int i = 0; i < 3; ++i) file->Add(Ended("lost"));
  EXPECT_TRUE(Eventually([&] { return count(SpanOutcome::kWriteFailed) == 3; }));
}

TEST_F(TraceFileTest, WhatCannotBeWrittenIsCountedAndTheFileMayComeBack) {
  auto file = Open();
  std::filesystem::remove(options_.path);
  std::filesystem::create_directory(options_.path);  // root may write anything but a folder
  file->Add(Ended("lost"));
  ASSERT_TRUE(Eventually([&] { return count(SpanOutcome::kWriteFailed) == 1; }));
  std::filesystem::remove(options_.path);
  file->Add(Ended("kept"));
  ASSERT_TRUE(Eventually([&] { return count(SpanOutcome::kWritten) == 1; }));
  EXPECT_EQ(Ids(options_.path), std::vector<std::string>{"kept"});
}

TEST_F(TraceFileTest, APipeThatNobodyReadsHoldsNothingUp) {
  ASSERT_EQ(mkfifo(options_.path.c_str(), 0600), 0);
  const auto refused = TraceFile::Open(options_);
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << refused.status();
  const int reader = open(options_.path.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  {
    auto file = Open();
    for (int i = 0; i < 200; ++i) file->Add(Ended("x"));  // more than a pipe takes
  }
  close(reader);
  EXPECT_GT(count(SpanOutcome::kWriteFailed), 0);
  EXPECT_EQ(count(SpanOutcome::kWritten) + count(SpanOutcome::kWriteFailed), 200);
}

TEST_F(TraceFileTest, ALineThatBrokeOffBreaksNoOther) {
  // A pipe takes a part of what is written, and no part can be taken back.
  ASSERT_EQ(mkfifo(options_.path.c_str(), 0600), 0);
  const int reader = open(options_.path.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  auto file = Open();
  int64_t added = 0;
  while (count(SpanOutcome::kWriteFailed) == 0) {
    file->Add(Ended(std::string(25'000, 'x')));
    ++added;
    ASSERT_TRUE(Eventually(
        [&] { return count(SpanOutcome::kWritten) + count(SpanOutcome::kWriteFailed) == added; }));
  }
  std::string text(1 << 20, '\0');
  text.resize(static_cast<size_t>(read(reader, text.data(), text.size())));
  EXPECT_NE(text.back(), '\n') << "it broke off";
  file->Add(Ended("after"));
  file.reset();
  std::string rest(1 << 20, '\0');
  rest.resize(static_cast<size_t>(read(reader, rest.data(), rest.size())));
  close(reader);
  EXPECT_THAT(rest, StartsWith("\n{"));
  std::ofstream(folder_ / "read") << text << rest;
  const std::vector<std::string> ids = Ids((folder_ / "read").string());
  EXPECT_EQ(ids.back(), "after");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), "broken"), 1);
}

TEST_F(TraceFileTest, TheQueueIsBounded) {
  options_.max_queued_spans = 10;
  ASSERT_EQ(Ended("x")->record().MaxSpans(), 3);
  std::atomic<bool> blocked{true};
  options_.on_spans = [&](SpanOutcome outcome, int64_t num_spans) {
    counts_[static_cast<size_t>(outcome)] += num_spans;
    // The thread hangs, as it does in a write to a disk that is gone.
    while (outcome == SpanOutcome::kWritten && blocked) absl::SleepFor(absl::Milliseconds(1));
  };
  auto file = Open();
  file->Add(Ended("first"));
  ASSERT_TRUE(Eventually([&] { return count(SpanOutcome::kWritten) == 1; }));
  for (int i = 0; i < 100; ++i) file->Add(Ended("more"));
  EXPECT_EQ(count(SpanOutcome::kQueueFull), 98 * 3) << "two more have room beside the first";
  blocked = false;
  file.reset();
  EXPECT_EQ(count(SpanOutcome::kWritten), 3);
  EXPECT_EQ(Ids(options_.path), (std::vector<std::string>{"first", "more", "more"}));
}

TEST_F(TraceFileTest, WhatCanNeverBeWrittenIsRefusedAtTheStart) {
  for (const std::string& path : {folder_.string(), (folder_ / "none" / "x").string()}) {
    options_.path = path;
    const auto file = TraceFile::Open(options_);
    EXPECT_TRUE(absl::IsInvalidArgument(file.status()));
    EXPECT_THAT(std::string(file.status().message()), StartsWith("--trace_file is '"));
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(path));
  }
}

}  // namespace
}  // namespace nsa::server
