#ifndef NSA_ENGINE_PROMPT_LOOKUP_H_
#define NSA_ENGINE_PROMPT_LOOKUP_H_

#include <cstdint>
#include <vector>

namespace nsa::engine {

/// Drafts the next tokens of one sequence from its own text: where its last tokens have stood
/// before, what followed them may follow again (prompt lookup decoding, A. Saxena 2023). Earlier
/// places are found as LZ77 compressors do, by chains of positions with equal hashes.
///
/// Engine thread.
class PromptLookup {
 public:
  /// The longest draft ever given.
  static constexpr int64_t kMaxDraft = 16;

  /// Up to `limit` tokens that may follow `tokens`; none where their last kMinMatch tokens are new,
  /// or where earlier drafts were wrong too often. `tokens` is what it was at the last call, and
  /// more.
  std::vector<int32_t> Draft(const std::vector<int32_t>& tokens, int64_t limit);

  /// Says how many of the last draft's tokens were right: drafts grow while all are, shrink to what
  /// was right otherwise, and pause where nothing was.
  void Learn(int64_t num_drafted, int64_t num_accepted);

 private:
  void Index(const std::vector<int32_t>& tokens);

  std::vector<int32_t> heads_;     // [hashes]: the last place with that hash, −1: none
  std::vector<int32_t> previous_;  // [indexed places]: the place before with the same hash
  int64_t draft_size_ = 4;
  int64_t pause_ = 0;       // steps to let go by
  int64_t next_pause_ = 1;  // after the next draft of which nothing is right
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_PROMPT_LOOKUP_H_
