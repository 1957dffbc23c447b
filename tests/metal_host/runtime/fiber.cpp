#include "fiber.h"

#include <sys/mman.h>

namespace host {

bool allocate_stack(Fiber& fiber) {
  constexpr size_t guard = 4096;  // overflow crashes instead of corrupting a neighbour
  void* area = mmap(nullptr, kStackBytes + guard, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return false;
  mprotect(area, guard, PROT_NONE);
  fiber.stack = static_cast<char*>(area) + guard;
  return true;
}

#if defined(__x86_64__)

// Saves the callee-saved registers of the System V ABI, stores the stack pointer
// through `save` and continues on the stack `to`.
extern "C" void host_switch_stack(void** save, void* to);
asm(R"(
.text
.globl host_switch_stack
.hidden host_switch_stack
host_switch_stack:
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
)");

static void* executor_stack_pointer;

void prepare(Fiber& fiber, void (*body)()) {
  auto** top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
  *--top = nullptr;  // keeps the stack 16-byte aligned at the entry of body
  *--top = reinterpret_cast<void*>(body);
  for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
  fiber.stack_pointer = top;
}

void enter(Fiber& fiber) {
  host_switch_stack(&executor_stack_pointer, fiber.stack_pointer);
}

void leave(Fiber& fiber) {
  host_switch_stack(&fiber.stack_pointer, executor_stack_pointer);
}

#else

static ucontext_t executor_context;

void prepare(Fiber& fiber, void (*body)()) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, body, 0);
}

void enter(Fiber& fiber) { swapcontext(&executor_context, &fiber.context); }

void leave(Fiber& fiber) { swapcontext(&fiber.context, &executor_context); }

#endif

}  // namespace host
