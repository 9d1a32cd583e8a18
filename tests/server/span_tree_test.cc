#include "server/tracing/span_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace nsa::server {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;

absl::Time At(int64_t milliseconds) {
  return absl::UnixEpoch() + absl::Hours(1) + absl::Milliseconds(milliseconds);
}

/// Two chunks, then tokens, one preemption.
CallRecord::Choice Choice(int32_t index = 0) {
  CallRecord::Choice choice;
  choice.index = index;
  choice.finish_reason = "length";
  choice.times = {
      .arrival = At(10), .first_scheduled = At(30), .first_token = At(60), .end = At(90)};
  choice.usage = {.num_prompt_tokens = 100,
                  .num_cached_tokens = 36,
                  .num_generated_tokens = 5,
                  .queue_time = absl::Milliseconds(20),
                  .prefill_time = absl::Milliseconds(30),
                  .decode_time = absl::Milliseconds(30)};
  choice.chunks = {
      {36, 40, 1, At(30), At(45)}, {76, 24, 1, At(46), At(61)}, {36, 67, 2, At(70), At(80)}};
  choice.num_preemptions = 1;
  return choice;
}

CallRecord Record() {
  CallRecord record;
  record.method = "package.Service/Method";
  record.request_id = "mine";
  record.trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
  record.sampled = true;
  record.request_attributes = {{"gen_ai.operation.name", std::string("chat")}};
  record.began = At(0);
  record.work_began = At(5);
  record.first_write = At(62);
  record.ended = At(100);
  record.num_messages = 6;
  record.choices = {Choice()};
  return record;
}

std::vector<std::string> Names(const SpanTree& tree) {
  std::vector<std::string> names;
  for (const Span& span : tree.spans) names.push_back(span.name);
  return names;
}

const Span& Find(const SpanTree& tree, const std::string& name) {
  for (const Span& span : tree.spans) {
    if (span.name == name) return span;
  }
  ADD_FAILURE() << "no " << name;
  return tree.spans.front();
}

/// Every id once, every parent before its children, every child within its parent.
void ExpectSound(const SpanTree& tree) {
  std::map<std::string, const Span*> seen;
  for (const Span& span : tree.spans) {
    EXPECT_LE(span.begin, span.end) << span.name;
    if (&span != &tree.spans.front()) {
      ASSERT_TRUE(seen.contains(span.parent_id)) << span.name;
      EXPECT_GE(span.begin, seen[span.parent_id]->begin) << span.name;
      EXPECT_LE(span.end, seen[span.parent_id]->end) << span.name;
    }
    EXPECT_TRUE(seen.emplace(span.id, &span).second);
  }
}

TEST(SpanTreeTest, StagesOfACall) {
  const SpanTree tree = MakeSpanTree(Record(), "m");
  ExpectSound(tree);
  EXPECT_THAT(Names(tree), ElementsAre("chat m", "prepare", "queue", "prefill", "chunk", "chunk",
                                       "decode", "chunk", "stream"));
  const Span& root = tree.spans[0];
  EXPECT_EQ(root.kind, Span::Kind::kServer);
  EXPECT_EQ(root.parent_id, "");
  EXPECT_FALSE(tree.has_remote_parent);
  EXPECT_EQ(root.begin, At(0));
  EXPECT_EQ(root.end, At(100));
  const Span& prefill = Find(tree, "prefill");
  EXPECT_EQ(prefill.begin, At(30));
  EXPECT_EQ(prefill.end, At(60));
  EXPECT_EQ(tree.spans[5].parent_id, prefill.id);
  EXPECT_EQ(tree.spans[5].end, At(60)) << "the last chunk ends with the first token";
  EXPECT_EQ(tree.spans[7].parent_id, Find(tree, "decode").id) << "computed again while it decodes";
  EXPECT_EQ(Find(tree, "prepare").end, At(10));
  EXPECT_EQ(Find(tree, "queue").begin, At(10));
  EXPECT_EQ(Find(tree, "stream").end, At(100));
}

TEST(SpanTreeTest, WhatTheRootSays) {
  const Attributes all = MakeSpanTree(Record(), "m").spans[0].attributes;
  const std::vector<std::string> reasons = {"length"};
  EXPECT_THAT(all, Contains(Pair("gen_ai.operation.name", AttributeValue("chat"))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.response.id", AttributeValue("mine"))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.response.finish_reasons", AttributeValue(reasons))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.usage.input_tokens", AttributeValue(int64_t{100}))));
  EXPECT_THAT(all,
              Contains(Pair("gen_ai.usage.cache_read.input_tokens", AttributeValue(int64_t{36}))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.usage.output_tokens", AttributeValue(int64_t{5}))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.response.time_to_first_chunk", AttributeValue(0.06))));
  EXPECT_THAT(all, Contains(Pair("rpc.method", AttributeValue("package.Service/Method"))));
  EXPECT_THAT(all, Contains(Pair("rpc.response.status_code", AttributeValue("OK"))));
  EXPECT_THAT(all, Not(Contains(Key("error.type"))));
}

