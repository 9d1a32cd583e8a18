#ifndef NSA_TESTS_ENGINE_SELECTING_MODEL_H_
#define NSA_TESTS_ENGINE_SELECTING_MODEL_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "engine/batch.h"
#include "tests/engine/fake_tier.h"

namespace nsa::engine {

/// A model of several layers whose rows read a window and the pages that they select, for tests of
/// what happens to slots: a row's state goes from layer to layer, decides what the row selects, and
/// takes in values as they stand in the slots; the next token depends on all of it. So whoever
/// reads a slot that is not what it should be says another token. Tokens are 1 to 6.
class SelectingModel {
 public:
  struct Shape {
    int num_layers = 3;
    int64_t window_pages = 1;  // before a row's page
    int32_t num_selected = 3;  // pages, page 0 included
  };

  /// With memory for `num_pages`. `places`: as FakeTier has them.
  SelectingModel(int32_t num_pages, const Shape& shape, const SlotPlaces* places = nullptr)
      : memory(static_cast<size_t>(num_pages * shape.num_layers)), shape_(shape), places_(places) {}

  /// The tokens that follow an entry's rows; nothing where it left the step.
  std::optional<std::vector<int32_t>> Run(const BatchEntry& entry, PageGate* gate) {
    std::vector<uint64_t> states;
    for (const int32_t token : entry.tokens) states.push_back(Mix(1, static_cast<uint64_t>(token)));
    if (entry.first_layer > 0) {
      std::copy_n(kept_.at(entry.kept_row).begin(), states.size(), states.begin());
    }
    for (int layer = entry.first_layer; layer < shape_.num_layers; ++layer) {
      for (size_t row = 0; row < states.size(); ++row) {
        Value(entry, layer, entry.num_cached + static_cast<int64_t>(row)) = Mix(states[row], 7);
      }
      if (gate != nullptr && !entry.full_attention) {
        const int32_t kept_row = gate->Pass(entry, layer, Union(entry, layer, states));
        if (kept_row >= 0) {
          kept_[kept_row] = states;
          return std::nullopt;
        }
      }
      for (size_t row = 0; row < states.size(); ++row) {
        states[row] = Attend(entry, layer, static_cast<int64_t>(row), states[row]);
      }
    }
    std::vector<int32_t> next;
    for (const uint64_t state : states) next.push_back(static_cast<int32_t>(1 + state % 6));
    return next;
  }

  /// The completion of a prompt, alone and with all in memory.
  static std::vector<int32_t> Alone(std::vector<int32_t> tokens, int64_t num_tokens,
                                    const Shape& shape, bool full) {
    const size_t total = tokens.size() + static_cast<size_t>(num_tokens);
    const auto num_pages = static_cast<int32_t>(total / kernels::kPageSize + 1);
    SelectingModel model(num_pages, shape);
    std::vector<int32_t> pages(static_cast<size_t>(num_pages));
    std::iota(pages.begin(), pages.end(), 0);
    std::vector<int32_t> completion;
    for (size_t i = 0; std::ssize(completion) < num_tokens; ++i) {
      BatchEntry entry;
      entry.tokens = std::span<const int32_t>(tokens).subspan(i, 1);
      entry.num_cached = static_cast<int64_t>(i);
      entry.page_table = pages;
      entry.full_attention = full;
      const int32_t next = model.Run(entry, nullptr)->front();
      if (i + 1 < tokens.size()) continue;
      completion.push_back(next);
      tokens.push_back(next);
    }
    return completion;
  }

  std::vector<PageContent> memory;  // by IndexOfSlot

 private:
  uint64_t& Value(const BatchEntry& entry, int layer, int64_t position) {
    const int32_t page = entry.page_table[static_cast<size_t>(position / kernels::kPageSize)];
    return memory.at(IndexOfSlot({layer, page}, shape_.num_layers,
                                 places_))[static_cast<size_t>(position % kernels::kPageSize)];
  }

  int64_t FirstOfWindow(int64_t position) const {
    return std::max<int64_t>(0, position / kernels::kPageSize - shape_.window_pages);
  }

  /// Most rows of a layer want the same pages; now and then one wants another.
  std::vector<int32_t> Select(int layer, int64_t position, uint64_t state) const {
    const auto num_candidates = static_cast<uint64_t>(FirstOfWindow(position));
    std::vector<int32_t> pages;
    for (int32_t i = 0; num_candidates > 0 && i < shape_.num_selected; ++i) {
      const uint64_t usual = Mix(static_cast<uint64_t>(layer), static_cast<uint64_t>(i));
      const uint64_t choice = Mix(state, static_cast<uint64_t>(i)) % 4 == 0 ? state >> i : usual;
      pages.push_back(i == 0 ? 0 : static_cast<int32_t>(choice % num_candidates));
    }
    std::ranges::sort(pages);
    pages.erase(std::ranges::unique(pages).begin(), pages.end());
    return pages;
  }

  std::vector<int32_t> Union(const BatchEntry& entry, int layer,
                             const std::vector<uint64_t>& states) const {
    std::vector<int32_t> all;
    for (size_t row = 0; row < states.size(); ++row) {
      const std::vector<int32_t> own =
          Select(layer, entry.num_cached + static_cast<int64_t>(row), states[row]);
      all.insert(all.end(), own.begin(), own.end());
    }
    std::ranges::sort(all);
    all.erase(std::ranges::unique(all).begin(), all.end());
    return all;
  }

  uint64_t Attend(const BatchEntry& entry, int layer, int64_t row, uint64_t state) {
    const int64_t position = entry.num_cached + row;
    uint64_t all = state;
    const auto read = [&](int64_t page) {
      for (int64_t i = layer; i < kernels::kPageSize; i += 17) {
        const int64_t token = page * kernels::kPageSize + i;
        if (token <= position) all = Mix(all, Value(entry, layer, token));
      }
    };
    const int64_t first = entry.full_attention ? 0 : FirstOfWindow(position);
    if (!entry.full_attention) {
      for (const int32_t page : Select(layer, position, state)) read(page);
    }
    for (int64_t page = first; page <= position / kernels::kPageSize; ++page) read(page);
    return Mix(all, Value(entry, layer, position));
  }

  static uint64_t Mix(uint64_t a, uint64_t b) {
    const uint64_t x = (a ^ (b + 0x9E3779B97F4A7C15u)) * 0xBF58476D1CE4E5B9u;
    return x ^ (x >> 29);
  }

  Shape shape_;
  const SlotPlaces* places_;
  std::map<int32_t, std::vector<uint64_t>> kept_;  // by kept row
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_SELECTING_MODEL_H_
