#include "engine/request_limits.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_format.h"

namespace nsa::engine {
namespace {

/// Tokens beyond which the tier below is needed; no limit where the request can run with it.
int64_t MemoryLimit(const Request& request, const ModelInfo& info) {
  const int32_t own = request.attention.num_selected_blocks;
  const bool runs_beyond =
      info.residency.enabled() && request.attention.mode != AttentionMode::kFull &&
      info.residency.LeastFrames(own > 0 ? own : info.num_selected_blocks) <= info.num_pages;
  return runs_beyond ? info.max_context
                     : std::min(info.max_context, info.num_pages * kernels::kPageSize);
}

}  // namespace

absl::Status CheckRequest(const Request& request, const ModelInfo& info,
                          int32_t max_selected_blocks) {
  const auto num_tokens = static_cast<int64_t>(request.prompt_token_ids.size());
  if (num_tokens == 0)
    return absl::InvalidArgumentError("prompt is empty, expected at least 1 token");
  for (size_t i = 0; i < request.prompt_token_ids.size(); ++i) {
    const int32_t id = request.prompt_token_ids[i];
    if (id < 0 || id >= info.vocabulary_size) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "prompt token_ids[%d] is %d, expected 0 to %d", i, id, info.vocabulary_size - 1));
    }
  }
  if (num_tokens >= info.max_context) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "prompt has %d tokens, expected at most %d (max_context %d less one to generate)",
        num_tokens, info.max_context - 1, info.max_context));
  }
  const int64_t max_tokens = request.sampling.max_tokens.value_or(1);
  if (max_tokens < 1 || max_tokens > info.max_context - num_tokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_tokens is %d, expected 1 to %d (max_context %d less %d prompt tokens)",
                        max_tokens, info.max_context - num_tokens, info.max_context, num_tokens));
  }
  const AttentionOverride& attention = request.attention;
  const bool server_full = info.num_selected_blocks == 0;
  if (server_full &&
      (attention.mode == AttentionMode::kNsa || attention.num_selected_blocks != 0)) {
    return absl::InvalidArgumentError("attention.mode nsa: this server runs with --attention=full");
  }
  if (attention.num_selected_blocks < 0 || attention.num_selected_blocks > max_selected_blocks) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "attention.num_selected_blocks is %d, expected 1 to %d, or 0 for the server's own",
        attention.num_selected_blocks, max_selected_blocks));
  }
  if (attention.mode == AttentionMode::kFull && !info.has_full_attention) {
    return absl::InvalidArgumentError(
        "attention.mode full: the checkpoint was trained with gated branches and has no full "
        "attention");
  }
  if (attention.mode == AttentionMode::kFull && attention.num_selected_blocks != 0) {
    return absl::InvalidArgumentError(
        "attention.num_selected_blocks has no meaning with attention.mode full");
  }
  if (attention.mode == AttentionMode::kFull &&
      num_tokens + request.sampling.max_tokens.value_or(1) > info.trained_context) {
    return absl::InvalidArgumentError(
        absl::StrFormat("attention.mode full reaches %d tokens, the trained length; prompt %d + "
                        "max_tokens %d exceed it",
                        info.trained_context, num_tokens, request.sampling.max_tokens.value_or(1)));
  }
  if (const int64_t limit = MemoryLimit(request, info);
      num_tokens + request.sampling.max_tokens.value_or(1) > limit) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s has pages in memory alone, which is %d tokens; prompt %d + max_tokens %d exceed it",
        attention.mode == AttentionMode::kFull
            ? "attention.mode full"
            : absl::StrFormat("attention.num_selected_blocks %d", attention.num_selected_blocks),
        limit, num_tokens, request.sampling.max_tokens.value_or(1)));
  }
  return absl::OkStatus();
}

int64_t CompletionLimit(const Request& request, const ModelInfo& info) {
  int64_t context = MemoryLimit(request, info);
  if (request.attention.mode == AttentionMode::kFull) {
    context = std::min(context, info.trained_context);
  }
  const int64_t room = context - static_cast<int64_t>(request.prompt_token_ids.size());
  return std::min(room, request.sampling.max_tokens.value_or(room));
}

}  // namespace nsa::engine
