#include "client/load/prompt_maker.h"

#include <cstddef>

namespace nsa::client {

std::vector<int32_t> PromptMaker::Make(const PlannedRequest& request) const {
  if (!request.token_ids.empty()) return request.token_ids;
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(request.prompt_tokens));
  if (request.prefix_tokens > 0) {
    Append(request.prefix_tokens,
           Random(seed_, RandomStream::kPrefix, static_cast<uint64_t>(request.prefix_group)), ids);
  }
  const RandomStream own = request.warmup ? RandomStream::kWarmupPrompt : RandomStream::kPrompt;
  Append(request.prompt_tokens - request.prefix_tokens,
         Random(seed_, own, static_cast<uint64_t>(request.index)), ids);
  return ids;
}

void PromptMaker::Append(int64_t count, Random random, std::vector<int32_t>& ids) const {
  if (text_.empty()) {
    for (int64_t i = 0; i < count; ++i) {
      ids.push_back(static_cast<int32_t>(random.Below(vocabulary_size_)));
    }
    return;
  }
  auto at = static_cast<size_t>(random.Below(static_cast<int64_t>(text_.size())));
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(text_[at]);
    if (++at == text_.size()) at = 0;
  }
}

}  // namespace nsa::client
