#include "server/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/server/fake_engine.h"

namespace nsa::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

v1::GenerateRequest Valid() {
  v1::GenerateRequest wire;
  wire.set_text(std::string("abc"));
  return wire;
}

absl::StatusOr<engine::Request> Convert(const v1::GenerateRequest& wire) {
  static auto* const engine = new FakeEngine;
  return ToRequest(wire, *engine, "id", absl::InfiniteFuture());
}

struct Case {
  std::string name;
  std::function<void(v1::GenerateRequest&)> edit;
  std::vector<std::string> words;  // of the message: field, value, range
};

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

/// NaN, infinities and a step beyond either end, for each optional float.
std::vector<Case> FloatCases() {
  struct Field {
    const char* name;
    void (v1::SamplingParams::*set)(float);
    float below, above;
    const char* range;
  };
  using S = v1::SamplingParams;
  const Field fields[] = {
      {"temperature", &S::set_temperature, -1e-6F, 100.001F, "0 to 100"},
      {"top_p", &S::set_top_p, 0, 1.0001F, "above 0 and at most 1"},
      {"min_p", &S::set_min_p, -1e-6F, 1.0001F, "0 to 1"},
      {"presence_penalty", &S::set_presence_penalty, -2.001F, 2.001F, "-2 to 2"},
      {"frequency_penalty", &S::set_frequency_penalty, -2.001F, 2.001F, "-2 to 2"},
      {"repetition_penalty", &S::set_repetition_penalty, 0, 10.001F, "above 0 and at most 10"},
  };
  std::vector<Case> cases;
  for (const Field& field : fields) {
    for (const float value : {field.below, field.above, kNan, kInf, -kInf}) {
      cases.push_back({absl::StrCat(field.name, "=", value),
                       [=](v1::GenerateRequest& r) { (r.mutable_sampling()->*field.set)(value); },
                       {absl::StrCat("sampling.", field.name, " is "), field.range}});
    }
  }
  return cases;
}

v1::LogitBias& AddBias(v1::GenerateRequest& r, int32_t id, float bias) {
  v1::LogitBias& entry = *r.mutable_sampling()->add_logit_bias();
  entry.set_token_id(id);
  entry.set_bias(bias);
  return entry;
}

std::vector<Case> SamplingCases() {
  using R = v1::GenerateRequest;
  return {
      {"top_k",
       [](R& r) { r.mutable_sampling()->set_top_k(-1); },
       {"sampling.top_k is -1", "at least 0"}},
      {"bias_id",
       [](R& r) { AddBias(r, 258, 1); },
       {"sampling.logit_bias[0].token_id is 258", "0 to 257"}},
      {"bias_id_negative",
       [](R& r) { AddBias(r, 1, 1), AddBias(r, -1, 1); },
       {"sampling.logit_bias[1].token_id is -1"}},
      {"bias",
       [](R& r) { AddBias(r, 1, 100.5F); },
       {"sampling.logit_bias[0].bias is 100.5", "-100 to 100"}},
      {"bias_nan", [](R& r) { AddBias(r, 1, kNan); }, {"sampling.logit_bias[0].bias is nan"}},
      {"bias_twice",
       [](R& r) { AddBias(r, 7, 1), AddBias(r, 7, 1); },
       {"sampling.logit_bias[1].token_id is 7", "once"}},
      {"biases",
       [](R& r) {
         for (int i = 0; i < 1025; ++i) AddBias(r, 1, 1);
       },
       {"sampling.logit_bias has 1025 entries", "at most 1024"}},
      {"allowed",
       [](R& r) { r.mutable_sampling()->add_allowed_token_ids(1000); },
       {"sampling.allowed_token_ids[0] is 1000", "0 to 257"}},
      {"allowed_many",
       [](R& r) {
         for (int i = 0; i < 259; ++i) r.mutable_sampling()->add_allowed_token_ids(1);
       },
       {"sampling.allowed_token_ids has 259 entries", "at most 258"}},
      {"bad_word_empty",
       [](R& r) { r.mutable_sampling()->add_bad_words(); },
       {"sampling.bad_words[0] has 0 bytes", "1 to 256"}},
      {"bad_word_long",
       [](R& r) { r.mutable_sampling()->add_bad_words(std::string(257, 'x')); },
       {"sampling.bad_words[0] has 257 bytes"}},
      {"bad_words",
       [](R& r) {
         for (int i = 0; i < 129; ++i) r.mutable_sampling()->add_bad_words(std::string("x"));
       },
       {"sampling.bad_words has 129 entries", "at most 128"}},
      {"n_zero", [](R& r) { r.mutable_sampling()->set_n(0); }, {"sampling.n is 0", "1 to 128"}},
      {"n_many", [](R& r) { r.mutable_sampling()->set_n(129); }, {"sampling.n is 129"}},
      {"logprobs",
       [](R& r) { r.mutable_sampling()->set_logprobs(21); },
       {"sampling.logprobs is 21", "0 to 20"}},
      {"logprobs_negative",
       [](R& r) { r.mutable_sampling()->set_logprobs(-1); },
       {"sampling.logprobs is -1"}},
      {"prompt_logprobs",
       [](R& r) { r.mutable_sampling()->set_prompt_logprobs(21); },
       {"sampling.prompt_logprobs is 21", "0 to 20"}},
  };
}

