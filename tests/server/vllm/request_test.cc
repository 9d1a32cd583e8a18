#include "server/vllm/request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "server/convert.h"
#include "tests/server/fake_engine.h"

namespace nsa::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kContext = 1000;  // FakeEngine's

wire::GenerateRequest Valid() {
  wire::GenerateRequest request;
  request.set_stream(true);
  for (const uint32_t id : {7U, 8U, 9U}) request.mutable_tokenized()->add_input_ids(id);
  return request;
}

/// All that stands between the wire and the engine.
absl::Status Check(const wire::GenerateRequest& request) {
  static auto* const engine = new FakeEngine;
  const auto made = FromVllm(request, kContext);
  if (!made.ok()) return made.status();
  return ToRequest(**made, *engine, "id", absl::InfiniteFuture()).status();
}

TEST(FromVllmTest, FieldsThatCannotBeAbsentHaveNsasDefaults) {
  const auto made = FromVllm(Valid(), kContext);
  ASSERT_TRUE(made.ok()) << made.status();
  const v1::GenerateRequest& request = **made;
  EXPECT_THAT(request.token_ids().ids(), ElementsAre(7, 8, 9));
  const v1::SamplingParams& s = request.sampling();
  EXPECT_FALSE(s.has_temperature() || s.has_top_p() || s.has_min_p() ||
               s.has_repetition_penalty() || s.has_seed() || s.has_n() || s.has_logprobs() ||
               s.has_prompt_logprobs());
  EXPECT_FALSE(request.stopping().has_max_tokens() || request.has_structured_output());
  EXPECT_TRUE(Check(Valid()).ok());
}

TEST(FromVllmTest, TakesEverythingOver) {
  wire::GenerateRequest request = Valid();
  request.set_request_id("r");
  wire::SamplingParams& from = *request.mutable_sampling_params();
  from.set_temperature(0);
  from.set_top_p(0.5F);
  from.set_top_k(40);
  from.set_min_p(0.1F);
  from.set_frequency_penalty(-1);
  from.set_presence_penalty(1);
  from.set_repetition_penalty(1.5F);
  from.set_max_tokens(20);
  from.set_min_tokens(2);
  from.add_stop("END");
  from.add_stop_token_ids(5);
  from.set_skip_special_tokens(true);
  from.set_ignore_eos(true);
  from.set_n(3);
  from.set_logprobs(2);
  from.set_prompt_logprobs(1);
  from.set_seed(-1);
  from.set_include_stop_str_in_output(true);
  (*from.mutable_logit_bias())[6] = -2;
  const auto made = FromVllm(request, kContext);
  ASSERT_TRUE(made.ok()) << made.status();
  const v1::SamplingParams& s = (*made)->sampling();
  EXPECT_EQ((*made)->request_id(), "r");
  EXPECT_TRUE(s.has_temperature() && s.temperature() == 0);
  EXPECT_EQ(s.top_p(), 0.5F);
  EXPECT_EQ(s.top_k(), 40);
  EXPECT_EQ(s.min_p(), 0.1F);
  EXPECT_EQ(s.frequency_penalty(), -1);
  EXPECT_EQ(s.presence_penalty(), 1);
  EXPECT_EQ(s.repetition_penalty(), 1.5F);
  EXPECT_EQ(s.n(), 3);
  EXPECT_EQ(s.logprobs(), 2);
  EXPECT_EQ(s.prompt_logprobs(), 1);
  EXPECT_EQ(s.seed(), std::numeric_limits<uint64_t>::max());
  ASSERT_EQ(s.logit_bias_size(), 1);
  EXPECT_EQ(s.logit_bias(0).token_id(), 6);
  const v1::StoppingParams& stopping = (*made)->stopping();
  EXPECT_EQ(stopping.max_tokens(), 20);
  EXPECT_EQ(stopping.min_tokens(), 2);
  EXPECT_THAT(stopping.stop(), ElementsAre("END"));
  EXPECT_THAT(stopping.stop_token_ids(), ElementsAre(5));
  EXPECT_TRUE(stopping.ignore_eos() && stopping.include_stop_str_in_output());
  EXPECT_TRUE((*made)->response().skip_special_tokens());
  EXPECT_TRUE(Check(request).ok());
}

