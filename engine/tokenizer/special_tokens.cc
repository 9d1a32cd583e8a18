#include "engine/tokenizer/special_tokens.h"

namespace nsa::engine {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

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
  nodes_[node].token_id = token_id;
  nodes_[node].always = always;
}

void SpecialTokens::SetStrip(std::string_view text, bool left, bool right) {
  uint32_t node = 0;
  for (char c : text) {
    const auto it = edges_.find(uint64_t{node} * 256 + static_cast<uint8_t>(c));
    if (it == edges_.end()) return;
    node = it->second;
  }
  nodes_[node].strips_left = left;
  nodes_[node].strips_right = right;
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
      match = {.token_id = nodes_[node].token_id,
               .num_bytes = i + 1,
               .strips_left = nodes_[node].strips_left,
               .strips_right = nodes_[node].strips_right};
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
    size_t text_end = i;
    while (match.strips_left && text_end > text_begin && IsSpace(text[text_end - 1])) --text_end;
    if (text_end > text_begin) {
      fragments.push_back({-1, text.substr(text_begin, text_end - text_begin)});
    }
    fragments.push_back({match.token_id, text.substr(i, match.num_bytes)});
    i += match.num_bytes;
    while (match.strips_right && i < text.size() && IsSpace(text[i])) ++i;
    text_begin = i;
  }
  if (text_begin < text.size()) fragments.push_back({-1, text.substr(text_begin)});
  return fragments;
}

}  // namespace nsa::engine
