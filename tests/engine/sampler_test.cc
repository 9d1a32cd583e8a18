// What the sampler asks of a token behind others that it has not been told of is what it asks when
// it has been told.

#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "tests/engine/fakes.h"

namespace nsa::engine {
namespace {

constexpr int64_t kVocabulary = 100;

/// What one token's parameters say, with the lists in them.
struct Asked {
  bool is_any_left = false;
  std::vector<int32_t> banned, allowed;
  std::vector<std::vector<int32_t>> counts;  // by token
  uint64_t step = 0;
  bool operator==(const Asked&) const = default;
};

Asked Ask(const Sampler& sampler, const Sampler::Pending& pending, const uint32_t* bits = nullptr) {
  Sampler::Lists lists;
  kernels::SampleParams p;
  p.vocabulary_size = kVocabulary;
  Asked asked;
  asked.is_any_left = sampler.FillIn(p, lists, pending, bits);
  asked.banned.assign(p.banned, p.banned + p.num_banned);
  asked.allowed.assign(p.allowed, p.allowed + p.num_allowed);
  for (const auto& count : std::span(p.counts, static_cast<size_t>(p.num_counts))) {
    asked.counts.push_back({count.token_id, count.num_in_prompt, count.num_generated});
  }
  std::ranges::sort(asked.counts);
  asked.step = p.step;
  return asked;
}

TEST(SamplerTest, DraftedTokensCountAsIfTheyWereAccepted) {
  const LetterTokenizer tokenizer;
  SamplingParams params;
  params.repetition_penalty = 1.5F;
  params.bad_words = {"abc", "bb", "c", "cabca"};
  params.min_tokens = 6;
  std::mt19937 random(1);
  int64_t num_banned = 0;
  for (int round = 0; round < 200; ++round) {
    Sampler sampler(params, {1, 2, 2}, {0}, tokenizer, 7);
    std::vector<int32_t> tokens(10);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 3);
    const size_t num_accepted = random() % tokens.size();
    for (size_t i = 0; i < num_accepted; ++i) sampler.Accept(tokens[i]);
    const auto drafted = std::span<const int32_t>(tokens).subspan(num_accepted);
    std::vector<Asked> behind;
    for (size_t n = 0; n <= drafted.size(); ++n) {
      behind.push_back(Ask(sampler, {.drafted = drafted.first(n)}));
    }
    for (size_t n = 0; n <= drafted.size(); ++n) {
      EXPECT_EQ(behind[n], Ask(sampler, {})) << num_accepted << " and " << n;
      num_banned += std::ssize(behind[n].banned);
      if (n < drafted.size()) sampler.Accept(drafted[n]);
    }
  }
  EXPECT_GT(num_banned, 2000);
}

TEST(SamplerTest, UnknownTokensCountWhereOnlyTheirNumberMatters) {
  const LetterTokenizer tokenizer;
  SamplingParams params;
  params.min_tokens = 2;
  params.allowed_token_ids = {3, 4};
  Sampler sampler(params, {1}, {0, 9}, tokenizer, 7);
  EXPECT_FALSE(sampler.depends_on_tokens());
  for (int64_t n = 0; n < 4; ++n) {
    const Asked unknown = Ask(sampler, {.num_unknown = 1});
    sampler.Accept(5);
    EXPECT_EQ(unknown, Ask(sampler, {}));
    EXPECT_EQ(unknown.step, static_cast<uint64_t>(n + 1));
    EXPECT_EQ(unknown.banned.empty(), n >= 1);
  }
  params.bad_words = {"ab"};
  EXPECT_TRUE(Sampler(params, {1}, {0}, tokenizer, 7).depends_on_tokens());
  params.bad_words = {};
  params.frequency_penalty = 0.5F;
  EXPECT_TRUE(Sampler(params, {1}, {0}, tokenizer, 7).depends_on_tokens());
}

TEST(SamplerTest, BitsThatLeaveNothingSaySo) {
  const LetterTokenizer tokenizer;
  SamplingParams params;
  params.allowed_token_ids = {40, 70};
  const Sampler sampler(params, {1}, {0}, tokenizer, 7);
  std::vector<uint32_t> bits(4, 0);
  bits[1] = 1U << 8;  // 40
  EXPECT_EQ(Ask(sampler, {}, bits.data()).allowed, (std::vector<int32_t>{40}));
  bits[1] = 1U << 9;
  EXPECT_FALSE(Ask(sampler, {}, bits.data()).is_any_left);
}

}  // namespace
}  // namespace nsa::engine