TEST(FromVllmTest, Constraints) {
  const auto constrained = [](const std::function<void(wire::SamplingParams&)>& set) {
    wire::GenerateRequest request = Valid();
    set(*request.mutable_sampling_params());
    return (*FromVllm(request, kContext))->structured_output();
  };
  using S = wire::SamplingParams;
  EXPECT_EQ(constrained([](S& s) { s.set_json_schema("{}"); }).json_schema(), "{}");
  EXPECT_EQ(constrained([](S& s) { s.set_regex("a+"); }).regex(), "a+");
  EXPECT_EQ(constrained([](S& s) { s.set_grammar("root ::= \"a\""); }).grammar(), "root ::= \"a\"");
  EXPECT_TRUE(constrained([](S& s) { s.set_json_object(true); }).json_object());
  const auto choice = constrained([](S& s) { s.mutable_choice()->add_choices("yes"); });
  EXPECT_THAT(choice.choice().options(), ElementsAre("yes"));
}

TEST(FromVllmTest, ThePromptsEndCanBeAllThatCounts) {
  const auto kept = [](int32_t truncate, int num_ids) {
    wire::GenerateRequest request;
    for (int i = 0; i < num_ids; ++i) request.mutable_tokenized()->add_input_ids(100 + i % 100);
    request.mutable_sampling_params()->set_truncate_prompt_tokens(truncate);
    request.mutable_sampling_params()->set_max_tokens(1);
    const auto made = FromVllm(request, kContext);
    return (*made)->token_ids().ids();
  };
  EXPECT_THAT(kept(2, 5), ElementsAre(103, 104));
  EXPECT_EQ(kept(5, 5).size(), 5);
  EXPECT_EQ(kept(6, 5).size(), 5);
  EXPECT_EQ(kept(-1, 3000).size(), kContext - 1);
}

struct Case {
  std::string name;
  std::function<void(wire::GenerateRequest&)> edit;
  absl::StatusCode code;
  std::vector<std::string> words;  // of the message
};

