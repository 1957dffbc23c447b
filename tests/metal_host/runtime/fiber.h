// Cooperative threads: one stack each, switched by hand. A thousand of them cost
// microseconds, and every interleaving is the executor's own choice.
#pragma once
#include <cstddef>
#include <cstdint>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace host {

constexpr size_t kStackBytes = 128 << 10;

struct Fiber {
  char* stack = nullptr;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

bool allocate_stack(Fiber& fiber);
void prepare(Fiber& fiber, void (*body)());  // body must never return
void enter(Fiber& fiber);                    // executor -> fiber
void leave(Fiber& fiber);                    // fiber -> executor

}  // namespace host