std::vector<Case> StoppingCases() {
  using R = v1::GenerateRequest;
  return {
      {"max_tokens_zero",
       [](R& r) { r.mutable_stopping()->set_max_tokens(0); },
       {"stopping.max_tokens is 0", "1 to 999"}},
      {"max_tokens_huge",
       [](R& r) { r.mutable_stopping()->set_max_tokens(std::numeric_limits<int64_t>::max()); },
       {"stopping.max_tokens is 9223372036854775807", "1 to 999"}},
      {"min_tokens",
       [](R& r) { r.mutable_stopping()->set_min_tokens(-1); },
       {"stopping.min_tokens is -1", "0 to 999"}},
      {"min_over_max",
       [](R& r) {
         r.mutable_stopping()->set_max_tokens(5);
         r.mutable_stopping()->set_min_tokens(6);
       },
       {"stopping.min_tokens is 6", "0 to 5"}},
      {"stop_empty",
       [](R& r) {
         r.mutable_stopping()->add_stop(std::string("ok"));
         r.mutable_stopping()->add_stop();
       },
       {"stopping.stop[1] has 0 bytes", "1 to 1024"}},
      {"stop_long",
       [](R& r) { r.mutable_stopping()->add_stop(std::string(1025, 'x')); },
       {"stopping.stop[0] has 1025 bytes"}},
      {"stops",
       [](R& r) {
         for (int i = 0; i < 17; ++i) r.mutable_stopping()->add_stop(std::string("x"));
       },
       {"stopping.stop has 17 entries", "at most 16"}},
      {"stop_token",
       [](R& r) { r.mutable_stopping()->add_stop_token_ids(-1); },
       {"stopping.stop_token_ids[0] is -1", "0 to 257"}},
      {"stop_tokens",
       [](R& r) {
         for (int i = 0; i < 129; ++i) r.mutable_stopping()->add_stop_token_ids(1);
       },
       {"stopping.stop_token_ids has 129 entries", "at most 128"}},
  };
}