std::vector<Case> BadCases() {
  using R = wire::GenerateRequest;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto sampling = [](const std::function<void(wire::SamplingParams&)>& edit) {
    return [edit](R& r) { edit(*r.mutable_sampling_params()); };
  };
  using S = wire::SamplingParams;
  return {
      {"no input", [](R& r) { r.clear_tokenized(); }, kInvalid, {"prompt is missing"}},
      {"no ids", [](R& r) { r.mutable_tokenized()->clear_input_ids(); }, kInvalid, {"empty"}},
      {"id over the vocabulary",
       [](R& r) { r.mutable_tokenized()->add_input_ids(258); },
       kInvalid,
       {"prompt.token_ids[3]", "258", "0 to 257"}},
      {"id over 31 bits",
       [](R& r) { r.mutable_tokenized()->add_input_ids(0xFFFFFFFF); },
       kInvalid,
       {"prompt.token_ids[3]", "4294967295"}},
      {"id of a request", [](R& r) { r.set_request_id(std::string(257, 'x')); }, kInvalid, {"257"}},
      {"rank", [](R& r) { r.set_data_parallel_rank(1); }, kInvalid, {"data_parallel_rank is 1"}},
      {"rank below 0", [](R& r) { r.set_data_parallel_rank(-1); }, kInvalid, {"-1"}},
      {"images", [](R& r) { r.mutable_mm_inputs(); }, kUnimplemented, {"mm_inputs"}},
      {"more images", [](R& r) { r.add_extra_mm_inputs(); }, kUnimplemented, {"extra_mm_inputs"}},
      {"media", [](R& r) { r.mutable_media_refs(); }, kUnimplemented, {"media_refs"}},
      {"transfer", [](R& r) { r.mutable_kv_transfer_params(); }, kUnimplemented, {"kv_transfer"}},
      {"JSON", [](R& r) { r.set_kv_transfer_params_json("{}"); }, kUnimplemented, {"_json"}},
      {"tag",
       sampling([](S& s) { s.set_structural_tag("x"); }),
       kUnimplemented,
       {"structural_tag"}},
      {"temperature", sampling([=](S& s) { s.set_temperature(nan); }), kInvalid, {"temperature"}},
      {"top_p", sampling([](S& s) { s.set_top_p(1.5F); }), kInvalid, {"top_p", "1.5"}},
      {"top_p NaN", sampling([=](S& s) { s.set_top_p(nan); }), kInvalid, {"top_p", "nan"}},
      {"top_k", sampling([](S& s) { s.set_top_k(0x80000000); }), kInvalid, {"top_k", "2147483648"}},
      {"min_p", sampling([](S& s) { s.set_min_p(-1); }), kInvalid, {"min_p", "-1"}},
      {"frequency", sampling([](S& s) { s.set_frequency_penalty(3); }), kInvalid, {"frequency_"}},
      {"presence", sampling([](S& s) { s.set_presence_penalty(-3); }), kInvalid, {"presence_"}},
      {"repetition",
       sampling([](S& s) { s.set_repetition_penalty(-1); }),
       kInvalid,
       {"repetition"}},
      {"max_tokens 0", sampling([](S& s) { s.set_max_tokens(0); }), kInvalid, {"max_tokens is 0"}},
      {"max_tokens",
       sampling([](S& s) { s.set_max_tokens(0xFFFFFFFF); }),
       kInvalid,
       {"4294967295"}},
      {"min_tokens",
       sampling([](S& s) { s.set_min_tokens(0xFFFFFFFF); }),
       kInvalid,
       {"min_tokens"}},
      {"stop", sampling([](S& s) { s.add_stop(""); }), kInvalid, {"stopping.stop[0]"}},
      {"stop id",
       sampling([](S& s) { s.add_stop_token_ids(0x80000000); }),
       kInvalid,
       {"stopping.stop_token_ids[0]", "2147483648"}},
      {"n", sampling([](S& s) { s.set_n(129); }), kInvalid, {"sampling.n is 129", "1 to 128"}},
      {"n over 31 bits", sampling([](S& s) { s.set_n(0xFFFFFFFF); }), kInvalid, {"sampling.n"}},
      {"logprobs", sampling([](S& s) { s.set_logprobs(-1); }), kInvalid, {"logprobs is -1"}},
      {"prompt_logprobs", sampling([](S& s) { s.set_prompt_logprobs(21); }), kInvalid, {"21"}},
      {"bias", sampling([](S& s) { (*s.mutable_logit_bias())[-1] = 1; }), kInvalid, {"-1"}},
      {"truncate", sampling([](S& s) { s.set_truncate_prompt_tokens(0); }), kInvalid, {"is 0"}},
      {"truncate -2", sampling([](S& s) { s.set_truncate_prompt_tokens(-2); }), kInvalid, {"-2"}},
      {"no object", sampling([](S& s) { s.set_json_object(false); }), kInvalid, {"json_object"}},
      {"no choice", sampling([](S& s) { s.mutable_choice(); }), kInvalid, {"options"}},
      {"text and its end",
       [](R& r) {
         r.set_text("x");
         r.mutable_sampling_params()->set_truncate_prompt_tokens(1);
       },
       kInvalid,
       {"truncate_prompt_tokens"}},
  };
}

TEST(FromVllmTest, WhatIsOutOfRangeHasOneClearStatus) {
  for (const Case& bad : BadCases()) {
    wire::GenerateRequest request = Valid();
    bad.edit(request);
    const absl::Status status = Check(request);
    EXPECT_EQ(status.code(), bad.code) << bad.name << ": " << status;
    for (const std::string& word : bad.words) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(word)) << bad.name;
    }
  }
}

TEST(FromVllmTest, WhatFitsNoMessageMustStream) {
  wire::GenerateRequest request = Valid();
  request.mutable_sampling_params()->set_n(128);
  request.mutable_sampling_params()->set_logprobs(20);
  const int64_t context = 1 << 16;
  EXPECT_TRUE(FromVllm(request, context).ok());
  request.set_stream(false);
  EXPECT_EQ(FromVllm(request, context).status().code(), absl::StatusCode::kInvalidArgument);
  request.mutable_sampling_params()->set_max_tokens(1000);
  EXPECT_TRUE(FromVllm(request, context).ok());
  // Whatever the numbers, nothing overflows.
  request.mutable_sampling_params()->set_max_tokens(std::numeric_limits<uint32_t>::max());
  request.mutable_sampling_params()->set_n(std::numeric_limits<int32_t>::max());
  request.mutable_sampling_params()->set_logprobs(std::numeric_limits<int32_t>::max());
  EXPECT_EQ(FromVllm(request, int64_t{1} << 30).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace nsa::server
