#ifndef NSA_ENGINE_TOKENIZER_SPECIAL_TOKENS_H_
#define NSA_ENGINE_TOKENIZER_SPECIAL_TOKENS_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace nsa::engine {

/// Finds added tokens in text before any model sees it: leftmost first, and the longest of those
/// that start there (as PyPI `tokenizers` does). Immutable after the last Add: any thread.
class SpecialTokens {
 public:
  /// A part of the text: a token, or text between tokens (token_id −1, never empty).
  struct Fragment {
    int32_t token_id;
    std::string_view text;
  };

  /// `always`: matched even where the caller does not parse special tokens (user-defined tokens).
  void Add(std::string_view text, int32_t token_id, bool always);

  /// Makes a token that was added take white space on its sides along (ASCII's alone;
  /// PyPI `tokenizers` takes Unicode's).
  void SetStrip(std::string_view text, bool left, bool right);

  /// Fragments view `text` and join to it but for white space that tokens took along. Time: linear
  /// in the text for a fixed set of tokens.
  std::vector<Fragment> Split(std::string_view text, bool parse_special_tokens) const;

 private:
  struct Node {
    int32_t token_id = -1;
    bool always = false;
    bool strips_left = false;
    bool strips_right = false;
  };
  struct Match {
    int32_t token_id = -1;
    size_t num_bytes = 0;
    bool strips_left = false;
    bool strips_right = false;
  };
  Match LongestAt(std::string_view text, bool parse_special_tokens) const;

  std::vector<Node> nodes_ = {Node{}};  // a trie; 0 is the root
  // node · 256 + byte → node. A hash map, not 256 pointers a node: most nodes have one child.
  absl::flat_hash_map<uint64_t, uint32_t> edges_;
  std::array<bool, 256> starts_ = {};
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_SPECIAL_TOKENS_H_
