#include "client/load/driver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/client/fake_service.h"

namespace nsa::client {
namespace {

using grpc::StatusCode;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::Field;
using ::testing::Ge;
using ::testing::Le;
using ::testing::SizeIs;
using Way = FakeService::Way;

class DriverTest : public ::testing::Test {
 protected:
  DriverTest() : prompts_(1, 100, {}) {}

  Driver::Options Options() {
    Driver::Options options;
    options.stubs = {&service_.stub()};
    options.prompts = &prompts_;
    options.common.mutable_stopping()->set_ignore_eos(true);
    options.on_done = [this](RequestRecord record) { records_.push_back(std::move(record)); };
    return options;
  }

  /// `count` requests, `gap_s` apart.
  static Driver::Source Requests(int64_t count, double gap_s = 0, double deadline_ms = 0) {
    return [=, index = int64_t{0}]() mutable -> std::optional<PlannedRequest> {
      if (index == count) return std::nullopt;
      PlannedRequest request;
      request.index = index++;
      request.arrival_s = static_cast<double>(request.index) * gap_s;
      request.prompt_tokens = 7;
      request.output_tokens = 3;
      request.deadline_ms = deadline_ms;
      return request;
    };
  }

  template <typename Condition>
  static bool Eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  double LastEnd() const {
    double last = 0;
    for (const RequestRecord& record : records_) last = std::max(last, record.end_s);
    return last;
  }

  /// Requests between sending and end at the same time, as the client's clock has it.
  int MostInFlight() const {
    std::vector<std::pair<double, int>> changes;
    for (const RequestRecord& record : records_) {
      changes.emplace_back(record.sent_s, 1);
      changes.emplace_back(record.end_s, -1);
    }
    std::sort(changes.begin(), changes.end());  // at one time, ends come first
    int now = 0, most = 0;
    for (const auto& [time, change] : changes) most = std::max(most, now += change);
    return most;
  }

