#ifndef NSA_TESTS_ENGINE_PAPER_FOLDER_H_
#define NSA_TESTS_ENGINE_PAPER_FOLDER_H_

#include <cstdint>
#include <string>

#include "tests/engine/tiny_folder.h"

namespace nsa::engine {

/// Family nsa_paper: learned compression of windows of 32, K and V by branch, a gate perceptron.
struct PaperSizes {
  int64_t window = 64;
  int64_t gate_hidden = 12;
  int64_t phi_hidden = 12;
};

/// Of TinyFolder::Config().
inline TinyFolder::json PaperConfig(const PaperSizes& sizes) {
  TinyFolder::json config = TinyFolder::Config();
  config.update({{"model_type", "nsa_paper"},
                 {"nsa",
                  {{"num_selected_blocks", 4},
                   {"window_size", sizes.window},
                   {"gate_hidden_size", sizes.gate_hidden},
                   {"compression_hidden_size", sizes.phi_hidden}}}});
  return config;
}

/// Of TinyFolder::Weights().
inline TinyFolder::Shapes PaperWeights(const PaperSizes& sizes) {
  constexpr int64_t kLength = 32, kHeadDim = 16;
  TinyFolder::Shapes weights = TinyFolder::Weights();
  const std::string attention = "model.layers.0.self_attn.";
  weights.erase(attention + "k_proj.weight");
  weights.erase(attention + "v_proj.weight");
  for (const char* branch : {"cmp", "slc", "win"}) {
    weights[attention + branch + "_k_proj.weight"] = {kHeadDim, TinyFolder::kHidden};
    weights[attention + branch + "_v_proj.weight"] = {kHeadDim, TinyFolder::kHidden};
  }
  weights[attention + "gate.up_proj.weight"] = {sizes.gate_hidden, TinyFolder::kHidden};
  weights[attention + "gate.down_proj.weight"] = {2 * 3, sizes.gate_hidden};
  for (const char* phi : {"compress_k", "compress_v"}) {
    const std::string name = attention + phi;
    weights[name + ".position"] = {kLength, kHeadDim};
    weights[name + ".up_proj.weight"] = {sizes.phi_hidden, kLength * kHeadDim};
    weights[name + ".down_proj.weight"] = {kHeadDim, sizes.phi_hidden};
  }
  return weights;
}

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_PAPER_FOLDER_H_
