#ifndef NSA_ENGINE_SEQUENCE_H_
#define NSA_ENGINE_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/grammar/grammar.h"
#include "engine/prefix_cache.h"
#include "engine/prompt_lookup.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/stop_matcher.h"
#include "engine/tokenizer/tokenizer.h"
#include "kernels/tensor.h"

namespace nsa::engine {

class Sequence;

/// What the choices of a request have in common. One of them reads the prompt; the others begin
/// behind the full pages that it leaves, and compute what follows these for themselves. Engine
/// thread.
struct ChoiceGroup {
  int32_t num_open = 1;              // choices whose end the sink has not been told of
  const Sequence* reader = nullptr;  // the choice that reads the prompt now
  int64_t num_cached_tokens = 0;     // of the prompt, found in the cache by the first reader
};

/// Rows that have left a step, for a layer reads slots that are not in memory.
struct Interruption {
  int32_t num_rows = 0;        // 0: there is none
  int32_t layer = 0;           // where they go on
  int32_t kept_row = -1;       // of the runner's kept rows; theirs until their step is done
  bool is_granted = false;     // the pages are pinned, and those not in memory on their way
  std::vector<int32_t> pages;  // that the layer reads
};

/// A choice of an accepted request on its way through the engine: its tokens, its pages, its state.
/// Belongs to the engine thread.
class Sequence {
 public:
  Sequence(Request request, std::shared_ptr<OutputSink> sink, const Tokenizer& tokenizer,
           int64_t max_tokens, uint64_t seed, absl::Time arrival);

  const std::string& id() const { return request.id; }
  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_prompt_tokens() const { return num_prompt_tokens_; }
  int64_t num_generated() const { return num_tokens() - num_prompt_tokens_; }
  /// Tokens whose K and V are still to be computed; 1 in steady decoding.
  int64_t num_pending() const { return num_tokens() - num_computed; }
  /// What it adds to a queue: choices after the first share the prompt's full pages.
  int64_t num_queued_tokens() const {
    const bool shares = index > 0 && num_generated() == 0;
    return shares ? (num_tokens() - 1) % kernels::kPageSize + 1 : num_tokens();
  }
  /// Whether its last token is one that a step draws and nobody has looked at: it counts, and has
  /// no value yet.
  bool awaits_token() const { return awaited_place >= 0; }
  /// Tokens that somebody has looked at.
  int64_t num_known_generated() const { return num_generated() - (awaits_token() ? 1 : 0); }
  /// Whether it ends with the token that it awaits, whatever that is.
  bool awaits_last_token() const { return awaits_token() && num_generated() >= max_tokens; }
  /// Whether how its next token is drawn follows from how many tokens there are, whatever these
  /// are, and nobody looks at the logits.
  bool can_run_ahead() const {
    return !sampler.depends_on_tokens() && matcher == nullptr && prompt_lookup == nullptr &&
           !reads_logits();
  }
  /// Whether steps that draw for it, or read its prompt, wait for their logits.
  bool reads_logits() const {
    return request.sampling.logprobs.has_value() || wants_prompt_logprobs();
  }
  bool decoding() const { return num_generated() > 0 && num_pending() == 1; }
  /// Whether it should wait, for another choice reads the prompt that it needs.
  bool waits_for_prompt() const {
    return group->reader != nullptr && group->reader != this && num_generated() == 0;
  }

  /// Whether its turn has not come yet, and it waits for nothing but that.
  bool waits_for_first_step() const {
    return first_scheduled == absl::InfiniteFuture() && !waits_for_prompt();
  }

  /// Makes it choice `choice` of `choices`.
  void Join(std::shared_ptr<ChoiceGroup> choices, int32_t choice);

  /// Whether logits of prompt tokens are still wanted.
  bool wants_prompt_logprobs() const {
    return request.sampling.prompt_logprobs.has_value() && index == 0 &&
           num_prompt_logprobs < num_prompt_tokens();
  }

  /// A step draws its next token, at `place` of the runner's: it is one token longer.
  void AwaitToken(int32_t place);

  /// Takes the token that was sampled, which it may have awaited, tells the sink, and says whether
  /// the sequence has ended.
  bool AcceptToken(int32_t token_id, absl::Time now, std::vector<TokenLogprobs> logprobs = {});

  /// Tells the sink what was gathered of prompt_logprobs.
  void FlushPromptLogprobs();

  /// Ends it: OnDone where it is the last choice or the status is an error, else OnChoiceDone.
  /// Choices of a request that has ended say nothing.
  void Finish(const absl::Status& status, FinishReason reason, absl::Time now);

  Request request;  // without the prompt's tokens
  std::shared_ptr<OutputSink> sink;
  std::shared_ptr<ChoiceGroup> group = std::make_shared<ChoiceGroup>();
  int32_t index = 0;                // of the choice
  std::vector<int32_t> tokens;      // prompt, then generated
  int32_t awaited_place = -1;       // of the last of them, which it awaits; −1: it is known
  std::vector<int32_t> pages;       // page table
  int64_t num_computed = 0;         // tokens whose K and V are in the pages
  bool suspended = false;           // runs, but waits for pages or slots that are to come to memory
  Interruption interruption;        // of the step that it is in
  int64_t chunk_limit = INT64_MAX;  // rows of a chunk whose selection fits memory
  int32_t num_losses = 0;           // of pages, since its last token
  PrefixChain chain;                // of its pages that the cache knows
  int64_t num_known = -1;           // prompt tokens that it need not read; −1: not looked for
  bool is_judged = false;           // the scheduler has looked whether it may join the line
  // The last token and what is drafted behind it, while a step verifies them; empty otherwise.
  std::vector<int32_t> verified;
  int64_t num_prompt_logprobs = 1;  // prompt tokens that are done; nothing predicts the first
  std::vector<TokenLogprobs> prompt_logprobs;  // the last of these, not yet told
  int64_t max_tokens = 0;                      // of the completion
  int64_t num_preemptions = 0;
  absl::Time arrival;
  absl::Time first_scheduled = absl::InfiniteFuture();
  absl::Time first_token = absl::InfiniteFuture();
  absl::Time last_token = absl::InfiniteFuture();
  Sampler sampler;
  std::unique_ptr<PromptLookup> prompt_lookup;  // null: no speculation
  std::unique_ptr<GrammarMatcher> matcher;      // null: any text
  ::nsa::engine::Finish finish;                 // filled by AcceptToken or Finish

 private:
  /// The text that the token completes, and whether it ends the completion.
  bool AcceptText(int32_t token_id, std::string& text);
  bool IsStopToken(int32_t token_id) const;
  static std::vector<int32_t> StopIds(const Request& request, const Tokenizer& tokenizer);

  int64_t num_prompt_tokens_;
  std::vector<int32_t> stop_ids_;
  Detokenizer detokenizer_;
  StopMatcher stop_matcher_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_SEQUENCE_H_
