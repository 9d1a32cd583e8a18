#include "server/tracing/request_attributes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace nsa::server {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Key;
using ::testing::Not;
using ::testing::Pair;

TEST(RequestAttributesTest, WhatIsAskedForAndNothingElse) {
  v1::GenerateRequest request;
  request.set_text("p");
  EXPECT_THAT(RequestAttributes(request),
              ElementsAre(Pair("gen_ai.operation.name", AttributeValue("text_completion")),
                          Pair("gen_ai.output.type", AttributeValue("text")),
                          Pair("gen_ai.request.stream", AttributeValue(true))));
  request.mutable_chat();
  request.mutable_structured_output()->set_json_object(true);
  request.mutable_stopping()->set_max_tokens(9);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(0);
  sampling.set_top_p(0.5);
  sampling.set_top_k(40);
  sampling.set_seed(7);
  sampling.set_n(3);
  sampling.set_presence_penalty(1);
  sampling.set_frequency_penalty(-1);
  request.set_priority(-2);
  request.mutable_attention()->set_num_selected_blocks(8);
  const Attributes all = RequestAttributes(request);
  EXPECT_EQ(all.at(0).second, AttributeValue("chat"));
  EXPECT_THAT(all, Contains(Pair("gen_ai.output.type", AttributeValue("json"))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.request.max_tokens", AttributeValue(int64_t{9}))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.request.temperature", AttributeValue(0.0))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.request.top_k", AttributeValue(int64_t{40}))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.request.seed", AttributeValue(int64_t{7}))));
  EXPECT_THAT(all, Contains(Pair("gen_ai.request.choice.count", AttributeValue(int64_t{3}))));
  EXPECT_THAT(all, Contains(Pair("nsa.request.priority", AttributeValue(int64_t{-2}))));
  EXPECT_THAT(all, Contains(Pair("nsa.request.num_selected_blocks", AttributeValue(int64_t{8}))));
  sampling.set_seed(uint64_t{1} << 63);
  EXPECT_THAT(RequestAttributes(request), Not(Contains(Key("gen_ai.request.seed"))));
}

TEST(RequestAttributesTest, NoTextOfTheClients) {
  v1::GenerateRequest request;
  request.set_text("SECRET");
  request.set_cache_salt("SECRET");
  request.mutable_stopping()->add_stop("SECRET");
  request.mutable_sampling()->add_bad_words("SECRET");
  request.mutable_structured_output()->set_regex("SECRET");
  const auto is_clean = [&] {
    for (const auto& [key, value] : RequestAttributes(request)) {
      const std::string* text = std::get_if<std::string>(&value);
      if (text != nullptr && text->find("SECRET") != std::string::npos) return false;
    }
    return true;
  };
  EXPECT_TRUE(is_clean());
  request.mutable_chat()->add_messages()->set_role("SECRET");
  request.mutable_structured_output()->set_json_schema("SECRET");
  EXPECT_TRUE(is_clean());
}

}  // namespace
}  // namespace nsa::server
