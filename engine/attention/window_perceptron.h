#ifndef NSA_ENGINE_ATTENTION_WINDOW_PERCEPTRON_H_
#define NSA_ENGINE_ATTENTION_WINDOW_PERCEPTRON_H_

#include <cstdint>
#include <memory>

#include "kernels/array.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// φ of NSA Eq. 7, for keys or for values: a perceptron on the tokens of a window, to each of which
/// the encoding of its place in the window is added; the same for all KV heads.
///   φ(x) = down · act(up · vec(x + position) + up_bias) + down_bias
struct WindowPerceptron {
  kernels::Array<float> position;               // [length, head_dim]
  std::unique_ptr<kernels::PackedMatrix> up;    // [hidden size, length · head_dim]
  kernels::Array<float> up_bias;                // [hidden size], or empty
  std::unique_ptr<kernels::PackedMatrix> down;  // [head_dim, hidden size]
  kernels::Array<float> down_bias;              // [head_dim], or empty
  kernels::GateActivation activation = kernels::GateActivation::kSilu;
};

/// Which windows close, where they stand, and how their rows are turned.
struct ClosingWindows {
  const kernels::AttentionSegment* segments = nullptr;  // [num_segments]
  int num_segments = 0;
  kernels::PagedKv kv;     // K, not rotated, and V of the compressed branch, and its rows
  kernels::RopeView rope;  // of the rows; none where the branch is not rotated
  int length = 32;
  int stride = 16;
};

/// Makes compressed rows with perceptrons, some at a time in memory of its own. One thread.
class WindowCompressor {
 public:
  /// Writes K̂ and V̂ of all windows that close.
  void Run(kernels::Backend& backend, const ClosingWindows& windows, const WindowPerceptron& keys,
           const WindowPerceptron& values);

  /// Bytes that a run takes for windows of `window_floats` numbers, at most.
  static int64_t NumBytes(int64_t window_floats, int64_t hidden_size);

 private:
  void Apply(kernels::Backend& backend, const WindowPerceptron& phi, int64_t num_rows);

  kernels::Array<float> windows_;  // [rows at a time, length · head_dim]
  kernels::Array<float> hidden_;   // [rows at a time, hidden size]
  kernels::Array<float> rows_;     // [rows at a time, head_dim]
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_ATTENTION_WINDOW_PERCEPTRON_H_
