#include "engine/prompt_lookup.h"

#include <algorithm>

namespace nsa::engine {
namespace {

constexpr int64_t kMinMatch = 3;       // tokens; shorter repetitions say little about what follows
constexpr int64_t kLongestMatch = 32;  // tokens; longer matches are as good
constexpr int kMaxCandidates = 32;     // places looked at, the latest first
constexpr int64_t kLongestPause = 32;  // steps
constexpr uint32_t kNumHashes = 1 << 16;

/// Of the kMinMatch tokens that end before `end`.
uint32_t HashBefore(const std::vector<int32_t>& tokens, int64_t end) {
  uint64_t hash = 0;
  for (int64_t i = end - kMinMatch; i < end; ++i) {
    hash = (hash + static_cast<uint32_t>(tokens[static_cast<size_t>(i)])) * 0x9E3779B97F4A7C15u;
  }
  return static_cast<uint32_t>(hash >> 48);
}

/// How many tokens before `a` are the same as before `b` > a.
int64_t MatchLength(const std::vector<int32_t>& tokens, int64_t a, int64_t b) {
  const int64_t longest = std::min(a, kLongestMatch);
  int64_t length = 0;
  while (length < longest && tokens[static_cast<size_t>(a - 1 - length)] ==
                                 tokens[static_cast<size_t>(b - 1 - length)]) {
    ++length;
  }
  return length;
}

}  // namespace

void PromptLookup::Index(const std::vector<int32_t>& tokens) {
  if (heads_.empty()) heads_.assign(kNumHashes, -1);
  // A place is the number of tokens before it. The end itself is no place to copy from.
  const auto end = static_cast<int64_t>(tokens.size());
  for (auto place = static_cast<int64_t>(previous_.size()); place < end; ++place) {
    previous_.push_back(-1);
    if (place < kMinMatch) continue;
    int32_t& head = heads_[HashBefore(tokens, place)];
    previous_.back() = head;
    head = static_cast<int32_t>(place);
  }
}

std::vector<int32_t> PromptLookup::Draft(const std::vector<int32_t>& tokens, int64_t limit) {
  if (pause_ > 0) {
    --pause_;
    return {};
  }
  const auto end = static_cast<int64_t>(tokens.size());
  if (limit < 1 || end < kMinMatch) return {};
  Index(tokens);
  int64_t best = -1, best_length = kMinMatch - 1;
  int32_t place = heads_[HashBefore(tokens, end)];
  for (int i = 0; place >= 0 && i < kMaxCandidates; ++i) {
    const int64_t length = MatchLength(tokens, place, end);
    if (length > best_length) {
      best = place;
      best_length = length;
    }
    place = previous_[static_cast<size_t>(place)];
  }
  if (best < 0) return {};
  std::vector<int32_t> draft;
  const int64_t size = std::min(limit, draft_size_);
  // Where the text repeats itself with a short period, the copy runs into what it writes.
  for (int64_t i = best; i < best + size; ++i) {
    draft.push_back(i < end ? tokens[static_cast<size_t>(i)] : draft[static_cast<size_t>(i - end)]);
  }
  return draft;
}

void PromptLookup::Learn(int64_t num_drafted, int64_t num_accepted) {
  if (num_accepted == 0) {
    pause_ = next_pause_;
    next_pause_ = std::min(2 * next_pause_, kLongestPause);
    draft_size_ = 1;
    return;
  }
  next_pause_ = 1;
  draft_size_ =
      num_accepted == num_drafted ? std::min(2 * num_drafted, kMaxDraft) : num_accepted + 1;
}

}  // namespace nsa::engine
