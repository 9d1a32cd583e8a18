#include "engine/logprobs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/fakes.h"
#include "tests/engine/notification.h"

namespace nsa::engine {
namespace {

std::vector<int32_t> IdsOf(const std::vector<TokenLogprob>& tokens) {
  std::vector<int32_t> ids;
  for (const TokenLogprob& token : tokens) ids.push_back(token.token_id);
  return ids;
}

TEST(LogprobsTest, TopRankAndTies) {
  const LetterTokenizer tokenizer;
  const std::vector<float> logits = {1, 3, 2, 3, -4};
  const double sum = std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0) + std::exp(-4.0);
  const TokenLogprobs got = LogprobsOf(logits, 2, 3, tokenizer);
  EXPECT_EQ(got.token.token_id, 2);
  EXPECT_EQ(got.token.bytes, "c");
  EXPECT_FLOAT_EQ(got.token.logprob, static_cast<float>(2 - std::log(sum)));
  EXPECT_EQ(got.rank, 3);
  EXPECT_EQ(IdsOf(got.top), (std::vector<int32_t>{1, 3, 2})) << "equal ones by id";
  EXPECT_FLOAT_EQ(got.top[0].logprob, static_cast<float>(3 - std::log(sum)));
  EXPECT_TRUE(LogprobsOf(logits, 4, 0, tokenizer).top.empty());
  EXPECT_EQ(LogprobsOf(logits, 4, 0, tokenizer).rank, 5);
  EXPECT_EQ(LogprobsOf(logits, 3, 1, tokenizer).rank, 2);
  EXPECT_EQ(LogprobsOf(logits, 0, 20, tokenizer).top.size(), 5u);
}

/// Large logits do not overflow; what a model rules out has −∞.
TEST(LogprobsTest, Extremes) {
  const LetterTokenizer tokenizer;
  const std::vector<float> logits = {1e30f, -INFINITY, 1e30f};
  EXPECT_FLOAT_EQ(LogprobsOf(logits, 0, 0, tokenizer).token.logprob,
                  static_cast<float>(-std::log(2.0)));
  EXPECT_EQ(LogprobsOf(logits, 1, 0, tokenizer).token.logprob, -INFINITY);
}

class LogprobsSink final : public OutputSink {
 public:
  void OnPromptLogprobs(int64_t position, const std::vector<TokenLogprobs>& logprobs) override {
    EXPECT_EQ(position, static_cast<int64_t>(prompt.size()) + 1) << "in order, each once";
    EXPECT_TRUE(tokens.empty());
    prompt.insert(prompt.end(), logprobs.begin(), logprobs.end());
  }
  void OnOutput(Output output) override {
    EXPECT_EQ(output.logprobs.size(), output.token_ids.size());
    for (TokenLogprobs& one : output.logprobs) {
      EXPECT_EQ(one.token.token_id, output.token_ids.front());
      tokens.push_back(std::move(one));
    }
  }
  void OnDone(const absl::Status& status_in, const Finish&) override {
    status = status_in;
    done.Notify();
  }
  std::vector<TokenLogprobs> prompt, tokens;
  absl::Status status;
  Notification done;
};

void ExpectSame(const std::vector<TokenLogprobs>& a, const std::vector<TokenLogprobs>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].token.token_id, b[i].token.token_id) << i;
    ASSERT_EQ(a[i].token.logprob, b[i].token.logprob) << i;
    ASSERT_EQ(a[i].rank, b[i].rank) << i;
    ASSERT_EQ(IdsOf(a[i].top), IdsOf(b[i].top)) << i;
  }
}

class LogprobsOfModelTest : public EngineTest {
 protected:
  static Request Asking(const std::string& id, int64_t num_tokens) {
    Request request = MakeRequest(id, num_tokens, 12);
    request.sampling.logprobs = 4;
    request.sampling.prompt_logprobs = 3;
    return request;
  }
  static std::shared_ptr<LogprobsSink> Run(Engine& engine, Request request) {
    auto sink = SubmitTo<LogprobsSink>(engine, std::move(request));
    EXPECT_TRUE(sink->done.WaitForNotificationWithTimeout(absl::Minutes(1)));
    EXPECT_TRUE(sink->status.ok()) << sink->status;
    return sink;
  }
};