std::vector<Case> PromptCases() {
  using R = v1::GenerateRequest;
  return {
      {"no_prompt", [](R& r) { r.clear_prompt(); }, {"prompt is missing"}},
      {"empty_text",
       [](R& r) { r.set_text(""), r.set_add_special_tokens(false); },
       {"prompt is empty"}},
      {"empty_ids", [](R& r) { r.mutable_token_ids(); }, {"prompt is empty"}},
      {"id_over",
       [](R& r) { r.mutable_token_ids()->add_ids(258); },
       {"prompt.token_ids[0] is 258", "0 to 257"}},
      {"id_negative",
       [](R& r) {
         r.mutable_token_ids()->add_ids(0);
         r.mutable_token_ids()->add_ids(-7);
       },
       {"prompt.token_ids[1] is -7"}},
      {"text_too_long",
       [](R& r) { r.set_text(std::string(999, 'x')); },
       {"prompt has 1000 tokens", "at most 999", "max_context 1000"}},
      {"ids_too_long",
       [](R& r) { r.mutable_token_ids()->mutable_ids()->Resize(1000, 1); },
       {"prompt has 1000 tokens", "at most 999"}},
      {"no_messages", [](R& r) { r.mutable_chat(); }, {"prompt.chat.messages is empty"}},
      {"no_role",
       [](R& r) { r.mutable_chat()->add_messages()->set_content("x"); },
       {"prompt.chat.messages[0].role has 0 bytes"}},
      {"template_refuses",
       [](R& r) { r.mutable_chat()->add_messages()->set_role("tool"); },
       {"no tools"}},
      {"text_flag_with_ids",
       [](R& r) {
         r.mutable_token_ids()->add_ids(1);
         r.set_add_special_tokens(false);
       },
       {"add_special_tokens", "only with prompt.text"}},
      {"text_flag_with_chat",
       [](R& r) {
         r.mutable_chat()->add_messages()->set_role("user");
         r.set_parse_special_tokens(true);
       },
       {"parse_special_tokens", "only with prompt.text"}},
      {"request_id",
       [](R& r) { r.set_request_id(std::string(257, 'x')); },
       {"request_id has 257 bytes", "0 to 256"}},
      {"cache_salt",
       [](R& r) { r.set_cache_salt(std::string(257, 'x')); },
       {"cache_salt has 257 bytes"}},
      {"attention_mode",
       [](R& r) { r.mutable_attention()->set_mode(static_cast<v1::AttentionMode>(3)); },
       {"attention.mode is 3", "0 to 2"}},
      {"blocks",
       [](R& r) { r.mutable_attention()->set_num_selected_blocks(-1); },
       {"attention.num_selected_blocks is -1"}},
  };
}

void ExpectInvalid(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    v1::GenerateRequest wire = Valid();
    c.edit(wire);
    const auto request = Convert(wire);
    ASSERT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << request.status();
    for (const std::string& word : c.words) {
      EXPECT_THAT(std::string(request.status().message()), HasSubstr(word));
    }
  }
}

TEST(ConvertTest, FloatsOutOfRange) { ExpectInvalid(FloatCases()); }
TEST(ConvertTest, SamplingOutOfRange) { ExpectInvalid(SamplingCases()); }
TEST(ConvertTest, StoppingOutOfRange) { ExpectInvalid(StoppingCases()); }
TEST(ConvertTest, PromptOutOfRange) { ExpectInvalid(PromptCases()); }

std::vector<Case> StructuredOutputCases() {
  using R = v1::GenerateRequest;
  const auto options = [](R& r) {
    return r.mutable_structured_output()->mutable_choice()->mutable_options();
  };
  return {
      {"empty", [](R& r) { r.mutable_structured_output(); }, {"structured_output is empty"}},
      {"json_object",
       [](R& r) { r.mutable_structured_output()->set_json_object(false); },
       {"structured_output.json_object is false"}},
      {"no_choice",
       [](R& r) { r.mutable_structured_output()->mutable_choice(); },
       {"structured_output.choice.options is empty"}},
      {"empty_choice",
       [=](R& r) { *options(r)->Add() = std::string(); },
       {"structured_output.choice.options[0] has 0 bytes", "1 to 1024"}},
      {"many_choices",
       [=](R& r) {
         for (int i = 0; i < 1025; ++i) *options(r)->Add() = std::string("x");
       },
       {"structured_output.choice.options has 1025 entries", "at most 1024"}},
      {"ignore_eos",
       [](R& r) {
         r.mutable_structured_output()->set_json_object(true);
         r.mutable_stopping()->set_ignore_eos(true);
       },
       {"stopping.ignore_eos is true", "structured_output"}},
  };
}

