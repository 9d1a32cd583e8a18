#include "client/load/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>

namespace nsa::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::vector<PlannedRequest>> Read(const std::string& text) {
  std::istringstream input(text);
  return ReadTrace(input);
}

TEST(TraceTest, FieldsAndDefaults) {
  const auto trace = Read(
      "{\"prompt_tokens\": 10, \"output_tokens\": 3}\r\n"
      "\n"
      "{\"arrival_s\": 1.5, \"prompt_tokens\": 20, \"output_tokens\": 4, \"prefix_group\": 7, "
      "\"prefix_tokens\": 20, \"priority\": -2, \"deadline_ms\": 99.5, \"cache_salt\": \"s\"}");
  ASSERT_TRUE(trace.ok()) << trace.status();
  ASSERT_EQ(trace->size(), 2U);
  const PlannedRequest& first = trace->at(0);
  EXPECT_EQ(first.index, 0);
  EXPECT_EQ(first.arrival_s, 0);
  EXPECT_EQ(first.prompt_tokens, 10);
  EXPECT_EQ(first.output_tokens, 3);
  EXPECT_EQ(first.prefix_tokens, 0);
  EXPECT_EQ(first.deadline_ms, 0);
  const PlannedRequest& second = trace->at(1);
  EXPECT_EQ(second.index, 1);
  EXPECT_EQ(second.arrival_s, 1.5);
  EXPECT_EQ(second.prefix_group, 7);
  EXPECT_EQ(second.prefix_tokens, 20);
  EXPECT_EQ(second.priority, -2);
  EXPECT_EQ(second.deadline_ms, 99.5);
  EXPECT_EQ(second.cache_salt, "s");
}

TEST(TraceTest, PromptsByTheirIds) {
  const auto trace = Read(
      "{\"token_ids\": [5, 0, 2147483647], \"output_tokens\": 1}\n"
      "{\"token_ids\": [7, 8], \"prompt_tokens\": 2, \"output_tokens\": 1, \"prefix_group\": 3, "
      "\"prefix_tokens\": 2}\n"
      "{\"prompt_tokens\": 2, \"output_tokens\": 1}");
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_THAT(trace->at(0).token_ids, ElementsAre(5, 0, 2147483647));
  EXPECT_EQ(trace->at(0).prompt_tokens, 3);
  EXPECT_THAT(trace->at(1).token_ids, ElementsAre(7, 8));
  EXPECT_EQ(trace->at(1).prompt_tokens, 2);
  EXPECT_EQ(trace->at(1).prefix_tokens, 2);
  EXPECT_THAT(trace->at(2).token_ids, ElementsAre());
}

TEST(TraceTest, WhatIsWrittenIsReadAgain) {
  const PlannedRequest full = {.arrival_s = 1.0 / 3,
                               .prompt_tokens = 4,
                               .output_tokens = 9,
                               .prefix_group = 2,
                               .prefix_tokens = 3,
                               .priority = -1,
                               .deadline_ms = 0.1,
                               .cache_salt = "s\"",
                               .token_ids = {4, 3, 2, 1}};
  const PlannedRequest plain = {.arrival_s = 1, .prompt_tokens = 7, .output_tokens = 2};
  EXPECT_EQ(TraceJson(plain).size(), 3U) << "what is not there is not written";
  const auto trace = Read(TraceJson(full).dump() + "\n" + TraceJson(plain).dump());
  ASSERT_TRUE(trace.ok()) << trace.status();
  const PlannedRequest& first = trace->at(0);
  EXPECT_EQ(first.arrival_s, full.arrival_s);
  EXPECT_EQ(first.prompt_tokens, full.prompt_tokens);
  EXPECT_EQ(first.output_tokens, full.output_tokens);
  EXPECT_EQ(first.prefix_group, full.prefix_group);
  EXPECT_EQ(first.prefix_tokens, full.prefix_tokens);
  EXPECT_EQ(first.priority, full.priority);
  EXPECT_EQ(first.deadline_ms, full.deadline_ms);
  EXPECT_EQ(first.cache_salt, full.cache_salt);
  EXPECT_EQ(first.token_ids, full.token_ids);
  EXPECT_EQ(trace->at(1).prompt_tokens, plain.prompt_tokens);
  EXPECT_EQ(trace->at(1).output_tokens, plain.output_tokens);
}

