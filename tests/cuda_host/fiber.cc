#include "tests/cuda_host/fiber.h"

#include <utility>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace nsa::cuda_host {
namespace {

// Room for a kernel's frames with the sanitizer's redzones; pages are taken when they are touched.
constexpr size_t kStackBytes = size_t{256} * 1024;

// Of the switch that is under way.
Fiber* left = nullptr;
Fiber* reached = nullptr;

}  // namespace

void Fiber::Start(void (*body)(void*), void* argument) {
  if (stack_ == nullptr) stack_.reset(new std::byte[kStackBytes]);
  body_ = body;
  argument_ = argument;
  bottom_ = stack_.get();
  size_ = kStackBytes;
  fake_stack_ = nullptr;
  has_begun_ = false;
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_.get();
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::Enter, 0);
#ifdef __SANITIZE_ADDRESS__
  // A body that was given up left its frames' redzones. From here on they are kept up to date by
  // the code itself; without bounds in the context, swapcontext does not wipe them at every switch.
  __asan_unpoison_memory_region(stack_.get(), kStackBytes);
  context_.uc_stack = {};
#endif
}

void Fiber::Enter() {
  Fiber& self = *reached;
  self.Arrive();
  self.body_(self.argument_);
}

void Fiber::SwitchTo(Fiber& target) {
  left = this;
  reached = &target;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fake_stack_, target.bottom_, target.size_);
#endif
  GoTo(target);
  Arrive();
}

/// swapcontext asks the kernel for the signal mask each time, which takes longer than all that a
/// fiber does between two switches; _longjmp does not.
void Fiber::GoTo(Fiber& target) {
#ifdef __SANITIZE_ADDRESS__
  swapcontext(&context_, &target.context_);
#else
  if (_setjmp(left_off_) != 0) return;
  if (std::exchange(target.has_begun_, true)) _longjmp(target.left_off_, 1);
  setcontext(&target.context_);
#endif
}

void Fiber::Arrive() {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fake_stack_, &bottom, &size);
  // The first fiber is told so of the stack that it was switched to from.
  left->bottom_ = bottom;
  left->size_ = size;
#endif
}

}  // namespace nsa::cuda_host
