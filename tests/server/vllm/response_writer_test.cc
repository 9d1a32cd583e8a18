#include "server/vllm/response_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/vllm/fake_message_stream.h"

namespace nsa::server {
namespace {

using ::testing::ElementsAre;

using Stream = FakeMessageStream<wire::GenerateResponse>;

engine::TokenLogprobs Logprob(int32_t id, float logprob) {
  engine::TokenLogprobs token;
  token.token.token_id = id;
  token.token.logprob = logprob;
  token.top = {token.token, {.token_id = id + 1, .logprob = logprob - 1, .bytes = ""}};
  return token;
}

engine::Output Token(int32_t id, int32_t index = 0) {
  engine::Output output;
  output.index = index;
  output.token_ids = {id};
  output.logprobs = {Logprob(id, -0.5F)};
  return output;
}

engine::Finish Ended(engine::FinishReason reason, int32_t index = 0) {
  engine::Finish finish;
  finish.index = index;
  finish.reason = reason;
  finish.usage.num_prompt_tokens = 9;
  finish.usage.num_cached_tokens = 4;
  finish.usage.num_generated_tokens = 2;
  return finish;
}

TEST(ResponseWriterTest, StreamsChunksThenOneCompleteForEachIndex) {
  Stream stream;
  ResponseWriter writer(&stream, {.stream = true, .num_prompt_tokens = 9});
  writer.OnOutput(Token(5));
  writer.OnOutput(Token(7, 1));
  writer.OnOutput(Token(6));
  writer.OnChoiceDone(Ended(engine::FinishReason::kLength));
  EXPECT_FALSE(writer.engine_done());
  writer.OnDone(absl::OkStatus(), Ended(engine::FinishReason::kAborted, 1));
  EXPECT_TRUE(writer.engine_done());
  stream.EndAll(writer);
  ASSERT_TRUE(stream.status.has_value() && stream.status->ok());
  ASSERT_EQ(stream.sent.size(), 5U);
  const wire::GenerateStreamChunk& chunk = stream.sent[1].chunk();
  EXPECT_EQ(chunk.index(), 1U);
  EXPECT_THAT(chunk.token_ids(), ElementsAre(7));
  EXPECT_EQ(chunk.completion_tokens(), 1U) << "of the chunk";
  EXPECT_EQ(chunk.prompt_tokens(), 9U);
  EXPECT_THAT(chunk.output_logprobs().token_ids(), ElementsAre(7));
  EXPECT_EQ(chunk.output_logprobs().top_logprobs_size(), 0) << "none were asked for";
  const wire::GenerateComplete& complete = stream.sent[3].complete();
  EXPECT_EQ(complete.finish_reason(), "length");
  EXPECT_EQ(complete.output_ids_size(), 0) << "the chunks had them";
  EXPECT_EQ(complete.prompt_tokens(), 9U);
  EXPECT_EQ(complete.cached_tokens(), 4U);
  EXPECT_EQ(complete.completion_tokens(), 2U);
  EXPECT_EQ(stream.sent[4].complete().finish_reason(), "abort");
  EXPECT_EQ(stream.sent[4].complete().index(), 1U);
}

TEST(ResponseWriterTest, WithoutStreamThereIsOneMessageForEachIndex) {
  Stream stream;
  ResponseWriter writer(&stream, {.top_logprobs = true});
  for (int32_t id = 0; id < 1000; ++id) writer.OnOutput(Token(id, id % 2));
  EXPECT_TRUE(writer.Ready()) << "nobody is waited for";
  EXPECT_TRUE(stream.sent.empty());
  writer.OnChoiceDone(Ended(engine::FinishReason::kLength, 1));
  writer.OnDone(absl::OkStatus(), Ended(engine::FinishReason::kLength, 0));
  stream.EndAll(writer);
  ASSERT_EQ(stream.sent.size(), 2U);
  for (const auto& message : stream.sent) {
    const wire::GenerateComplete& complete = message.complete();
    ASSERT_EQ(complete.output_ids_size(), 500);
    EXPECT_EQ(complete.output_ids(3), 6 + complete.index());
    ASSERT_EQ(complete.output_logprobs().token_logprobs_size(), 500);
    ASSERT_EQ(complete.output_logprobs().top_logprobs_size(), 500);
    EXPECT_THAT(complete.output_logprobs().top_logprobs(0).token_ids(),
                ElementsAre(complete.index(), 1 + complete.index()));
  }
}

TEST(ResponseWriterTest, PromptLogprobsBeginWithATokenThatHasNone) {
  for (const bool streams : {true, false}) {
    Stream stream;
    ResponseWriter writer(
        &stream, {.stream = streams, .first_prompt_token = 3, .top_prompt_logprobs = true});
    writer.OnPromptLogprobs(1, {Logprob(4, -1)});
    writer.OnPromptLogprobs(2, {Logprob(5, -2)});
    writer.OnOutput(Token(6));
    writer.OnOutput(Token(7));
    writer.OnDone(absl::OkStatus(), Ended(engine::FinishReason::kLength));
    stream.EndAll(writer);
    ASSERT_EQ(stream.sent.size(), streams ? 3U : 1U);
    const wire::InputLogProbs& prompt = streams ? stream.sent[0].chunk().input_logprobs()
                                                : stream.sent[0].complete().input_logprobs();
    EXPECT_THAT(prompt.token_ids(), ElementsAre(3, 4, 5));
    ASSERT_EQ(prompt.token_logprobs_size(), 3);
    EXPECT_FALSE(prompt.token_logprobs(0).has_value());
    EXPECT_EQ(prompt.token_logprobs(2).value(), -2);
    EXPECT_EQ(prompt.top_logprobs_size(), 3);
    if (streams) {
      EXPECT_FALSE(stream.sent[1].chunk().has_input_logprobs()) << "once";
    }
  }
}

TEST(ResponseWriterTest, SaysWhatStoppedItUnlessThatIsTheCheckpointsOwn) {
  const auto end = [](engine::FinishReason reason, int32_t token) {
    Stream stream;
    ResponseWriter writer(&stream, {.stop_ids = {2}});
    engine::Finish finish = Ended(reason);
    finish.stop_token_id = token;
    finish.stop_string = "END";
    writer.OnDone(absl::OkStatus(), finish);
    return stream.sent.at(0).complete();
  };
  using Reason = engine::FinishReason;
  EXPECT_EQ(end(Reason::kStopToken, 2).finish_reason(), "stop");
  EXPECT_EQ(end(Reason::kStopToken, 2).matched_stop_case(),
            wire::GenerateComplete::MATCHED_STOP_NOT_SET);
  EXPECT_EQ(end(Reason::kStopToken, 7).matched_token_id(), 7U);
  EXPECT_EQ(end(Reason::kStopString, -1).matched_stop_str(), "END");
}

TEST(ResponseWriterTest, AnErrorIsTheOnlyEnd) {
  Stream stream;
  ResponseWriter writer(&stream, {});
  writer.OnOutput(Token(5));
  writer.OnDone(absl::InternalError("NaN"), {});
  EXPECT_TRUE(stream.sent.empty());
  EXPECT_EQ(stream.status->code(), absl::StatusCode::kInternal);
}

TEST(ResponseWriterTest, ASlowReaderPausesItsRequest) {
  Stream stream;
  ResponseWriter writer(&stream, {.stream = true});
  for (size_t i = 0; i < kMaxOutbox; ++i) {
    EXPECT_TRUE(writer.Ready());
    writer.OnOutput(Token(1));
  }
  EXPECT_FALSE(writer.Ready());
  stream.End(writer, /*ok=*/false);
  EXPECT_TRUE(writer.Ready()) << "nobody is waited for who is gone";
}

}  // namespace
}  // namespace nsa::server
