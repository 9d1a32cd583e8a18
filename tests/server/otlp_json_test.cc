#include "server/tracing/otlp_json.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_replace.h"
#include "server/version.h"

namespace nsa::server {
namespace {

/// tests/e2e reads such lines with OpenTelemetry's own messages.
TEST(OtlpJsonTest, Golden) {
  SpanTree tree;
  tree.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
  tree.trace_state = "a=1";
  tree.has_remote_parent = true;
  Span root;
  root.name = "chat m";
  root.kind = Span::Kind::kServer;
  root.id = "00000000000000aa";
  root.parent_id = "00f067aa0ba902b7";
  root.begin = absl::FromUnixNanos(1'700'000'000'000'000'001);
  root.end = absl::FromUnixNanos(1'700'000'001'000'000'000);
  root.attributes = {{"s", "x\"y"},
                     {"i", int64_t{9'007'199'254'740'993}},
                     {"d", 0.5},
                     {"b", true},
                     {"l", std::vector<std::string>{"stop", "length"}}};
  root.failed = true;
  root.message = "why";
  Span child;
  child.name = "queue";
  child.id = "00000000000000bb";
  child.parent_id = root.id;
  child.begin = child.end = root.begin;
  tree.spans = {root, child};
  const std::string expected = absl::StrReplaceAll(
      R"({"resourceSpans":[{"resource":{"attributes":[)"
      R"({"key":"service.name","value":{"stringValue":"nsa-serve"}}]},)"
      R"("scopeSpans":[{"scope":{"name":"nsa_server","version":"VERSION"},"spans":[)"
      R"({"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00000000000000aa",)"
      R"("parentSpanId":"00f067aa0ba902b7","traceState":"a=1","flags":769,"name":"chat m",)"
      R"("kind":2,"startTimeUnixNano":"1700000000000000001",)"
      R"("endTimeUnixNano":"1700000001000000000","attributes":[)"
      R"({"key":"s","value":{"stringValue":"x\"y"}},)"
      R"({"key":"i","value":{"intValue":"9007199254740993"}},)"
      R"({"key":"d","value":{"doubleValue":0.5}},{"key":"b","value":{"boolValue":true}},)"
      R"({"key":"l","value":{"arrayValue":{"values":[{"stringValue":"stop"},)"
      R"({"stringValue":"length"}]}}}],"status":{"code":2,"message":"why"}},)"
      R"({"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00000000000000bb",)"
      R"("parentSpanId":"00000000000000aa","traceState":"a=1","flags":257,"name":"queue",)"
      R"("kind":1,"startTimeUnixNano":"1700000000000000001",)"
      R"("endTimeUnixNano":"1700000000000000001"}]}]}]})"
      "\n",
      {{"VERSION", kVersion}});
  EXPECT_EQ(ToOtlpJson({{"service.name", "nsa-serve"}}, tree), expected);
}

TEST(OtlpJsonTest, LinesAreBoundedAndHoldAllSpans) {
  SpanTree tree;
  tree.spans.resize(2 * kMaxSpansOfLine + 1);
  const std::string lines = ToOtlpJson({}, tree);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3);
  size_t num_spans = 0;
  for (size_t at = 0; (at = lines.find("\"spanId\"", at)) != std::string::npos; ++at) ++num_spans;
  EXPECT_EQ(num_spans, tree.spans.size());
}

TEST(OtlpJsonTest, AnyBytesBecomeOneLine) {
  SpanTree tree;
  Span& span = tree.spans.emplace_back();
  span.attributes = {{"id", std::string("a\nb\0c\xff\xc3", 7)}};
  const std::string lines = ToOtlpJson({}, tree);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1);
  EXPECT_NE(lines.find("a\\nb\\u0000c\xef\xbf\xbd"), std::string::npos) << lines;
}

}  // namespace
}  // namespace nsa::server
