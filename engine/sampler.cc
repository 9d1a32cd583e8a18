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

void Sampler::BanForNextToken(std::vector<int32_t>& banned) const {
  if (static_cast<int64_t>(generated_.size()) < params_.min_tokens) {
    banned.insert(banned.end(), stop_ids_.begin(), stop_ids_.end());
  }
  for (const std::vector<int32_t>& bad : bad_sequences_) {
    const size_t num_before = bad.size() - 1;
    if (num_before <= generated_.size() &&
        std::equal(bad.begin(), bad.end() - 1,
                   generated_.end() - static_cast<int64_t>(num_before))) {
      banned.push_back(bad.back());
    }
  }
}

void Sampler::AllowSetBits(const uint32_t* bits, int64_t vocabulary_size) {
  const auto is_set = [bits](int64_t id) { return (bits[id / 32] >> (id % 32) & 1) != 0; };
  allowed_.clear();
  if (!params_.allowed_token_ids.empty()) {
    std::ranges::copy_if(params_.allowed_token_ids, std::back_inserter(allowed_), is_set);
    return;
  }
  for (int64_t begin = 0; begin < vocabulary_size; begin += 32) {
    const int64_t size = std::min<int64_t>(32, vocabulary_size - begin);
    const uint32_t in_range = size < 32 ? (uint32_t{1} << size) - 1 : ~uint32_t{0};
    for (uint32_t left = bits[begin / 32] & in_range; left != 0; left &= left - 1) {
      allowed_.push_back(static_cast<int32_t>(begin + std::countr_zero(left)));
    }
  }
}

int32_t Sampler::Sample(kernels::Backend& backend, float* logits, int64_t vocabulary_size,
                        const uint32_t* allowed_bits) {
  std::vector<int32_t> banned;
  BanForNextToken(banned);
  int32_t token_id = -1;
  kernels::SampleParams p;
  p.logits = logits;
  p.vocabulary_size = vocabulary_size;
  p.counts = counts_.data();
  p.num_counts = static_cast<int64_t>(counts_.size());
  p.biases = biases_.data();
  p.num_biases = static_cast<int64_t>(biases_.size());
  p.banned = banned.data();
  p.num_banned = static_cast<int64_t>(banned.size());
  if (allowed_bits != nullptr) {
    AllowSetBits(allowed_bits, vocabulary_size);
    if (allowed_.empty()) return -1;
    p.allowed = allowed_.data();
    p.num_allowed = static_cast<int64_t>(allowed_.size());
  } else if (!params_.allowed_token_ids.empty()) {
    p.allowed = params_.allowed_token_ids.data();
    p.num_allowed = static_cast<int64_t>(params_.allowed_token_ids.size());
  }
  p.temperature = params_.temperature;
  p.top_p = params_.top_p;
  p.min_p = params_.min_p;
  p.top_k = params_.top_k;
  p.repetition_penalty = params_.repetition_penalty;
  p.presence_penalty = params_.presence_penalty;
  p.frequency_penalty = params_.frequency_penalty;
  p.seed = seed_;
  p.step = generated_.size();
  p.token_id = &token_id;
  backend.Sample(p);
  return token_id;
}

void Sampler::Accept(int32_t token_id) {
  generated_.push_back(token_id);
  if (!counts_wanted_) return;
  const auto [it, added] = count_index_.try_emplace(token_id, counts_.size());
  if (added) counts_.push_back({.token_id = token_id});
  ++counts_[it->second].num_generated;
}

}  // namespace nsa::engine
