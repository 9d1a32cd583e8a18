#ifndef NSA_CLIENT_LOAD_PROMPT_MAKER_H_
#define NSA_CLIENT_LOAD_PROMPT_MAKER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "client/load/random.h"
#include "client/load/request.h"

namespace nsa::client {

/// Makes the token ids of prompts. Seed and request alone decide them, so a run can be repeated,
/// and requests of a group begin with the same tokens. Const methods may be called by threads.
class PromptMaker {
 public:
  /// Ids are drawn evenly from [0, vocabulary_size), at least 1; or, where `text` holds any, cut
  /// from it at a random place, from its end on to its beginning.
  PromptMaker(uint64_t seed, int32_t vocabulary_size, std::vector<int32_t> text)
      : seed_(seed), vocabulary_size_(vocabulary_size), text_(std::move(text)) {}

  /// request.prompt_tokens ids, of which the first request.prefix_tokens are the group's. The
  /// request's own token_ids where it has any.
  std::vector<int32_t> Make(const PlannedRequest& request) const;

 private:
  void Append(int64_t count, Random random, std::vector<int32_t>& ids) const;

  const uint64_t seed_;
  const int32_t vocabulary_size_;
  const std::vector<int32_t> text_;
};

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_PROMPT_MAKER_H_
