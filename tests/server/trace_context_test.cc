#include "server/tracing/trace_context.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "absl/strings/str_cat.h"

namespace nsa::server {
namespace {

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kSpanId[] = "00f067aa0ba902b7";

std::string Parent(const std::string& version, const std::string& flags) {
  return absl::StrCat(version, "-", kTraceId, "-", kSpanId, "-", flags);
}

TEST(TraceContextTest, TakesIdsAndFlag) {
  const auto context = ParseTraceContext({Parent("00", "01")}, {});
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace_id, kTraceId);
  EXPECT_EQ(context->span_id, kSpanId);
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(context->state, "");
  EXPECT_FALSE(ParseTraceContext({Parent("00", "00")}, {})->sampled);
  EXPECT_FALSE(ParseTraceContext({Parent("00", "fe")}, {})->sampled) << "one bit alone counts";
  EXPECT_TRUE(ParseTraceContext({Parent("00", "ff")}, {})->sampled);
}

TEST(TraceContextTest, ALaterVersionIsReadAsFarAsItIsKnown) {
  EXPECT_TRUE(ParseTraceContext({Parent("01", "01")}, {})->sampled);
  EXPECT_EQ(ParseTraceContext({Parent("cc", "01-what-comes")}, {})->trace_id, kTraceId);
  EXPECT_FALSE(ParseTraceContext({Parent("cc", "01.what-comes")}, {}).has_value());
  EXPECT_FALSE(ParseTraceContext({Parent("cc", "011")}, {}).has_value());
}

TEST(TraceContextTest, WhatIsInvalidCountsAsNone) {
  const std::string good = Parent("00", "01");
  std::set<std::string> bad = {"",
                               "-",
                               "00",
                               Parent("ff", "01"),
                               Parent("0", "01"),
                               Parent("00", "01-"),
                               Parent("00", "01-x"),
                               Parent("00", " 01"),
                               " " + good,
                               good + " ",
                               Parent("00", "1"),
                               Parent("000", "01"),
                               std::string(1 << 20, '0'),
                               std::string(55, '-')};
  for (size_t i = 0; i < good.size(); ++i) {
    for (const char c : {'G', 'A', ' ', '\0', '\xff', '_'}) {
      std::string changed = good;
      changed[i] = c;
      bad.insert(changed);
    }
    bad.insert(good.substr(0, i));
    std::string without = good;
    bad.insert(without.erase(i, 1));
  }
  std::string zero_trace = good, zero_span = good;
  bad.insert(zero_trace.replace(3, 32, 32, '0'));
  bad.insert(zero_span.replace(36, 16, 16, '0'));
  for (const std::string& text : bad) {
    EXPECT_FALSE(ParseTraceContext({text}, {}).has_value()) << text;
  }
  EXPECT_FALSE(ParseTraceContext({}, {}).has_value());
  EXPECT_FALSE(ParseTraceContext({}, {"a=b"}).has_value());
  EXPECT_FALSE(ParseTraceContext({good, good}, {}).has_value()) << "which of them?";
}

TEST(TraceContextTest, StatesArePassedOnInOrder) {
  const auto state = [](const std::vector<std::string_view>& states) {
    return ParseTraceContext({Parent("00", "01")}, states)->state;
  };
  EXPECT_EQ(state({"a=1"}), "a=1");
  EXPECT_EQ(state({"a=1,b@x=2 ", "c=3"}), "a=1,b@x=2 ,c=3");
  EXPECT_EQ(state({"a=1,,b=2"}), "a=1,,b=2");
  for (const std::string& bad : {std::string("a"), std::string("a=\n"), std::string("a=\xc3\xbc"),
                                 "a=" + std::string(511, 'x')}) {
    EXPECT_EQ(state({bad}), "") << bad;
  }
  std::string many = "k=0";
  for (int i = 1; i < 33; ++i) absl::StrAppend(&many, ",k", i, "=");
  EXPECT_EQ(state({many}), "");
  EXPECT_EQ(state({std::string(300, 'x') + "=", std::string(300, 'y') + "="}), "");
}

TEST(TraceContextTest, IdsAreRandomAndNeverZero) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string trace = RandomId(16), span = RandomId(8);
    ASSERT_EQ(trace.size(), 32U);
    ASSERT_EQ(span.size(), 16U);
    EXPECT_TRUE(ParseTraceContext({absl::StrCat("00-", trace, "-", span, "-01")}, {}).has_value());
    EXPECT_TRUE(seen.insert(trace).second && seen.insert(span).second);
  }
}

TEST(TraceContextTest, ARatioOfTracesIsSampled) {
  int num_sampled = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string id = RandomId(16);
    EXPECT_TRUE(IsSampled(id, 1));
    EXPECT_FALSE(IsSampled(id, 0));
    EXPECT_EQ(IsSampled(id, 0.3), IsSampled(id, 0.3)) << "the id alone decides";
    if (IsSampled(id, 0.3)) {
      ++num_sampled;
      EXPECT_TRUE(IsSampled(id, 0.5)) << "a larger share takes all of a smaller one";
    }
  }
  EXPECT_NEAR(num_sampled, 6000, 400);  // six standard deviations
  EXPECT_TRUE(IsSampled("ffffffffffffffffff00000000000000", 1e-9));
  EXPECT_FALSE(IsSampled("000000000000000000ffffffffffffff", 0.999));
}

}  // namespace
}  // namespace nsa::server
