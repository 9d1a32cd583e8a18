#include "engine/admission.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace nsa::engine {
namespace {

TEST(AdmissionTest, LimitsOfAllAndOfATenant) {
  const QueueLimits limits = {{10, 1000}, {4, 300}};
  QueueCounts counts;
  counts.Add("a", 3, 200);
  counts.Add("b", 2, 100);
  EXPECT_EQ(counts.total().num_requests, 5);
  EXPECT_EQ(counts.Of("a").num_tokens, 200);
  EXPECT_EQ(counts.Of("c").num_requests, 0);
  EXPECT_TRUE(CheckQueue(counts, limits, "a", {1, 100}).ok());
  const absl::Status requests = CheckQueue(counts, limits, "a", {2, 2});
  EXPECT_TRUE(absl::IsResourceExhausted(requests));
  EXPECT_NE(requests.message().find("tenant is full: 3 requests"), std::string::npos) << requests;
  const absl::Status tokens = CheckQueue(counts, limits, "a", {1, 101});
  EXPECT_NE(tokens.message().find("limit of 300"), std::string::npos) << tokens;
  // Another tenant has room, and one of whom nothing waits may send what it likes.
  EXPECT_TRUE(CheckQueue(counts, limits, "b", {2, 200}).ok());
  EXPECT_TRUE(CheckQueue(counts, limits, "c", {5, 700}).ok());
  const absl::Status all = CheckQueue(counts, limits, "c", {6, 1});
  EXPECT_NE(all.message().find("the queue is full: 5 requests"), std::string::npos) << all;
  EXPECT_TRUE(absl::IsResourceExhausted(CheckQueue(counts, limits, "c", {1, 701})));
  counts.Clear();
  EXPECT_TRUE(CheckQueue(counts, limits, "a", {100, 100'000}).ok()) << "nothing waits";
}

TEST(AdmissionTest, TheOldestThatWaits) {
  QueueCounts counts;
  EXPECT_EQ(counts.oldest(), absl::InfiniteFuture()) << "nobody";
  counts.NoteArrival(absl::FromUnixSeconds(20));
  counts.NoteArrival(absl::FromUnixSeconds(10));
  counts.NoteArrival(absl::FromUnixSeconds(30));
  EXPECT_EQ(counts.oldest(), absl::FromUnixSeconds(10));
  counts.Clear();
  EXPECT_EQ(counts.oldest(), absl::InfiniteFuture());
}

TEST(AdmissionTest, NoTenantLimitUnlessAsked) {
  QueueCounts counts;
  counts.Add("", 9, 900);
  EXPECT_TRUE(CheckQueue(counts, {{10, 1000}, {}}, "", {1, 100}).ok());
  EXPECT_FALSE(CheckQueue(counts, {{10, 1000}, {}}, "", {2, 1}).ok());
}

TEST(AdmissionTest, RetryDelayFollowsThePace) {
  RetryEstimate estimate;
  absl::Time now = absl::UnixEpoch();
  EXPECT_EQ(estimate.Delay(now), absl::Seconds(1)) << "nothing is known";
  for (int i = 0; i < 50; ++i) estimate.OnEnd(now += absl::Seconds(3));
  EXPECT_NEAR(absl::ToDoubleSeconds(estimate.Delay(now)), 3, 0.01);
  EXPECT_EQ(estimate.Delay(now + absl::Seconds(20)), absl::Seconds(20)) << "nothing ends any more";
  EXPECT_EQ(estimate.Delay(now + absl::Hours(1)), absl::Seconds(60));
  for (int i = 0; i < 50; ++i) estimate.OnEnd(now += absl::Milliseconds(1));
  EXPECT_EQ(estimate.Delay(now), absl::Milliseconds(100));
}

TEST(AdmissionTest, TheHintTravelsWithTheStatus) {
  const absl::Status full = absl::ResourceExhaustedError("full");
  EXPECT_FALSE(RetryAfterOf(full).has_value());
  const absl::Status hinted = WithRetryAfter(full, absl::Milliseconds(1234));
  EXPECT_EQ(hinted.message(), "full");
  EXPECT_EQ(RetryAfterOf(hinted), absl::Milliseconds(1234));
  EXPECT_FALSE(RefusalReasonOf(hinted).has_value());
  const absl::Status refused = WithRefusal(full, "a reason", absl::Milliseconds(1234));
  EXPECT_EQ(RefusalReasonOf(refused), "a reason");
  EXPECT_EQ(RetryAfterOf(refused), absl::Milliseconds(1234));
}

}  // namespace
}  // namespace nsa::engine