TEST(TraceTest, WrongLinesAreNamed) {
  const std::string good = "{\"prompt_tokens\": 1, \"output_tokens\": 1}\n";
  const auto with = [](const std::string& field) {
    return "{\"prompt_tokens\": 9, \"output_tokens\": 1, " + field + "}";
  };
  const std::pair<std::string, const char*> cases[] = {
      {"{", "no JSON"},
      {"[1]", "one JSON object"},
      {"5", "one JSON object"},
      {"{\"output_tokens\": 1}", "no 'prompt_tokens'"},
      {"{\"prompt_tokens\": 1}", "no 'output_tokens'"},
      {"{\"prompt_tokens\": 0, \"output_tokens\": 1}", "'prompt_tokens' must be"},
      {"{\"prompt_tokens\": 1.0, \"output_tokens\": 1}", "'prompt_tokens' must be"},
      {"{\"prompt_tokens\": \"1\", \"output_tokens\": 1}", "'prompt_tokens' must be"},
      {"{\"prompt_tokens\": 1, \"output_tokens\": 99999999999999}", "'output_tokens' must be"},
      {"{\"prompt_tokens\": 1, \"output_tokens\": 1e999}", "no JSON"},
      {with("\"arrival_s\": -1"), "'arrival_s' must be"},
      {with("\"arrival_s\": null"), "'arrival_s' must be"},
      {with("\"arrival_s\": NaN"), "no JSON"},
      {with("\"prefix_group\": 1"), "need each other"},
      {with("\"prefix_tokens\": 1"), "need each other"},
      {with("\"prefix_group\": -1, \"prefix_tokens\": 1"), "'prefix_group' must be"},
      {with("\"prefix_group\": 1, \"prefix_tokens\": 10"), "'prefix_tokens' must be"},
      {with("\"priority\": 0.5"), "'priority' must be"},
      {with("\"deadline_ms\": -1"), "'deadline_ms' must be"},
      {with("\"cache_salt\": 5"), "'cache_salt' must be"},
      {with("\"cache_salt\": \"" + std::string(257, 'x') + "\""), "'cache_salt' must be"},
      {with("\"arival_s\": 1"), "'arival_s' is no field"},
      {with("\"token_ids\": 5"), "'token_ids' must be"},
      {with("\"token_ids\": []"), "'token_ids' must be"},
      {with("\"token_ids\": [1, -1, 1, 1, 1, 1, 1, 1, 1]"), "'token_ids' must be"},
      {with("\"token_ids\": [1, 2.0, 1, 1, 1, 1, 1, 1, 1]"), "'token_ids' must be"},
      {with("\"token_ids\": [1, 2147483648, 1, 1, 1, 1, 1, 1, 1]"), "'token_ids' must be"},
      {with("\"token_ids\": [1, 2]"), "'prompt_tokens' must be the number of token_ids, 2"},
      {std::string(100'000, '['), "no JSON"},
  };
  for (const auto& [line, words] : cases) {
    const auto trace = Read(good + "\n" + line + "\n");
    EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(trace.status().message()), HasSubstr(words)) << line;
    EXPECT_THAT(std::string(trace.status().message()), HasSubstr("line 3")) << line;
  }
}

TEST(TraceTest, ArrivalsAscend) {
  const std::string fields = ", \"prompt_tokens\": 1, \"output_tokens\": 1}\n";
  EXPECT_TRUE(Read("{\"arrival_s\": 2" + fields + "{\"arrival_s\": 2" + fields).ok());
  const auto trace = Read("{\"arrival_s\": 2" + fields + "{\"arrival_s\": 1.9" + fields);
  EXPECT_THAT(std::string(trace.status().message()), HasSubstr("line 2: 'arrival_s'"));
}

TEST(TraceTest, FilesWithoutRequests) {
  for (const char* text : {"", "\n \n"}) {
    EXPECT_THAT(std::string(Read(text).status().message()), HasSubstr("no request"));
  }
  for (const char* path : {"no/such/file", ".", ""}) {
    const auto trace = ReadTraceFile(path);
    EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(trace.status().message()), HasSubstr("--trace_file"));
  }
}

}  // namespace
}  // namespace nsa::client