TEST(ConvertTest, StructuredOutputOutOfRange) { ExpectInvalid(StructuredOutputCases()); }

TEST(ConvertTest, DefaultsHoldWhereFieldsAreAbsent) {
  const auto request = Convert(Valid());
  ASSERT_TRUE(request.ok()) << request.status();
  const engine::SamplingParams defaults;
  const engine::SamplingParams& p = request->sampling;
  EXPECT_EQ(p.temperature, defaults.temperature);
  EXPECT_EQ(p.top_p, 1);
  EXPECT_EQ(p.top_k, 0);
  EXPECT_EQ(p.repetition_penalty, 1);
  EXPECT_FALSE(p.seed.has_value());
  EXPECT_FALSE(p.max_tokens.has_value());
  EXPECT_TRUE(p.skip_special_tokens);
  EXPECT_TRUE(p.spaces_between_special_tokens);
  EXPECT_EQ(request->attention.mode, engine::AttentionMode::kDefault);
  EXPECT_THAT(request->prompt_token_ids, ElementsAre(256, 'a', 'b', 'c'));
}

TEST(ConvertTest, EverySamplingFieldArrives) {
  v1::GenerateRequest wire = Valid();
  v1::SamplingParams& s = *wire.mutable_sampling();
  s.set_temperature(0);  // zero is a value, not an absence
  s.set_top_p(0.5F);
  s.set_top_k(7);
  s.set_min_p(0.25F);
  s.set_presence_penalty(-1.5F);
  s.set_frequency_penalty(1.25F);
  s.set_repetition_penalty(1.5F);
  AddBias(wire, 3, -100);
  s.add_allowed_token_ids(257);
  s.add_bad_words(std::string("bad"));
  s.set_seed(std::numeric_limits<uint64_t>::max());
  s.set_n(3);
  s.set_logprobs(0);
  s.set_prompt_logprobs(20);
  const auto request = Convert(wire);
  ASSERT_TRUE(request.ok()) << request.status();
  const engine::SamplingParams& p = request->sampling;
  EXPECT_EQ(p.temperature, 0);
  EXPECT_EQ(p.top_p, 0.5F);
  EXPECT_EQ(p.top_k, 7);
  EXPECT_EQ(p.n, 3);
  EXPECT_EQ(p.logprobs, 0);
  EXPECT_EQ(p.prompt_logprobs, 20);
  EXPECT_EQ(p.min_p, 0.25F);
  EXPECT_EQ(p.presence_penalty, -1.5F);
  EXPECT_EQ(p.frequency_penalty, 1.25F);
  EXPECT_EQ(p.repetition_penalty, 1.5F);
  EXPECT_THAT(p.logit_bias, ElementsAre(Pair(3, -100)));
  EXPECT_THAT(p.allowed_token_ids, ElementsAre(257));
  EXPECT_THAT(p.bad_words, ElementsAre("bad"));
  EXPECT_EQ(p.seed, std::numeric_limits<uint64_t>::max());
}

