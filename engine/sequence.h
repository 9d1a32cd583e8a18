#ifndef NSA_ENGINE_SEQUENCE_H_
#define NSA_ENGINE_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/prefix_cache.h"
#include "engine/prompt_lookup.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/stop_matcher.h"
#include "engine/tokenizer/tokenizer.h"

namespace nsa::engine {

/// An accepted request on its way through the engine: its tokens, its pages, its state. Belongs to
/// the engine thread.
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
  bool decoding() const { return num_generated() > 0 && num_pending() == 1; }

  /// Takes the token that was sampled, tells the sink, and says whether the sequence has ended.
  bool AcceptToken(int32_t token_id, absl::Time now);

  /// Ends it: the sink's one OnDone.
  void Finish(const absl::Status& status, FinishReason reason, absl::Time now);

  Request request;
  std::shared_ptr<OutputSink> sink;
  std::vector<int32_t> tokens;    // prompt, then generated
  std::vector<int32_t> pages;     // page table
  int64_t num_computed = 0;       // tokens whose K and V are in the pages
  bool suspended = false;         // runs, but waits for pages that are on the way to memory
  PrefixChain chain;              // of its pages that the cache knows
  int64_t num_cached_tokens = 0;  // of the prompt, found in the cache when it was first admitted
  // The last token and what is drafted behind it, while a step verifies them; empty otherwise.
  std::vector<int32_t> verified;
  int64_t max_tokens = 0;  // of the completion
  int64_t num_preemptions = 0;
  absl::Time arrival;
  absl::Time first_scheduled = absl::InfiniteFuture();
  absl::Time first_token = absl::InfiniteFuture();
  absl::Time last_token = absl::InfiniteFuture();
  Sampler sampler;
  std::unique_ptr<PromptLookup> prompt_lookup;  // null: no speculation
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