TEST(SpanTreeTest, TheCallersSpanIsTheParent) {
  CallRecord record = Record();
  record.parent = TraceContext{record.trace_id, "00f067aa0ba902b7", true, "a=1"};
  const SpanTree tree = MakeSpanTree(record, "m");
  ExpectSound(tree);
  EXPECT_EQ(tree.spans[0].parent_id, "00f067aa0ba902b7");
  EXPECT_TRUE(tree.has_remote_parent);
  EXPECT_EQ(tree.trace_state, "a=1");
}

TEST(SpanTreeTest, EachChoiceHasItsStages) {
  CallRecord record = Record();
  record.choices = {Choice(0), Choice(1), CallRecord::Choice()};  // of the last no end was told
  record.choices[1].times.first_scheduled = At(64);
  record.choices[1].times.first_token = absl::InfiniteFuture();
  record.choices[1].finish_reason = "abort";
  record.choices[1].chunks.clear();
  const SpanTree tree = MakeSpanTree(record, "m");
  ExpectSound(tree);
  EXPECT_THAT(Names(tree), ElementsAre("chat m", "prepare", "queue", "prefill", "chunk", "chunk",
                                       "decode", "chunk", "queue", "prefill", "stream"));
  EXPECT_THAT(tree.spans[2].attributes,
              Contains(Pair("nsa.choice.index", AttributeValue(int64_t{0}))));
  EXPECT_THAT(tree.spans[8].attributes,
              Contains(Pair("nsa.choice.index", AttributeValue(int64_t{1}))));
  EXPECT_EQ(tree.spans[9].end, At(90)) << "it ended without a token";
}

TEST(SpanTreeTest, AFailureStandsWhereItHappened) {
  CallRecord record = Record();
  record.status = absl::InternalError("NaN");
  record.choices[0].finish_reason = "error";
  const SpanTree tree = MakeSpanTree(record, "m");
  EXPECT_TRUE(tree.spans[0].failed);
  EXPECT_EQ(tree.spans[0].message, "NaN");
  EXPECT_THAT(tree.spans[0].attributes, Contains(Pair("error.type", AttributeValue("INTERNAL"))));
  EXPECT_TRUE(Find(tree, "decode").failed);
  EXPECT_FALSE(Find(tree, "prefill").failed);
  EXPECT_FALSE(Find(tree, "queue").failed);
}

TEST(SpanTreeTest, AClientsMistakeOrLeaveIsNoFailureAndQuotesNothing) {
  for (const absl::Status& status :
       {absl::InvalidArgumentError("sampling.stop has 'secret'"), absl::CancelledError("secret"),
        absl::ResourceExhaustedError("secret"), absl::AlreadyExistsError("secret")}) {
    CallRecord record = Record();
    record.status = status;
    const Span root = MakeSpanTree(record, "m").spans[0];
    EXPECT_FALSE(root.failed) << status;
    EXPECT_EQ(root.message, "");
    EXPECT_THAT(root.attributes, Contains(Pair("rpc.response.status_code",
                                               AttributeValue(StatusName(status.code())))));
  }
}

TEST(SpanTreeTest, ARefusedCallHasNoStages) {
  CallRecord record = Record();
  record.choices.clear();
  record.first_write = absl::InfiniteFuture();
  record.status = absl::ResourceExhaustedError("full");
  EXPECT_THAT(Names(MakeSpanTree(record, "m")), ElementsAre("chat m", "prepare"));
  record.work_began = absl::InfiniteFuture();
  EXPECT_THAT(Names(MakeSpanTree(record, "m")), ElementsAre("chat m"));
}

TEST(SpanTreeTest, SoundThoughTheClockJumps) {
  CallRecord record = Record();
  record.ended = At(50);  // set back in the middle
  ExpectSound(MakeSpanTree(record, "m"));
  record.ended = At(-50);
  ExpectSound(MakeSpanTree(record, "m"));
  record.choices[0].times.first_scheduled = At(5);
  record.choices[0].chunks[0].ended = At(-3);
  ExpectSound(MakeSpanTree(record, "m"));
}

}  // namespace
}  // namespace nsa::server