/// The bits are those of the request alone, whatever the chunks, the batch, the cache and drafts.
TEST_F(LogprobsOfModelTest, SameWhateverElseRuns) {
  auto engine = Create();
  const auto alone = Run(*engine, Asking("alone", 200));
  ASSERT_EQ(alone->prompt.size(), 199u);
  ASSERT_EQ(alone->tokens.size(), 12u);
  for (const TokenLogprobs& token : alone->tokens) {
    EXPECT_EQ(token.rank, 1) << "greedy takes the likeliest";
    ASSERT_EQ(token.top.size(), 4u);
    EXPECT_EQ(token.top[0].token_id, token.token.token_id);
    EXPECT_EQ(token.top[0].logprob, token.token.logprob);
    EXPECT_LE(token.top[1].logprob, token.top[0].logprob);
  }
  // A prompt that is cached gives its logprobs all the same.
  const auto again = Run(*engine, Asking("again", 200));
  ExpectSame(again->prompt, alone->prompt);
  // What was generated, as a prompt.
  Request joined = Asking("joined", 200);
  for (const TokenLogprobs& token : alone->tokens) {
    joined.prompt_token_ids.push_back(token.token.token_id);
  }
  const auto read = Run(*engine, joined);
  ASSERT_EQ(read->prompt.size(), 211u);
  for (size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(read->prompt[199 + i].token.logprob, alone->tokens[i].token.logprob) << i;
  }
  engine.reset();
  options_.max_step_tokens = 23;
  options_.speculation = Speculation::kPromptLookup;
  engine = Create();
  std::vector<std::shared_ptr<LogprobsSink>> others;
  for (int i = 0; i < 3; ++i)
    others.push_back(SubmitTo<LogprobsSink>(*engine, Asking(absl::StrCat(i), 100 + i)));
  const auto beside = Run(*engine, Asking("beside", 200));
  ExpectSame(beside->prompt, alone->prompt);
  ExpectSame(beside->tokens, alone->tokens);
  for (const auto& other : others) {
    ASSERT_TRUE(other->done.WaitForNotificationWithTimeout(absl::Minutes(1)));
  }
}

/// Penalties, biases and temperature choose tokens; they do not change what the model thinks.
TEST_F(LogprobsOfModelTest, AreTheModelsOwn) {
  auto engine = Create();
  Request plain = MakeRequest("plain", 80, 1);
  plain.sampling.logprobs = 20;
  const auto expected = Run(*engine, plain);
  const int32_t best = expected->tokens[0].token.token_id;
  Request changed = plain;
  changed.id = "changed";
  changed.sampling.temperature = 3;
  changed.sampling.seed = 1;
  changed.sampling.repetition_penalty = 1.5f;
  changed.sampling.logit_bias = {{best, -100.0f}};
  const auto got = Run(*engine, changed);
  EXPECT_NE(got->tokens[0].token.token_id, best);
  EXPECT_GT(got->tokens[0].rank, 1);
  ASSERT_EQ(IdsOf(got->tokens[0].top), IdsOf(expected->tokens[0].top));
  EXPECT_EQ(got->tokens[0].top[0].logprob, expected->tokens[0].top[0].logprob);
}

/// Of several choices the prompt is told of once.
TEST_F(LogprobsOfModelTest, PromptOnceWithSeveralChoices) {
  auto engine = Create();
  Request request = Asking("three", 150);
  request.sampling.n = 3;
  request.sampling.logprobs.reset();
  class Prompt final : public OutputSink {
   public:
    void OnPromptLogprobs(int64_t, const std::vector<TokenLogprobs>& logprobs) override {
      num_prompt += static_cast<int64_t>(logprobs.size());
    }
    void OnOutput(Output) override {}
    void OnDone(const absl::Status&, const Finish&) override { done.Notify(); }
    int64_t num_prompt = 0;
    Notification done;
  };
  auto prompt = std::make_shared<Prompt>();
  ASSERT_TRUE(engine->Submit(std::move(request), prompt).ok());
  ASSERT_TRUE(prompt->done.WaitForNotificationWithTimeout(absl::Minutes(1)));
  EXPECT_EQ(prompt->num_prompt, 149);
}

}  // namespace
}  // namespace nsa::engine
