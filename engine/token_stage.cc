#include "engine/token_stage.h"

#include <algorithm>
#include <cmath>
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

bool TokenStage::HasEnded(const Sequence& sequence) const {
  return std::ranges::any_of(ended_, [&](const Ended& e) { return e.sequence == &sequence; });
}

bool TokenStage::DraftHolds(const Sequence& sequence, const BatchEntry& entry, int64_t row) const {
  return !HasEnded(sequence) && sequence.num_tokens() == entry.num_cached + row + 1 &&
         sequence.tokens.back() == entry.tokens[static_cast<size_t>(row)];
}

bool TokenStage::Ask(Sequence& sequence, const BatchEntry& entry, int64_t row, int32_t place,
                     const float* logits, kernels::SampleParams& params) {
  const int64_t next = entry.num_cached + row + 1;  // the position that the logits predict
  Sampler::Pending pending = {.num_unknown = sequence.awaits_token() ? 1 : 0};
  if (entry.decodes && row > 0) {
    if (HasEnded(sequence)) return false;
    // Where the first row's token is not known yet, it is taken for what is drafted.
    if (sequence.num_tokens() == entry.num_cached + 1) {
      pending.drafted = entry.tokens.subspan(1, static_cast<size_t>(row));
    } else if (!DraftHolds(sequence, entry, row)) {
      return false;
    }
  } else if (!entry.decodes && next < sequence.num_prompt_tokens()) {
    TakePromptRow(sequence, next, logits);
    return false;
  } else if (!entry.decodes && next != sequence.num_tokens()) {
    return false;
  }
  if (sequence.request.sampling.logprobs.has_value()) {
    raw_.push_back({&sequence, row, OnHost(logits)});
  }
  const uint32_t* bits = nullptr;
  if (GrammarMatcher* const matcher = sequence.matcher.get(); matcher != nullptr) {
    if (absl::Status status = masks_.Wait(matcher); !status.ok()) {
      ended_.push_back({&sequence, status, FinishReason::kAborted});
      return false;
    }
    bits = matcher->mask().data();
  }
  params.vocabulary_size = model_->info.vocabulary_size;  // the model may have more rows
  while (std::ssize(lists_) <= place) lists_.emplace_back();
  Sampler::Lists& lists = lists_[static_cast<size_t>(place)];
  if (sequence.sampler.FillIn(params, lists, pending, bits)) return true;
  const bool has_nan = HasNan(OnHost(logits));
  ended_.push_back({&sequence, WhyNoToken(sequence, has_nan), FinishReason::kAborted});
  return false;
}

void TokenStage::Take(Sequence& sequence, const BatchEntry& entry, int64_t row, int32_t token_id) {
  if (!entry.decodes || row == 0 || DraftHolds(sequence, entry, row)) {
    Deliver(sequence, row, token_id, absl::Now());
  }
  std::erase_if(raw_, [&](const RawLogits& logits) {
    return logits.sequence == &sequence && logits.row == row;
  });
}

void TokenStage::Drop(const Sequence& sequence) {
  std::erase_if(raw_, [&](const RawLogits& logits) { return logits.sequence == &sequence; });
  std::erase_if(ended_, [&](const Ended& ended) { return ended.sequence == &sequence; });
}

const std::vector<float>& TokenStage::OnHost(const float* logits) {
  has_read_ = true;
  host_logits_.resize(static_cast<size_t>(model_->info.vocabulary_size));
  model_->backend->Read(host_logits_.data(), logits,
                        static_cast<int64_t>(host_logits_.size() * sizeof(float)));
  return host_logits_;
}

void TokenStage::TakePromptRow(Sequence& sequence, int64_t position, const float* logits) {
  if (position != sequence.num_prompt_logprobs) return;
  const std::vector<float>& values = OnHost(logits);
  if (HasNan(values)) {
    ended_.push_back({&sequence, WhyNoToken(sequence, true), FinishReason::kAborted});
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

absl::Status TokenStage::WhyNoToken(const Sequence& sequence, bool has_nan) {
  if (has_nan) return absl::InternalError("the model's logits are not numbers (NaN)");
  return absl::InvalidArgumentError(absl::StrCat(
      "no token is left to choose: allowed_token_ids, bad_words, logit_bias",
      sequence.matcher != nullptr ? ", structured_output" : "", " and min_tokens ban all"));
}

void TokenStage::CountToken(const Sequence& sequence, absl::Time now) {
  if (sequence.first_token != absl::InfiniteFuture()) {
    return observer_->OnInterToken(now - sequence.last_token);
  }
  // The choices of a request have one prompt.
  const int64_t num_prompt_tokens = sequence.index == 0 ? sequence.num_prompt_tokens() : 0;
  observer_->OnFirstToken(now - sequence.arrival, num_prompt_tokens);
}

void TokenStage::Deliver(Sequence& sequence, int64_t row, int32_t token_id, absl::Time now) {
  absl::Status status;
  if (token_id < 0) {
    status = WhyNoToken(sequence, token_id == kernels::kLogitsNan);
  } else if (sequence.matcher != nullptr) {
    status = sequence.matcher->Accept(token_id);
  }
  if (!status.ok()) {
    ended_.push_back({&sequence, status, FinishReason::kAborted});
    return;
  }
  CountToken(sequence, now);
  std::vector<TokenLogprobs> logprobs;
  if (const auto num_top = sequence.request.sampling.logprobs; num_top.has_value()) {
    const auto raw = std::ranges::find_if(raw_, [&](const RawLogits& logits) {
      return logits.sequence == &sequence && logits.row == row;
    });
    logprobs.push_back(LogprobsOf(raw->logits, token_id, *num_top, *model_->tokenizer));
  }
  if (sequence.AcceptToken(token_id, now, std::move(logprobs))) {
    ended_.push_back({&sequence, absl::OkStatus(), sequence.finish.reason});
  }
}

}  // namespace nsa::engine
