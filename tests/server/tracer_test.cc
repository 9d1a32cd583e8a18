#include "server/tracing/tracer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"

namespace nsa::server {
namespace {

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";

class NoSink final : public engine::OutputSink {
 public:
  void OnOutput(engine::Output) override {}
  void OnDone(const absl::Status&, const engine::Finish&) override {}
};

class TracerTest : public ::testing::Test {
 protected:
  std::unique_ptr<Tracer> Make(const Tracer::Options& options) {
    auto file = TraceFile::Open(
        {.path = "/dev/null", .model_name = "m", .on_spans = [](SpanOutcome, int64_t) {}});
    EXPECT_TRUE(file.ok()) << file.status();
    return std::make_unique<Tracer>(options, *std::move(file));
  }

  std::shared_ptr<CallRecorder> Begin(const Tracer& tracer, const std::string& flags = "") {
    parent_ = absl::StrCat("00-", kTraceId, "-00f067aa0ba902b7-", flags);
    CallMetadata metadata;
    if (!flags.empty()) metadata.emplace("traceparent", parent_);
    return tracer.Begin("package.Service/Method", metadata, v1::GenerateRequest(), "id",
                        std::make_shared<NoSink>());
  }

  std::string parent_;  // metadata are views
};

TEST_F(TracerTest, TheCallersDecisionHolds) {
  const auto none = Make({.ratio = 0});
  const auto taken = Begin(*none, "01");
  ASSERT_NE(taken, nullptr);
  EXPECT_EQ(taken->record().trace_id, kTraceId);
  EXPECT_TRUE(taken->record().sampled);
  EXPECT_EQ(Begin(*none), nullptr);
  const auto all = Make({.ratio = 1});
  EXPECT_EQ(Begin(*all, "00"), nullptr);
  const auto begun = Begin(*all);
  ASSERT_NE(begun, nullptr);
  EXPECT_EQ(begun->record().trace_id.size(), 32U);
  EXPECT_FALSE(begun->record().parent.has_value());
  const auto malformed = Begin(*all, "0");
  ASSERT_NE(malformed, nullptr) << "as if there were none";
  EXPECT_NE(malformed->record().trace_id, kTraceId);
}

TEST_F(TracerTest, AShareOfTheOthersIsTaken) {
  const auto some = Make({.ratio = 0.25});
  int num_taken = 0;
  for (int i = 0; i < 4000; ++i) num_taken += Begin(*some) != nullptr ? 1 : 0;
  EXPECT_NEAR(num_taken, 1000, 170);  // six standard deviations
}

TEST_F(TracerTest, ANameThatIsRefusedForItsLengthIsNotKeptWhole) {
  const auto all = Make({.ratio = 1});
  const auto recorder = all->Begin("", {}, v1::GenerateRequest(), std::string(1 << 20, 'x'),
                                   std::make_shared<NoSink>());
  EXPECT_EQ(recorder->record().request_id, std::string(256, 'x'));
}

TEST_F(TracerTest, ALogLineNeedsNoFile) {
  const Tracer tracer({.logs_requests = true}, nullptr);
  const auto recorder = Begin(tracer, "01");
  ASSERT_NE(recorder, nullptr);
  EXPECT_FALSE(recorder->record().sampled);
  engine::Finish finish;
  finish.usage.num_prompt_tokens = 7;
  recorder->OnDone(absl::OkStatus(), finish);
  testing::internal::CaptureStderr();
  tracer.End(recorder, absl::OkStatus());
  tracer.End(recorder, absl::OkStatus());
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find(absl::StrCat("INFO request=\"id\" trace=\"", kTraceId,
                                  "\" OK (length): 7 prompt tokens, ")),
            std::string::npos)
      << log;
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
}

}  // namespace
}  // namespace nsa::server
