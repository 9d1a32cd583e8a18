#ifndef NSA_TESTS_CUDA_HOST_FIBER_H_
#define NSA_TESTS_CUDA_HOST_FIBER_H_

#include <setjmp.h>  // NOLINT: _setjmp is no part of <csetjmp>
#include <ucontext.h>

#include <cstddef>
#include <memory>

namespace nsa::cuda_host {

/// A stack of its own to run a function on, or (made by the default constructor) the place of who
/// switches to the first fiber. The address sanitizer hears of every switch.
class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The next switch to this fiber begins body(argument), which never returns.
  void Start(void (*body)(void*), void* argument);

  /// Leaves off here and goes on at `target`; returns when something switches back.
  void SwitchTo(Fiber& target);

 private:
  static void Enter();
  void GoTo(Fiber& target);
  void Arrive();

  ucontext_t context_ = {};
  jmp_buf left_off_ = {};  // where it goes on, once it has begun
  bool has_begun_ = true;
  std::unique_ptr<std::byte[]> stack_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  // The stack's bounds, and its fake stack while it is left, for the address sanitizer.
  const void* bottom_ = nullptr;
  size_t size_ = 0;
  void* fake_stack_ = nullptr;
};

}  // namespace nsa::cuda_host

#endif  // NSA_TESTS_CUDA_HOST_FIBER_H_
