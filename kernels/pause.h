#ifndef NSA_KERNELS_PAUSE_H_
#define NSA_KERNELS_PAUSE_H_

namespace nsa::kernels {

/// Tells the processor that this thread only looks again and again whether something has changed.
inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace nsa::kernels

#endif  // NSA_KERNELS_PAUSE_H_
