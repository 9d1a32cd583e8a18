#include "kernels/grad/grad_windows.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/grad/cpu/grad_windows.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace nsa::kernels::grad::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, 16>;

/// to = x + y; the rows are `count` floats.
void AddRows(const float* HWY_RESTRICT x, const float* HWY_RESTRICT y, int64_t count,
             float* HWY_RESTRICT to) {
  const Tag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, to + i);
  }
  for (; i < count; ++i) to[i] = x[i] + y[i];
}

/// to += factor·x, rounded twice in the vectors and behind them.
void AddScaled(float factor, const float* HWY_RESTRICT x, int64_t count, float* HWY_RESTRICT to) {
  const Tag d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto product = hn::Mul(hn::Set(d, factor), hn::LoadU(d, x + i));
    hn::StoreU(hn::Add(hn::LoadU(d, to + i), product), d, to + i);
  }
  for (; i < count; ++i) to[i] += factor * x[i];
}

}  // namespace HWY_NAMESPACE
}  // namespace nsa::kernels::grad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nsa::kernels::grad::cpu {

HWY_EXPORT(AddRows);
HWY_EXPORT(AddScaled);

namespace {

using kernels::cpu::Context;

/// A window or a token of a sequence.
struct Place {
  int64_t sequence;
  int64_t index;         // in its sequence
  int64_t first_token;   // of the sequence, of all
  int64_t first_window;  // of the sequence, of all
  int64_t num_windows;   // of the sequence
};

/// Calls body(place) for all windows of a batch, or for all its tokens, split over the threads.
template <typename Body>
void ForEachPlace(Context& context, const WindowsShape& shape, bool windows, Body&& body) {
  std::vector<Place> sequences;
  std::vector<int64_t> begins = {0};
  int64_t first_window = 0;
  for (int64_t s = 0; s < shape.sequences.num_sequences; ++s) {
    const int64_t length = shape.sequences.Length(s);
    const int64_t count = NumWindows(length, shape.length, shape.stride);
    sequences.push_back({s, 0, shape.sequences.Begin(s), first_window, count});
    begins.push_back(begins.back() + (windows ? count : length));
    first_window += count;
  }
  context.pool.ParallelFor(begins.back(), [&](int64_t task, int) {
    const int64_t s = std::upper_bound(begins.begin(), begins.end(), task) - begins.begin() - 1;
    Place place = sequences[s];
    place.index = task - begins[s];
    body(place);
  });
}

/// Calls body(window of its sequence, place in it) for the windows that cover a token, rising.
template <typename Body>
void ForEachWindowOf(const WindowsShape& shape, const Place& token, Body&& body) {
  const int64_t past = token.index - shape.length;
  const int64_t begin = past < 0 ? 0 : past / shape.stride + 1;
  const int64_t end = std::min(token.index / shape.stride + 1, token.num_windows);
  for (int64_t window = begin; window < end; ++window) {
    body(window, token.index - window * shape.stride);
  }
}

}  // namespace

void GatherWindows(Context& context, const GatherWindowsInput<float>& input, float* gathered) {
  const WindowsShape& shape = input.shape;
  const int64_t heads = shape.num_heads, dims = shape.head_dim;
  ForEachPlace(context, shape, true, [&](const Place& window) {
    const int64_t token = window.first_token + window.index * shape.stride;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t row = ((window.first_window + window.index) * heads + h) * shape.length;
      for (int64_t place = 0; place < shape.length; ++place) {
        HWY_DYNAMIC_DISPATCH(AddRows)(input.x + ((token + place) * heads + h) * dims,
                                      input.position + place * dims, dims,
                                      gathered + (row + place) * dims);
      }
    }
  });
}

void GatherWindowsBackward(Context& context, const GatherWindowsGradients<float>& gradients) {
  const WindowsShape& shape = gradients.shape;
  const int64_t heads = shape.num_heads, dims = shape.head_dim;
  const auto gathered = [&](int64_t window, int64_t head, int64_t place) {
    return gradients.grad_gathered + ((window * heads + head) * shape.length + place) * dims;
  };
  // A token's gradient is gathered by itself, so that no two threads add to one.
  ForEachPlace(context, shape, false, [&](const Place& token) {
    float* grad_x = gradients.grad_x + (token.first_token + token.index) * heads * dims;
    std::fill_n(grad_x, heads * dims, 0.0f);
    ForEachWindowOf(shape, token, [&](int64_t window, int64_t place) {
      for (int64_t h = 0; h < heads; ++h) {
        HWY_DYNAMIC_DISPATCH(AddScaled)(1.0f, gathered(token.first_window + window, h, place), dims,
                                        grad_x + h * dims);
      }
    });
  });
  int64_t num_windows = 0;
  for (int64_t s = 0; s < shape.sequences.num_sequences; ++s) {
    num_windows += NumWindows(shape.sequences.Length(s), shape.length, shape.stride);
  }
  context.pool.ParallelFor(shape.length, [&](int64_t place, int) {
    float* grad_position = gradients.grad_position + place * dims;
    std::fill_n(grad_position, dims, 0.0f);
    for (int64_t row = 0; row < num_windows * heads; ++row) {
      HWY_DYNAMIC_DISPATCH(AddScaled)(1.0f, gathered(row / heads, row % heads, place), dims,
                                      grad_position);
    }
  });
}

void MeanWindows(Context& context, const WindowsShape& shape, const float* x, float* mean) {
  const int64_t row = int64_t{shape.num_heads} * shape.head_dim;
  const float factor = 1.0f / static_cast<float>(shape.length);
  ForEachPlace(context, shape, true, [&](const Place& window) {
    const int64_t token = window.first_token + window.index * shape.stride;
    float* to = mean + (window.first_window + window.index) * row;
    std::fill_n(to, row, 0.0f);
    for (int64_t place = 0; place < shape.length; ++place) {
      HWY_DYNAMIC_DISPATCH(AddScaled)(factor, x + (token + place) * row, row, to);
    }
  });
}

void MeanWindowsBackward(Context& context, const WindowsShape& shape, const float* grad_mean,
                         float* grad_x) {
  const int64_t row = int64_t{shape.num_heads} * shape.head_dim;
  const float factor = 1.0f / static_cast<float>(shape.length);
  ForEachPlace(context, shape, false, [&](const Place& token) {
    float* to = grad_x + (token.first_token + token.index) * row;
    std::fill_n(to, row, 0.0f);
    ForEachWindowOf(shape, token, [&](int64_t window, int64_t) {
      HWY_DYNAMIC_DISPATCH(AddScaled)(factor, grad_mean + (token.first_window + window) * row, row,
                                      to);
    });
  });
}

}  // namespace nsa::kernels::grad::cpu
#endif  // HWY_ONCE
