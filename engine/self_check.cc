#include "engine/self_check.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/batch.h"
#include "engine/residency.h"
#include "kernels/tensor.h"

namespace nsa::engine {
namespace {

// Beyond a page, so that what a page's end does is seen too.
constexpr int64_t kPromptTokens = 72;
constexpr int64_t kNewTokens = 4;
// Of the largest logit. On a backend whose operators are row-invariant nothing differs at all.
constexpr float kTolerance = 0.02F;

/// Logits of the prompt's last token and of those that follow greedily, all in one row.
std::vector<float> Complete(LoadedModel& model, int64_t num_prompt_tokens, int64_t chunk) {
  const int32_t vocabulary = model.info.vocabulary_size;
  std::vector<int32_t> tokens(static_cast<size_t>(num_prompt_tokens));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>((i * 7 + 3) % static_cast<size_t>(std::min(vocabulary, 256)));
  }
  std::vector<int32_t> pages(static_cast<size_t>(PagesFor(num_prompt_tokens + kNewTokens)));
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<float> all;
  for (int64_t begin = 0; begin < num_prompt_tokens + kNewTokens;) {
    const auto num_tokens = static_cast<int64_t>(tokens.size());
    const int64_t size = std::min(chunk, num_tokens - begin);
    BatchEntry entry;
    entry.tokens = std::span<const int32_t>(tokens).subspan(static_cast<size_t>(begin),
                                                            static_cast<size_t>(size));
    entry.num_cached = begin;
    entry.page_table = pages;
    entry.num_selected_blocks = model.info.num_selected_blocks;
    entry.num_logit_rows = begin + size == num_tokens ? 1 : 0;
    Batch batch;
    batch.entries.push_back(entry);
    batch.num_rows = size;
    model.runner->Run(batch, [&](size_t, int64_t, float* logits) {
      std::vector<float> row(static_cast<size_t>(vocabulary));
      model.backend->Read(row.data(), logits, static_cast<int64_t>(row.size() * sizeof(float)));
      tokens.push_back(static_cast<int32_t>(std::ranges::max_element(row) - row.begin()));
      all.insert(all.end(), row.begin(), row.end());
    });
    begin += size;
  }
  return all;
}

}  // namespace

absl::Status SelfCheck(LoadedModel& model, int64_t max_step_tokens) {
  const int64_t room =
      std::min(model.info.max_context, model.info.num_pages * kernels::kPageSize) - kNewTokens - 1;
  const int64_t num_prompt_tokens = std::min(kPromptTokens, room);
  if (num_prompt_tokens < 1) return absl::OkStatus();
  const int64_t chunk = std::min(max_step_tokens, num_prompt_tokens);
  const std::vector<float> whole = Complete(model, num_prompt_tokens, chunk);
  if (!std::ranges::all_of(whole, [](float x) { return std::isfinite(x); })) {
    return absl::InternalError(
        "self-check: the model's logits are not finite; are the weights damaged?");
  }
  const std::vector<float> parts = Complete(model, num_prompt_tokens, std::min<int64_t>(chunk, 29));
  float largest = 0, difference = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    largest = std::max(largest, std::abs(whole[i]));
    difference = std::max(difference, std::abs(whole[i] - parts[i]));
  }
  model.runner->TakePageAges();  // nobody's
  if (difference <= kTolerance * largest) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat(
      "self-check: logits differ by %g of %g between a prompt in one chunk and in several; this "
      "machine and build do not compute what they should",
      difference, largest));
}

}  // namespace nsa::engine
