#ifndef NSA_KERNELS_CHECK_H_
#define NSA_KERNELS_CHECK_H_

#include <cstdio>
#include <cstdlib>

/// Ends the process when an invariant of ours is broken; the world's errors are never checked so.
/// `kernels/` knows no Abseil, so it has its own.
#define NSA_CHECK(condition)                                                             \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

#endif  // NSA_KERNELS_CHECK_H_
