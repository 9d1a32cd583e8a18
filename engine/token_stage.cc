#include "engine/token_stage.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/logprobs.h"

namespace nsa::engine {
namespace {

bool HasNan(const std::vector<float>& values) {
  return std::ranges::any_of(values, [](float x) { return std::isnan(x); });
}

}  // namespace

bool TokenStage::DraftHolds(const Sequence& sequence, const BatchEntry& entry, int64_t row) const {
  if (!ended_.empty() && ended_.back().sequence == &sequence) return false;
  return sequence.num_tokens() == entry.num_cached + row + 1 &&
         sequence.tokens.back() == entry.tokens[static_cast<size_t>(row)];
}

void TokenStage::Take(Sequence& sequence, const BatchEntry& entry, int64_t row, float* logits) {
  const int64_t next = entry.num_cached + row + 1;  // the position that the logits predict
  if (entry.decodes) {
    if (row == 0 || DraftHolds(sequence, entry, row)) Deliver(sequence, logits, absl::Now());
  } else if (next < sequence.num_prompt_tokens()) {
    TakePromptRow(sequence, next, logits);
  } else if (next == sequence.num_tokens()) {
    Deliver(sequence, logits, absl::Now());
  }
}

const std::vector<float>& TokenStage::OnHost(const float* logits) {
  host_logits_.resize(static_cast<size_t>(model_->info.vocabulary_size));
  model_->backend->Read(host_logits_.data(), logits,
                        static_cast<int64_t>(host_logits_.size() * sizeof(float)));
  return host_logits_;
}

void TokenStage::TakePromptRow(Sequence& sequence, int64_t position, const float* logits) {
  if (position != sequence.num_prompt_logprobs) return;
  const std::vector<float>& values = OnHost(logits);
  if (HasNan(values)) {
    ended_.push_back({&sequence, WhyNoToken(sequence, logits), FinishReason::kAborted});
    return;
  }
  ++sequence.num_prompt_logprobs;
  sequence.prompt_logprobs.push_back(
      LogprobsOf(values, sequence.tokens[static_cast<size_t>(position)],
                 *sequence.request.sampling.prompt_logprobs, *model_->tokenizer));
}

void TokenStage::Prepare(Sequence& sequence) {
  if (sequence.matcher != nullptr) masks_.Add(sequence.matcher.get());
}

void TokenStage::Forget(Sequence& sequence) {
  if (sequence.matcher != nullptr) masks_.Wait(sequence.matcher.get()).IgnoreError();
}

absl::Status TokenStage::WhyNoToken(const Sequence& sequence, const float* logits) {
  if (HasNan(OnHost(logits))) {
    return absl::InternalError("the model's logits are not numbers (NaN)");
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "no token is left to choose: allowed_token_ids, bad_words, logit_bias",
      sequence.matcher != nullptr ? ", structured_output" : "", " and min_tokens ban all"));
}

void TokenStage::CountToken(const Sequence& sequence, absl::Time now) {
  if (sequence.num_generated() > 0) return observer_->OnInterToken(now - sequence.last_token);
  // The choices of a request have one prompt.
  const int64_t num_prompt_tokens = sequence.index == 0 ? sequence.num_prompt_tokens() : 0;
  observer_->OnFirstToken(now - sequence.arrival, num_prompt_tokens);
}

absl::StatusOr<int32_t> TokenStage::Choose(Sequence& sequence, float* logits) {
  GrammarMatcher* const matcher = sequence.matcher.get();
  const uint32_t* bits = nullptr;
  if (matcher != nullptr) {
    if (absl::Status status = masks_.Wait(matcher); !status.ok()) return status;
    bits = matcher->mask().data();
  }
  const int32_t token_id =
      sequence.sampler.Sample(*model_->backend, logits, model_->info.vocabulary_size, bits);
  if (token_id < 0) return WhyNoToken(sequence, logits);
  if (matcher != nullptr) {
    if (absl::Status status = matcher->Accept(token_id); !status.ok()) return status;
  }
  return token_id;
}

void TokenStage::Deliver(Sequence& sequence, float* logits, absl::Time now) {
  const std::optional<int32_t> num_top = sequence.request.sampling.logprobs;
  std::vector<float> raw;  // sampling overwrites logits
  if (num_top.has_value()) raw = OnHost(logits);
  const absl::StatusOr<int32_t> token_id = Choose(sequence, logits);
  if (!token_id.ok()) {
    ended_.push_back({&sequence, token_id.status(), FinishReason::kAborted});
    return;
  }
  CountToken(sequence, now);
  std::vector<TokenLogprobs> logprobs;
  if (num_top.has_value()) {
    logprobs.push_back(LogprobsOf(raw, *token_id, *num_top, *model_->tokenizer));
  }
  if (sequence.AcceptToken(*token_id, now, std::move(logprobs))) {
    ended_.push_back({&sequence, absl::OkStatus(), sequence.finish.reason});
  }
}

}  // namespace nsa::engine
