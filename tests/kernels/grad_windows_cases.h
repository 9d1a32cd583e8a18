#ifndef NSA_TESTS_KERNELS_GRAD_WINDOWS_CASES_H_
#define NSA_TESTS_KERNELS_GRAD_WINDOWS_CASES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/grad/grad_windows.h"

/// Batches of windows that tests of every device share.
namespace nsa::kernels::grad {

struct WindowsCase {
  std::vector<int64_t> cu_seqlens;
  int num_heads;
  int head_dim;
  int length;
  int stride;

  WindowsShape shape() const {
    const auto num_sequences = static_cast<int64_t>(cu_seqlens.size()) - 1;
    return {{cu_seqlens.data(), num_sequences}, num_heads, head_dim, length, stride};
  }
  int64_t num_windows() const {
    int64_t count = 0;
    for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
      count += NumWindows(cu_seqlens[s + 1] - cu_seqlens[s], length, stride);
    }
    return count;
  }
};

/// The last has more windows than a GPU's part of grad_position takes.
inline std::vector<WindowsCase> WindowsCases() {
  return {
      {{0, 100, 131, 163, 163, 400}, 2, 64, 32, 16},
      {{0, 200}, 1, 19, 8, 4},
      {{0, 5, 133}, 3, 33, 64, 64},
      {{0, 7}, 1, 16, 32, 16},
      {{0}, 1, 16, 32, 16},
      {{0, 130}, 2, 1, 12, 3},
      {{0, 290}, 1, 3, 4, 1},
  };
}

}  // namespace nsa::kernels::grad

#endif  // NSA_TESTS_KERNELS_GRAD_WINDOWS_CASES_H_