TEST(ConvertTest, EveryOtherFieldArrives) {
  v1::GenerateRequest wire = Valid();
  v1::StoppingParams& stopping = *wire.mutable_stopping();
  stopping.set_max_tokens(999);
  stopping.set_min_tokens(999);
  stopping.add_stop(std::string("\n\n"));
  stopping.add_stop_token_ids(0);
  stopping.set_ignore_eos(true);
  stopping.set_include_stop_str_in_output(true);
  wire.mutable_response()->set_skip_special_tokens(false);
  wire.mutable_response()->set_spaces_between_special_tokens(false);
  wire.set_priority(-3);
  wire.mutable_attention()->set_mode(v1::ATTENTION_MODE_FULL);
  wire.mutable_attention()->set_num_selected_blocks(8);
  const auto request = Convert(wire);
  ASSERT_TRUE(request.ok()) << request.status();
  const engine::SamplingParams& p = request->sampling;
  EXPECT_EQ(p.max_tokens, 999);
  EXPECT_EQ(p.min_tokens, 999);
  EXPECT_THAT(p.stop, ElementsAre("\n\n"));
  EXPECT_THAT(p.stop_token_ids, ElementsAre(0));
  EXPECT_TRUE(p.ignore_eos);
  EXPECT_TRUE(p.include_stop_str_in_output);
  EXPECT_FALSE(p.skip_special_tokens);
  EXPECT_FALSE(p.spaces_between_special_tokens);
  EXPECT_EQ(request->priority, -3);
  EXPECT_EQ(request->attention.mode, engine::AttentionMode::kFull);
  EXPECT_EQ(request->attention.num_selected_blocks, 8);
  EXPECT_EQ(request->id, "id");
}

TEST(ConvertTest, PromptsOfEachKind) {
  v1::GenerateRequest text = Valid();
  text.set_text(std::string("a^\xff"));  // bytes that are no UTF-8 are a prompt too
  EXPECT_THAT(Convert(text)->prompt_token_ids, ElementsAre(256, 'a', 257, 0xff));
  text.set_add_special_tokens(false);
  text.set_parse_special_tokens(false);
  EXPECT_THAT(Convert(text)->prompt_token_ids, ElementsAre('a', '^', 0xff));

  v1::GenerateRequest ids;
  ids.mutable_token_ids()->add_ids(5);
  EXPECT_THAT(Convert(ids)->prompt_token_ids, ElementsAre(5));

  v1::GenerateRequest chat;
  v1::ChatMessage& message = *chat.mutable_chat()->add_messages();
  message.set_role(std::string("u"));
  message.set_content(std::string("^"));
  chat.mutable_chat()->set_add_generation_prompt(false);
  EXPECT_THAT(Convert(chat)->prompt_token_ids, ElementsAre('u', ':', 257, '\n'))
      << "the template brings its own special tokens";
  EXPECT_EQ(PromptBytes(chat), 2);
}

TEST(ConvertTest, ChatWithoutTemplate) {
  FakeEngine engine;
  engine.has_chat_template = false;
  v1::GenerateRequest chat;
  chat.mutable_chat()->add_messages()->set_role("user");
  const auto request = ToRequest(chat, engine, "id", absl::InfiniteFuture());
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(request.status().message()), HasSubstr("chat template"));
}

TEST(ConvertTest, FinishReasons) {
  engine::Finish finish;
  finish.usage = {.num_prompt_tokens = 1,
                  .num_cached_tokens = 2,
                  .num_generated_tokens = 3,
                  .queue_time = absl::Milliseconds(250),
                  .prefill_time = absl::Seconds(2),
                  .decode_time = absl::Seconds(4)};
  finish.reason = engine::FinishReason::kStopToken;
  finish.stop_token_id = 257;
  v1::Finished token;
  FillFinished(finish, "me", token);
  EXPECT_EQ(token.stop().token_id(), 257);
  EXPECT_EQ(token.request_id(), "me");
  EXPECT_EQ(token.usage().cached_tokens(), 2);
  EXPECT_EQ(token.usage().queue_seconds(), 0.25);
  EXPECT_EQ(token.usage().decode_seconds(), 4);
  finish.reason = engine::FinishReason::kStopString;
  finish.stop_string = "END";
  v1::Finished text;
  FillFinished(finish, "me", text);
  EXPECT_EQ(text.stop().stop_string(), "END");
  finish.reason = engine::FinishReason::kLength;
  v1::Finished length;
  FillFinished(finish, "me", length);
  EXPECT_TRUE(length.has_length());
  finish.reason = engine::FinishReason::kAborted;
  v1::Finished aborted;
  FillFinished(finish, "me", aborted);
  EXPECT_TRUE(aborted.has_aborted());
}

}  // namespace
}  // namespace nsa::server
