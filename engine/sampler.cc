#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <string>

namespace nsa::engine {
namespace {

bool WantsCounts(const SamplingParams& p) {
  return p.presence_penalty != 0 || p.frequency_penalty != 0 || p.repetition_penalty != 1;
}

}  // namespace

Sampler::Sampler(const SamplingParams& params, const std::vector<int32_t>& prompt,
                 const std::vector<int32_t>& stop_ids, const Tokenizer& tokenizer, uint64_t seed)
    : params_(params), stop_ids_(stop_ids), seed_(seed), counts_wanted_(WantsCounts(params)) {
  for (const auto& [id, bias] : params.logit_bias) biases_.push_back({id, bias});
  // A bad word can begin a text or follow a space; the two are different tokens.
  for (const std::string& word : params.bad_words) {
    for (const std::string& form : {word, " " + word}) {
      auto ids =
          tokenizer.Encode(form, {.add_special_tokens = false, .parse_special_tokens = false});
      if (!ids.empty()) bad_sequences_.push_back(std::move(ids));
    }
  }
  if (!counts_wanted_) return;
  for (const int32_t id : prompt) {
    const auto [it, added] = count_index_.try_emplace(id, counts_.size());
    if (added) counts_.push_back({.token_id = id});
    ++counts_[it->second].num_in_prompt;
  }
}

void Sampler::BanForNextToken(const Pending& pending, std::vector<int32_t>& banned) const {
  banned.clear();
  if (IndexBehind(pending) < params_.min_tokens) {
    banned.insert(banned.end(), stop_ids_.begin(), stop_ids_.end());
  }
  const std::span<const int32_t> drafted = pending.drafted;
  for (const std::vector<int32_t>& bad : bad_sequences_) {
    const std::span<const int32_t> before = std::span(bad).first(bad.size() - 1);
    // Of its first tokens so many are Accept's, and the rest are drafted.
    const size_t num_accepted = before.size() - std::min(before.size(), drafted.size());
    if (num_accepted <= generated_.size() &&
        std::ranges::equal(before.first(num_accepted), std::span(generated_).last(num_accepted)) &&
        std::ranges::equal(before.subspan(num_accepted),
                           drafted.last(before.size() - num_accepted))) {
      banned.push_back(bad.back());
    }
  }
}

void Sampler::AllowSetBits(const uint32_t* bits, int64_t vocabulary_size,
                           std::vector<int32_t>& allowed) const {
  const auto is_set = [bits](int64_t id) { return (bits[id / 32] >> (id % 32) & 1) != 0; };
  allowed.clear();
  if (!params_.allowed_token_ids.empty()) {
    std::ranges::copy_if(params_.allowed_token_ids, std::back_inserter(allowed), is_set);
    return;
  }
  for (int64_t begin = 0; begin < vocabulary_size; begin += 32) {
    const int64_t size = std::min<int64_t>(32, vocabulary_size - begin);
    const uint32_t in_range = size < 32 ? (uint32_t{1} << size) - 1 : ~uint32_t{0};
    for (uint32_t left = bits[begin / 32] & in_range; left != 0; left &= left - 1) {
      allowed.push_back(static_cast<int32_t>(begin + std::countr_zero(left)));
    }
  }
}

void Sampler::CountDrafted(std::span<const int32_t> drafted,
                           std::vector<kernels::TokenCount>& counts) const {
  counts = counts_;
  for (const int32_t id : drafted) {
    auto it = std::ranges::find(counts, id, &kernels::TokenCount::token_id);
    if (it == counts.end()) it = counts.insert(it, {.token_id = id});
    ++it->num_generated;
  }
}

bool Sampler::FillIn(kernels::SampleParams& p, Lists& lists, const Pending& pending,
                     const uint32_t* allowed_bits) const {
  const std::vector<kernels::TokenCount>* counts = &counts_;
  if (counts_wanted_ && !pending.drafted.empty()) {
    CountDrafted(pending.drafted, lists.counts);
    counts = &lists.counts;
  }
  BanForNextToken(pending, lists.banned);
  p.counts = counts->data();
  p.num_counts = std::ssize(*counts);
  p.biases = biases_.data();
  p.num_biases = std::ssize(biases_);
  p.banned = lists.banned.data();
  p.num_banned = std::ssize(lists.banned);
  if (allowed_bits != nullptr) {
    AllowSetBits(allowed_bits, p.vocabulary_size, lists.allowed);
    if (lists.allowed.empty()) return false;
    p.allowed = lists.allowed.data();
    p.num_allowed = std::ssize(lists.allowed);
  } else if (!params_.allowed_token_ids.empty()) {
    p.allowed = params_.allowed_token_ids.data();
    p.num_allowed = std::ssize(params_.allowed_token_ids);
  }
  p.temperature = params_.temperature;
  p.top_p = params_.top_p;
  p.min_p = params_.min_p;
  p.top_k = params_.top_k;
  p.repetition_penalty = params_.repetition_penalty;
  p.presence_penalty = params_.presence_penalty;
  p.frequency_penalty = params_.frequency_penalty;
  p.seed = seed_;
  p.step = static_cast<uint64_t>(IndexBehind(pending));
  return true;
}

void Sampler::Accept(int32_t token_id) {
  generated_.push_back(token_id);
  if (!counts_wanted_) return;
  const auto [it, added] = count_index_.try_emplace(token_id, counts_.size());
  if (added) counts_.push_back({.token_id = token_id});
  ++counts_[it->second].num_generated;
}

}  // namespace nsa::engine