  PromptMaker prompts_;
  FakeService service_;
  std::vector<RequestRecord> records_;  // written one at a time, read when Run is back
};

TEST_F(DriverTest, RequestsSayWhatWasPlanned) {
  Driver driver(Options());
  driver.Run(
      [sent = false]() mutable -> std::optional<PlannedRequest> {
        if (std::exchange(sent, true)) return std::nullopt;
        return PlannedRequest{
            .prompt_tokens = 9, .output_tokens = 4, .priority = -3, .cache_salt = "salt"};
      },
      {});
  ASSERT_EQ(service_.requests().size(), 1U);
  const v1::GenerateRequest request = service_.requests()[0];
  EXPECT_EQ(request.token_ids().ids_size(), 9);
  EXPECT_EQ(request.stopping().max_tokens(), 4);
  EXPECT_TRUE(request.stopping().ignore_eos());
  EXPECT_EQ(request.priority(), -3);
  EXPECT_EQ(request.cache_salt(), "salt");
  ASSERT_THAT(records_, SizeIs(1));
  const RequestRecord& record = records_[0];
  EXPECT_TRUE(record.ok()) << record.message;
  EXPECT_EQ(record.prompt_tokens, 9);
  EXPECT_EQ(record.output_tokens, 4);
  EXPECT_EQ(record.cached_tokens, 2);
  EXPECT_EQ(record.finish_reason, "length");
  EXPECT_THAT(record.gaps_s, SizeIs(3));
  EXPECT_GE(record.sent_s, record.scheduled_s);
  EXPECT_GT(record.first_token_s, record.sent_s);
  EXPECT_GE(record.last_token_s, record.first_token_s);
  EXPECT_GE(record.end_s, record.last_token_s);
}

TEST_F(DriverTest, APromptOfATraceIsSentAsItIs) {
  Driver driver(Options());
  driver.Run(
      [sent = false]() mutable -> std::optional<PlannedRequest> {
        if (std::exchange(sent, true)) return std::nullopt;
        return PlannedRequest{.prompt_tokens = 3, .output_tokens = 1, .token_ids = {70, 7, 70}};
      },
      {});
  ASSERT_EQ(service_.requests().size(), 1U);
  EXPECT_THAT(service_.requests()[0].token_ids().ids(), ::testing::ElementsAre(70, 7, 70));
  ASSERT_THAT(records_, SizeIs(1));
  EXPECT_THAT(records_[0].planned.token_ids, SizeIs(0)) << "records of long runs stay small";
  EXPECT_EQ(records_[0].planned.prompt_tokens, 3);
}

TEST_F(DriverTest, ASlowServerDelaysNoArrival) {
  constexpr int kRequests = 2000;
  service_.set_way(Way::kHold);
  Driver driver(Options());
  std::thread run([&] { driver.Run(Requests(kRequests, /*gap_s=*/0.0005), {}); });
  EXPECT_TRUE(Eventually([&] { return service_.num_open() == kRequests; }));
  EXPECT_EQ(driver.progress().num_in_flight, kRequests);
  EXPECT_EQ(driver.progress().num_sent, kRequests);
  EXPECT_THAT(records_, SizeIs(0));
  service_.Release();
  run.join();
  ASSERT_THAT(records_, SizeIs(kRequests));
  double last_scheduled = 0;
  for (const RequestRecord& record : records_) {
    EXPECT_TRUE(record.ok()) << record.message;
    EXPECT_DOUBLE_EQ(record.scheduled_s, record.planned.arrival_s);
    EXPECT_GE(record.sent_s, record.scheduled_s) << "never early";
    EXPECT_GE(record.ttft_s(), record.first_token_s - record.sent_s);
    last_scheduled = std::max(last_scheduled, record.scheduled_s);
  }
  for (const RequestRecord& record : records_) {
    EXPECT_GT(record.first_token_s, last_scheduled) << "the first was held until the last came";
  }
}

TEST_F(DriverTest, AClosedLoopHasNoMoreUsersThanAsked) {
  Driver driver(Options());
  driver.Run(Requests(200), {.concurrency = 5});
  ASSERT_THAT(records_, SizeIs(200));
  EXPECT_THAT(MostInFlight(), AllOf(Ge(1), Le(5)));
  service_.set_way(Way::kHold);
  std::thread run([&] { driver.Run(Requests(200), {.concurrency = 5}); });
  EXPECT_TRUE(Eventually([&] { return service_.num_open() == 5; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(service_.num_open(), 5);
  service_.Release();
  run.join();
  EXPECT_THAT(records_, SizeIs(400));
}

TEST_F(DriverTest, ARejectedUserWaitsAsLongAsTheServerSays) {
  service_.set_way(Way::kReject);
  service_.set_retry_after_ms("200");
  Driver driver(Options());
  driver.Run(Requests(3), {.concurrency = 1});
  ASSERT_THAT(records_, SizeIs(3));
  for (const RequestRecord& record : records_) {
    EXPECT_EQ(record.code, StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(record.message, "the queue is full");
    EXPECT_EQ(record.retry_after_ms, 200);
    EXPECT_EQ(record.finish_reason, "");
  }
  EXPECT_GE(LastEnd(), 0.4);
}

TEST_F(DriverTest, AUserWhoWaitsHoldsUpNoOther) {
  // The first is refused for a long time; the second user does all the rest meanwhile.
  service_.set_way(Way::kReject);
  service_.set_retry_after_ms("3000");
  Driver driver(Options());
  auto source = Requests(50);
  bool first = true;
  driver.Run(
      [&] {
        if (!std::exchange(first, false)) {
          EXPECT_TRUE(Eventually([&] { return !service_.requests().empty(); }));
          service_.set_way(Way::kComplete);
        }
        return source();
      },
      {.concurrency = 2});
  ASSERT_THAT(records_, SizeIs(50));
  EXPECT_LT(LastEnd(), 3);
}

TEST_F(DriverTest, HintsThatAreNoNumbersAreNone) {
  for (const char* text : {"soon", "-5", ""}) {
    FakeService service;
    service.set_way(Way::kReject);
    service.set_retry_after_ms(text);
    Driver::Options options = Options();
    options.stubs = {&service.stub()};
    Driver(std::move(options)).Run(Requests(1), {});
    EXPECT_FALSE(records_.back().retry_after_ms.has_value()) << text;
  }
}

TEST_F(DriverTest, StopCancelsWhatRunsAndSendsNoMore) {
  service_.set_way(Way::kHold);
  Driver driver(Options());
  std::thread run([&] { driver.Run(Requests(1'000'000, /*gap_s=*/0.01), {}); });
  EXPECT_TRUE(Eventually([&] { return service_.num_open() >= 5; }));
  driver.Stop();
  run.join();
  EXPECT_THAT(records_, SizeIs(Ge(5U)));
  EXPECT_THAT(records_, Each(Field(&RequestRecord::code, StatusCode::CANCELLED)));
  const size_t before = records_.size();
  driver.Run(Requests(5), {});
  driver.Run(Requests(5), {.concurrency = 2});
  EXPECT_THAT(records_, SizeIs(before));
  EXPECT_TRUE(Eventually([&] { return service_.num_open() == 0; })) << "the server knows";
}

TEST_F(DriverTest, DeadlinesCountFromTheArrival) {
  service_.set_way(Way::kHold);
  Driver driver(Options());
  driver.Run(Requests(5, 0.01, /*deadline_ms=*/100), {});
  ASSERT_THAT(records_, SizeIs(5));
  EXPECT_THAT(records_, Each(Field(&RequestRecord::code, StatusCode::DEADLINE_EXCEEDED)));
  for (const RequestRecord& record : records_) EXPECT_GE(record.e2e_s(), 0.099);
}

TEST_F(DriverTest, DurationEndsArrivals) {
  Driver driver(Options());
  driver.Run(Requests(1000, /*gap_s=*/0.02), {.duration_s = 0.1});
  EXPECT_THAT(records_, SizeIs(5)) << "at 0, 20, 40, 60 and 80 ms";
  records_.clear();
  service_.set_way(Way::kReject);
  service_.set_retry_after_ms("60000");
  driver.Run(Requests(1000), {.concurrency = 2, .duration_s = 0.3});
  EXPECT_THAT(records_, SizeIs(2)) << "nobody waits for users who come back after the end";
}

TEST_F(DriverTest, EndsThatAreNone) {
  Driver driver(Options());
  service_.set_way(Way::kAbort);
  driver.Run(Requests(1), {});
  EXPECT_EQ(records_.back().code, StatusCode::ABORTED);
  EXPECT_EQ(records_.back().finish_reason, "");
  service_.set_way(Way::kUnfinished);
  driver.Run(Requests(1), {});
  EXPECT_EQ(records_.back().code, StatusCode::INTERNAL);
}

TEST_F(DriverTest, AServerThatDiesLeavesNothingHanging) {
  service_.set_way(Way::kHold);
  Driver driver(Options());
  std::thread run([&] { driver.Run(Requests(40, /*gap_s=*/0.01), {}); });
  EXPECT_TRUE(Eventually([&] { return service_.num_open() >= 5; }));
  service_.Stop();
  run.join();
  ASSERT_THAT(records_, SizeIs(40)) << "each has its end";
  for (const RequestRecord& record : records_) {
    EXPECT_TRUE(record.code == StatusCode::UNAVAILABLE || record.code == StatusCode::CANCELLED)
        << record.code;
  }
}

}  // namespace
}  // namespace nsa::client
