#include <cstdint>

#include "kernels/cuda/elements.h"
#include "kernels/cuda/grad_attention.h"
#include "kernels/cuda/launch.h"

namespace nsa::kernels::cuda {
namespace {

constexpr int kThreads = 256;

/// A window's first token, of all.
NSA_DEVICE int64_t FirstToken(const GradShape& s, int64_t window) {
  const GradPlace& place = s.places[FindSequence(s, &GradPlace::key, window)];
  return place.token + (window - place.key) * s.stride;
}

/// CTA (w): window w, a thread an element.
template <typename T>
NSA_KERNEL(kThreads)
GatherKernel(NSA_ARGS GradWindows call) {
  const GradShape& s = call.shape;
  const int64_t token = FirstToken(s, CtaX());
  const int of_head = s.length * s.dim_k;
  const auto* x = static_cast<const T*>(call.x);
  const auto* position = static_cast<const T*>(call.position);
  T* to = static_cast<T*>(call.windows) + CtaX() * s.num_kv_heads * of_head;
  for (int head = 0; head < s.num_kv_heads; ++head) {
    for (int i = ThreadIndex(); i < of_head; i += NumThreads()) {
      const Split place = SplitIndex(i, s.dim_k);
      const int64_t row = KeyRow(s, token + place.quotient, head);
      to[int64_t{head} * of_head + i] =
          FromFloat<T>(ToFloat(x[row * s.dim_k + place.remainder]) + ToFloat(position[i]));
    }
  }
}

/// CTA (w): the mean of window w, tokens in order.
template <typename T>
NSA_KERNEL(kThreads)
MeanKernel(NSA_ARGS GradWindows call) {
  const GradShape& s = call.shape;
  const int width = s.num_kv_heads * s.dim_k;
  const T* x = static_cast<const T*>(call.x) + FirstToken(s, CtaX()) * width;
  T* to = static_cast<T*>(call.windows) + CtaX() * width;
  for (int i = ThreadIndex(); i < width; i += NumThreads()) {
    float sum = 0;
    for (int place = 0; place < s.length; ++place) sum += ToFloat(x[int64_t{place} * width + i]);
    to[i] = FromFloat<T>(sum / static_cast<float>(s.length));
  }
}

/// CTA (t): token t gathers from the windows that hold it, rising. Of a mean, a window's gradient
/// is that of each place, divided by their number.
template <typename T, bool kIsMean>
NSA_KERNEL(kThreads)
TokenKernel(NSA_ARGS GradWindows call) {
  const GradShape& s = call.shape;
  const int sequence = FindSequence(s, &GradPlace::token, CtaX());
  const GradPlace& place = s.places[sequence];
  const auto position = static_cast<int>(CtaX() - place.token);
  const int num_windows = SizesOf(s, sequence).num_keys;
  const int before = position - s.length + 1;
  const int begin =
      before > 0 ? static_cast<int>(SplitIndex(before + s.stride - 1, s.stride).quotient) : 0;
  const int last = static_cast<int>(SplitIndex(position, s.stride).quotient);
  const int end = last + 1 < num_windows ? last + 1 : num_windows;
  const int width = s.num_kv_heads * s.dim_k;
  const auto* grad = static_cast<const T*>(call.grad_windows);
  T* to = static_cast<T*>(call.grad_x) + CtaX() * width;
  for (int i = ThreadIndex(); i < width; i += NumThreads()) {
    const Split by_head = SplitIndex(i, s.dim_k);
    float sum = 0;
    for (int w = begin; w < end; ++w) {
      const int64_t row = KeyRow(s, place.key + w, static_cast<int>(by_head.quotient));
      if constexpr (kIsMean) {
        sum += ToFloat(grad[row * s.dim_k + by_head.remainder]) / static_cast<float>(s.length);
      } else {
        const int64_t at = row * s.length + position - int64_t{w} * s.stride;
        sum += ToFloat(grad[at * s.dim_k + by_head.remainder]);
      }
    }
    to[i] = FromFloat<T>(sum);
  }
}

/// CTA (p · length + place): Σ over windows [p · kWindowsOfPart, …) and heads, in order, of one
/// place.
template <typename T>
NSA_KERNEL(kThreads)
PositionPartKernel(NSA_ARGS GradWindows call) {
  const GradShape& s = call.shape;
  const Split of_part = SplitIndex(CtaX(), s.length);
  const int64_t begin = of_part.quotient * kWindowsOfPart;
  const int64_t end = begin + kWindowsOfPart < s.totals.key ? begin + kWindowsOfPart : s.totals.key;
  const auto* grad = static_cast<const T*>(call.grad_windows);
  float* part = call.parts + CtaX() * s.dim_k;
  for (int i = ThreadIndex(); i < s.dim_k; i += NumThreads()) {
    float sum = 0;
    for (int64_t row = begin * s.num_kv_heads; row < end * s.num_kv_heads; ++row) {
      sum += ToFloat(grad[(row * s.length + of_part.remainder) * s.dim_k + i]);
    }
    part[i] = sum;
  }
}

/// CTA (place): the parts of a place, in order.
template <typename T>
NSA_KERNEL(kThreads)
PositionKernel(NSA_ARGS GradWindows call) {
  const GradShape& s = call.shape;
  const int64_t num_parts = SplitIndex(s.totals.key + kWindowsOfPart - 1, kWindowsOfPart).quotient;
  for (int i = ThreadIndex(); i < s.dim_k; i += NumThreads()) {
    float sum = 0;
    for (int64_t part = 0; part < num_parts; ++part) {
      sum += call.parts[(part * s.length + CtaX()) * s.dim_k + i];
    }
    static_cast<T*>(call.grad_position)[CtaX() * s.dim_k + i] = FromFloat<T>(sum);
  }
}

LaunchShape ShapeOf(const char* name, int64_t num_ctas) {
  return {.name = name, .grid_x = num_ctas, .num_threads = kThreads};
}

}  // namespace

void GradGatherWindows(Stream& stream, DType dtype, const GradWindows& call) {
  WithGradType(dtype, [&](auto element) {
    Launch(stream, ShapeOf("grad_gather_windows", call.shape.totals.key),
           GatherKernel<decltype(element)>, call);
  });
}

void GradGatherWindowsBackward(Stream& stream, DType dtype, const GradWindows& call) {
  const GradShape& s = call.shape;
  const char* name = "grad_gather_windows";
  WithGradType(dtype, [&](auto element) {
    using T = decltype(element);
    Launch(stream, ShapeOf(name, s.totals.token), TokenKernel<T, false>, call);
    Launch(stream, ShapeOf(name, CeilDiv(s.totals.key, kWindowsOfPart) * s.length),
           PositionPartKernel<T>, call);
    Launch(stream, ShapeOf(name, s.length), PositionKernel<T>, call);
  });
}

void GradMeanWindows(Stream& stream, DType dtype, const GradWindows& call) {
  WithGradType(dtype, [&](auto element) {
    Launch(stream, ShapeOf("grad_mean_windows", call.shape.totals.key),
           MeanKernel<decltype(element)>, call);
  });
}

void GradMeanWindowsBackward(Stream& stream, DType dtype, const GradWindows& call) {
  WithGradType(dtype, [&](auto element) {
    Launch(stream, ShapeOf("grad_mean_windows", call.shape.totals.token),
           TokenKernel<decltype(element), true>, call);
  });
}

}  // namespace nsa::kernels::cuda
