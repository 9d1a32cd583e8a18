#ifndef NSA_TESTS_ENGINE_RANDOM_REQUESTS_H_
#define NSA_TESTS_ENGINE_RANDOM_REQUESTS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/batch.h"
#include "engine/faults.h"
#include "engine/prompt_lookup.h"
#include "engine/sequence.h"
#include "tests/engine/fakes.h"

namespace nsa::engine {

/// Number `number` of a test: random tokens below 250, and as many as asked out of it, drawn with a
/// seed (random weights say one token for ever when asked greedily).
inline Request SampledRequest(int number, int64_t num_tokens, int64_t max_tokens) {
  std::mt19937 random(static_cast<uint32_t>(number));
  Request request;
  request.id = std::to_string(number);
  for (int64_t i = 0; i < num_tokens; ++i) {
    request.prompt_token_ids.push_back(static_cast<int32_t>(random() % 250));
  }
  request.sampling.temperature = 1;
  request.sampling.seed = static_cast<uint64_t>(number);
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = max_tokens;
  return request;
}

/// What a random life of a scheduler is asked, and what its askers are told. A seed decides all.
class RandomRequests {
 public:
  struct Asked {
    std::vector<int32_t> prompt;
    int64_t max_tokens = 0;
    bool full = false;
    std::shared_ptr<RecordingSink> sink;
  };

  explicit RandomRequests(uint32_t seed) : random_(seed) {}

  uint32_t Draw(uint32_t below) { return static_cast<uint32_t>(random_() % below); }

  /// One more, of at most `most` tokens with its answer, and of `longest_answer`. Prompts share
  /// beginnings. Some have a deadline, within `deadline_steps` of 50 ms.
  std::unique_ptr<Sequence> Next(int64_t most, int64_t longest_answer, uint32_t deadline_steps,
                                 bool full, absl::Time now) {
    Request request;
    request.id = std::to_string(asked_.size());
    const int64_t num_prompt = 1 + Draw(static_cast<uint32_t>(Draw(4) == 0 ? most - 1 : most / 3));
    for (int64_t i = 0; i < num_prompt; ++i) {
      request.prompt_token_ids.push_back(static_cast<int32_t>(1 + i / 50 % 3));
    }
    if (Draw(2) == 0) request.prompt_token_ids[static_cast<size_t>(num_prompt) / 2] = 6;
    request.attention.mode = full ? AttentionMode::kFull : AttentionMode::kDefault;
    request.priority = static_cast<int32_t>(Draw(3));
    request.tenant = Draw(2) == 0 ? "a" : "b";
    request.cache_salt = Draw(8) == 0 ? "salt" : "";
    request.bypass_prefix_cache = Draw(8) == 0;
    if (Draw(10) == 0) request.deadline = now + absl::Milliseconds(50.0 * Draw(deadline_steps));
    const int64_t room = std::min<int64_t>(most - num_prompt, longest_answer);
    Asked asked{.prompt = request.prompt_token_ids,
                .max_tokens = 1 + Draw(static_cast<uint32_t>(room)),
                .full = full,
                .sink = std::make_shared<RecordingSink>()};
    auto sequence =
        std::make_unique<Sequence>(request, asked.sink, tokenizer_, asked.max_tokens, 1, now);
    if (Draw(3) == 0) sequence->prompt_lookup = std::make_unique<PromptLookup>();
    asked_[request.id] = std::move(asked);
    return sequence;
  }

  /// The id of one of the latest twenty.
  std::string Recent() {
    const uint32_t back = Draw(static_cast<uint32_t>(std::min<size_t>(asked_.size(), 20)));
    return std::to_string(asked_.size() - 1 - back);
  }

  /// Readers stop and come back.
  void TurnReaders() {
    if (Draw(20) == 0 && !asked_.empty()) {
      auto& sink = asked_.rbegin()->second.sink;
      sink->ready = !sink->ready;
    }
    if (Draw(30) == 0) WakeReaders();
  }
  void WakeReaders() {
    for (auto& [id, asked] : asked_) asked.sink->ready = true;
  }

  const std::map<std::string, Asked>& asked() const { return asked_; }

 private:
  std::mt19937 random_;
  LetterTokenizer tokenizer_;
  std::map<std::string, Asked> asked_;
};

/// Allocations that fail now and then.
inline std::array<double, kNumFaults> FailingAllocations(bool fails) {
  std::array<double, kNumFaults> faults{};
  if (fails) faults[static_cast<size_t>(Fault::kAllocation)] = 0.1;
  return faults;
}

inline void FinishAll(const std::vector<std::unique_ptr<Sequence>>& sequences, FinishReason reason,
                      absl::Time now) {
  for (const auto& sequence : sequences) sequence->Finish(absl::OkStatus(), reason, now);
}

/// Gives the sequence the tokens that its entry's rows are followed by, while drafts hold; whether
/// that ends it.
inline bool AcceptRows(Sequence& sequence, const BatchEntry& entry,
                       const std::vector<int32_t>& next, absl::Time now) {
  // Accepting changes what the entry's tokens are a view of.
  const std::vector<int32_t> tokens(entry.tokens.begin(), entry.tokens.end());
  const size_t first = tokens.size() - static_cast<size_t>(entry.num_logit_rows);
  for (size_t row = first; row < tokens.size(); ++row) {
    if (row > first && sequence.tokens.back() != tokens[row]) return false;
    if (sequence.AcceptToken(next[row], now)) return true;
  }
  return false;
}

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_RANDOM_REQUESTS_H_
