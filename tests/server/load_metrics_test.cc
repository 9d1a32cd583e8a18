#include "server/load_metrics.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "tests/server/fake_engine.h"

namespace nsa::server {
namespace {

double Age(const LoadMetrics& metrics) {
  const auto families = metrics.Collect();
  EXPECT_EQ(families.size(), 1U);
  EXPECT_EQ(families.at(0).name, "nsa:oldest_waiting_request_age_seconds");
  EXPECT_EQ(families.at(0).type, prometheus::MetricType::Gauge);
  EXPECT_EQ(families.at(0).metric.at(0).label.at(0).value, "m");
  return families.at(0).metric.at(0).gauge.value;
}

TEST(LoadMetricsTest, TheAgeIsThatOfTheScrape) {
  FakeEngine engine;
  LoadMetrics metrics(&engine, "m");
  EXPECT_EQ(Age(metrics), 0) << "nobody waits";
  engine.oldest_arrival = absl::Now() - absl::Seconds(7);
  const double first = Age(metrics);
  EXPECT_GE(first, 7);
  EXPECT_LT(first, 60);
  absl::SleepFor(absl::Milliseconds(5));
  EXPECT_GE(Age(metrics), first + 0.005) << "though the engine has told nothing new";
  engine.oldest_arrival = absl::Now() + absl::Hours(1);
  EXPECT_EQ(Age(metrics), 0) << "a clock that was set back";
  metrics.Detach();
  EXPECT_TRUE(metrics.Collect().empty());
}

}  // namespace
}  // namespace nsa::server
