#include "engine/tokenizer/special_tokens.h"

namespace nsa::engine {

void SpecialTokens::Add(std::string_view text, int32_t token_id, bool always) {
  if (text.empty()) return;
  starts_[static_cast<uint8_t>(text[0])] = true;
  uint32_t node = 0;
  for (char c : text) {
    const uint64_t key = uint64_t{node} * 256 + static_cast<uint8_t>(c);
    const auto [it, inserted] = edges_.try_emplace(key, static_cast<uint32_t>(nodes_.size()));
    node = it->second;
    if (inserted) nodes_.push_back(Node{});
  }
  nodes_[node] = {token_id, always};
}

SpecialTokens::Match SpecialTokens::LongestAt(std::string_view text,
                                              bool parse_special_tokens) const {
  Match match;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto it = edges_.find(uint64_t{node} * 256 + static_cast<uint8_t>(text[i]));
    if (it == edges_.end()) break;
    node = it->second;
    if (nodes_[node].token_id >= 0 && (parse_special_tokens || nodes_[node].always)) {
      match = {nodes_[node].token_id, i + 1};
    }
  }
  return match;
}

std::vector<SpecialTokens::Fragment> SpecialTokens::Split(std::string_view text,
                                                          bool parse_special_tokens) const {
  std::vector<Fragment> fragments;
  size_t text_begin = 0;
  size_t i = 0;
  while (i < text.size()) {
    Match match;
    if (starts_[static_cast<uint8_t>(text[i])]) {
      match = LongestAt(text.substr(i), parse_special_tokens);
    }
    if (match.token_id < 0) {
      ++i;
      continue;
    }
    if (i > text_begin) fragments.push_back({-1, text.substr(text_begin, i - text_begin)});
    fragments.push_back({match.token_id, text.substr(i, match.num_bytes)});
    i += match.num_bytes;
    text_begin = i;
  }
  if (text_begin < text.size()) fragments.push_back({-1, text.substr(text_begin)});
  return fragments;
}

}  // namespace nsa::engine
