#ifndef NSA_ENGINE_REQUEST_H_
#define NSA_ENGINE_REQUEST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace nsa::engine {

/// Sampling and stopping; names, meanings and defaults of serving.md §1.
struct SamplingParams {
  float temperature = 1;
  float top_p = 1;
  int32_t top_k = 0;  // 0: off
  float min_p = 0;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float repetition_penalty = 1;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_token_ids;  // empty: all
  std::vector<std::string> bad_words;
  std::optional<uint64_t> seed;
  std::optional<int32_t> logprobs;         // of each token, and of so many likeliest ones
  std::optional<int32_t> prompt_logprobs;  // likewise of the prompt's tokens but the first
  int32_t n = 1;                           // choices: completions of one prompt
  std::optional<int64_t> max_tokens;       // none: to the end of the context
  int64_t min_tokens = 0;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;
  bool spaces_between_special_tokens = true;
};

enum class AttentionMode : uint8_t { kDefault, kNsa, kFull };

/// A request's own sparse budget. Zero or kDefault: the server's.
struct AttentionOverride {
  AttentionMode mode = AttentionMode::kDefault;
  int32_t num_selected_blocks = 0;
};

class Grammar;

struct Request {
  std::string id;  // unique among running requests
  std::vector<int32_t> prompt_token_ids;
  SamplingParams sampling;
  AttentionOverride attention;
  std::shared_ptr<const Grammar> grammar;  // of structured output; null: none
  int32_t priority = 0;                    // lower runs first
  std::string tenant;                      // shares are fair between tenants
  std::string cache_salt;                  // prefixes are shared with equal salts alone
  bool bypass_prefix_cache = false;        // neither use nor leave cached prefixes
  absl::Time deadline = absl::InfiniteFuture();
};

enum class FinishReason : uint8_t { kStopToken, kStopString, kLength, kAborted };

struct Usage {
  int64_t num_prompt_tokens = 0;  // of the request: the same in each of its choices
  int64_t num_cached_tokens = 0;  // likewise
  int64_t num_generated_tokens = 0;
  absl::Duration queue_time;
  absl::Duration prefill_time;
  absl::Duration decode_time;
};

/// A token, the bytes that it stands for, and the logarithm of its probability.
struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;
  std::string bytes;
};

/// A token of a text with its rank among all (1: the likeliest), and the likeliest in order.
struct TokenLogprobs {
  TokenLogprob token;
  int32_t rank = 0;
  std::vector<TokenLogprob> top;
};

/// New tokens of a choice and the text that they complete.
struct Output {
  int32_t index = 0;  // of the choice, in [0, n)
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;  // one a token where they were asked for
  std::string text;                     // whole characters; may be empty or lag behind token_ids
};

/// When a choice went from one stage to the next; InfiniteFuture where it never came there.
struct Timeline {
  absl::Time arrival = absl::InfiniteFuture();
  absl::Time first_scheduled = absl::InfiniteFuture();
  absl::Time first_token = absl::InfiniteFuture();
  absl::Time end = absl::InfiniteFuture();
};

/// How a choice ended.
struct Finish {
  int32_t index = 0;  // of the choice, in [0, n)
  FinishReason reason = FinishReason::kLength;
  int32_t stop_token_id = -1;  // where reason is kStopToken
  std::string stop_string;     // where reason is kStopString
  Usage usage;
  Timeline times;
  int64_t num_preemptions = 0;
};

/// Tokens at positions position, position + 1, … of a choice, which a step has computed: of its
/// prompt, or, after a preemption, of what it had before.
struct Chunk {
  int32_t index = 0;  // of the choice, in [0, n)
  int64_t position = 0;
  int64_t num_tokens = 0;
  absl::Time began;  // the step
  absl::Time ended;
};

/// Where a request's results go. Called by the engine thread alone, in order; must not block.
/// OnDone is the last call and comes exactly once for each submitted request.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  /// Prompt tokens processed so far; at most once a step.
  virtual void OnPrefillProgress(int64_t num_processed, int64_t num_prompt_tokens) {
    (void)num_processed;
    (void)num_prompt_tokens;
  }
  /// At most one a step and choice, in order.
  virtual void OnChunk(const Chunk& chunk) { (void)chunk; }
  /// Of consecutive prompt tokens, the first of which is at `position`; in order, each once.
  virtual void OnPromptLogprobs(int64_t position, const std::vector<TokenLogprobs>& logprobs) {
    (void)position;
    (void)logprobs;
  }
  virtual void OnOutput(Output output) = 0;
  /// A choice has ended, and others of its request go on.
  virtual void OnChoiceDone(const Finish& finish) { (void)finish; }
  /// `status` is OK (then `finish` says how the last choice ended), Cancelled, DeadlineExceeded or
  /// an error, which ends all choices.
  virtual void OnDone(const absl::Status& status, const Finish& finish) = 0;
  /// False while the reader is too slow: the request then pauses, alone. Any thread may change it.
  virtual bool Ready() const { return true; }
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_REQUEST_H_
