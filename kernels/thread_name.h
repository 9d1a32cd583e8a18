#ifndef NSA_KERNELS_THREAD_NAME_H_
#define NSA_KERNELS_THREAD_NAME_H_

#include <pthread.h>

namespace nsa::kernels {

/// Names the calling thread for `top -H`, `perf` and debuggers; at most 15 characters, which is all
/// that the kernel keeps.
inline void NameThread(const char* name) { pthread_setname_np(pthread_self(), name); }

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_THREAD_NAME_H_
