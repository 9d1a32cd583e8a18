#include "tests/cuda_host/fiber.h"

#include <cstdint>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace nsa::cuda_host {
namespace {

// Room for a kernel's frames with the sanitizer's redzones; pages are taken when they are touched.
constexpr size_t kStackBytes = size_t{256} * 1024;

Fiber* left = nullptr;  // by the switch that is under way

}  // namespace

void Fiber::Start(void (*body)(void*), void* argument) {
  if (stack_ == nullptr) stack_.reset(new std::byte[kStackBytes]);
  body_ = body;
  argument_ = argument;
  bottom_ = stack_.get();
  size_ = kStackBytes;
  fake_stack_ = nullptr;
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_.get();
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  // makecontext passes ints only.
  const auto self = reinterpret_cast<uintptr_t>(this);
  makecontext(&context_, reinterpret_cast<void (*)()>(&Fiber::Enter), 2,
              static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
#ifdef __SANITIZE_ADDRESS__
  // A body that was given up left its frames' redzones. From here on they are kept up to date by
  // the code itself; without bounds in the context, swapcontext does not wipe them at every switch.
  __asan_unpoison_memory_region(stack_.get(), kStackBytes);
  context_.uc_stack = {};
#endif
}

void Fiber::Enter(unsigned high, unsigned low) {
  auto* self = reinterpret_cast<Fiber*>((static_cast<uintptr_t>(high) << 32) | low);
  self->Arrive();
  self->body_(self->argument_);
}

void Fiber::SwitchTo(Fiber& target) {
  left = this;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fake_stack_, target.bottom_, target.size_);
#endif
  swapcontext(&context_, &target.context_);
  Arrive();
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
