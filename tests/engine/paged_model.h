#ifndef NSA_TESTS_ENGINE_PAGED_MODEL_H_
#define NSA_TESTS_ENGINE_PAGED_MODEL_H_

#include <cstdint>
#include <span>
#include <vector>

#include "engine/batch.h"
#include "tests/engine/fake_tier.h"

namespace nsa::engine {

/// A model for tests of what happens to pages: the value of a token depends on the token and on all
/// values before it, as they stand in the pages; the next token depends on all of them. So whoever
/// reads a page that is not what it should be says another token. Tokens are 1 to 6, which makes
/// texts that repeat themselves.
class PagedModel {
 public:
  explicit PagedModel(int32_t num_pages) : memory(static_cast<size_t>(num_pages)) {}

  /// Writes the values of a row and gives the token that follows it.
  int32_t Run(std::span<const int32_t> page_table, int64_t position, int32_t token) {
    uint64_t all = 0;
    for (int64_t i = 0; i < position; ++i) all = Mix(all, value(page_table, i));
    value(page_table, position) = Mix(all, static_cast<uint64_t>(token));
    return Next(Mix(all, value(page_table, position)));
  }

  /// The completion of a prompt, alone and without pages.
  static std::vector<int32_t> Alone(std::vector<int32_t> tokens, int64_t num_tokens) {
    uint64_t all = 0;
    std::vector<int32_t> completion;
    for (size_t i = 0; static_cast<int64_t>(completion.size()) < num_tokens; ++i) {
      all = Mix(all, Mix(all, static_cast<uint64_t>(tokens[i])));
      if (i + 1 < tokens.size()) continue;
      completion.push_back(Next(all));
      tokens.push_back(completion.back());
    }
    return completion;
  }

  std::vector<PageContent> memory;

 private:
  uint64_t& value(std::span<const int32_t> page_table, int64_t position) {
    const auto page = static_cast<size_t>(page_table[static_cast<size_t>(position / 64)]);
    return memory[page][static_cast<size_t>(position % 64)];
  }
  static int32_t Next(uint64_t all) { return static_cast<int32_t>(1 + all % 6); }
  static uint64_t Mix(uint64_t a, uint64_t b) {
    const uint64_t x = (a ^ (b + 0x9E3779B97F4A7C15u)) * 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 29);
  }
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_PAGED_MODEL_H_
