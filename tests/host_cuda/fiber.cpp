#include "fiber.h"

#include <cstdlib>

#include "sanitizers.h"

#if !defined(CUDA_ON_HOST_UCONTEXT)

// void switch_stack(void** saved, void* loaded): leaves the stack with the registers that a call keeps, and
// goes on where another one was left.
extern "C" void cuda_on_host_switch_stack(void** saved, void* loaded);
asm(R"(
  .text
  .type cuda_on_host_switch_stack, @function
cuda_on_host_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cuda_on_host_switch_stack, . - cuda_on_host_switch_stack
)");

#endif

namespace cuda_on_host {
namespace {

Fiber* current;
#if !defined(CUDA_ON_HOST_UCONTEXT)
void* host_stack_pointer;
#else
ucontext_t host_context;
#endif

}  // namespace

void Fiber::set_stack(unsigned char* bottom, size_t size) {
  stack_ = bottom;
  stack_size_ = size;
}

void Fiber::restart(void (*entry)()) {
  entry_ = entry;
  sanitizers::forget_stack(stack_, stack_size_);
  if (!tsan_fiber_) tsan_fiber_ = sanitizers::new_fiber();
#if !defined(CUDA_ON_HOST_UCONTEXT)
  constexpr int kSavedRegisters = 6;
  void** const end = reinterpret_cast<void**>(stack_ + stack_size_);
  end[-1] = nullptr;  // begin() returns to nowhere
  end[-2] = reinterpret_cast<void*>(&Fiber::begin);
  for (int i = 0; i < kSavedRegisters; ++i) end[-3 - i] = nullptr;
  stack_pointer_ = end - 2 - kSavedRegisters;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = stack_size_;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::begin, 0);
#endif
}

void Fiber::begin() {
  sanitizers::arrived_in_fiber(nullptr);
  current->entry_();
  std::abort();
}

void Fiber::resume() {
  current = this;
  sanitizers::leave_host(tsan_fiber_, stack_, stack_size_);
#if !defined(CUDA_ON_HOST_UCONTEXT)
  cuda_on_host_switch_stack(&host_stack_pointer, stack_pointer_);
#else
  swapcontext(&host_context, &context_);
#endif
  sanitizers::arrived_in_host();
}

void Fiber::yield() {
  sanitizers::leave_fiber(&asan_stack_);
#if !defined(CUDA_ON_HOST_UCONTEXT)
  cuda_on_host_switch_stack(&stack_pointer_, host_stack_pointer);
#else
  swapcontext(&context_, &host_context);
#endif
  sanitizers::arrived_in_fiber(asan_stack_);
}

void Fiber::finish() {
  sanitizers::leave_fiber(nullptr);
#if !defined(CUDA_ON_HOST_UCONTEXT)
  cuda_on_host_switch_stack(&stack_pointer_, host_stack_pointer);
#else
  setcontext(&host_context);
#endif
  std::abort();
}

}  // namespace cuda_on_host
