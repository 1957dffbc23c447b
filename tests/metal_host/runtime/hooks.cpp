// The kernel is compiled with -fsanitize=thread,undefined and coverage, but linked
// with these hooks instead of the vendor's run-times: every load, store, basic block
// and undefined operation of the kernel ends up here.
#include <cstring>

#include "machine.h"

using namespace host;

#define CALLER Place{__builtin_return_address(0)}

namespace {

void touch(const void* address, size_t bytes, AccessKind kind, Place at) {
  check_access(reinterpret_cast<uintptr_t>(address), bytes, kind, false, at);
}

struct SourceLocation {  // as laid out by -fsanitize=undefined
  const char* file;
  uint32_t line, column;
};

void undefined(const SourceLocation* where, const char* what) {
  report("undefined-behaviour", {nullptr, where->file, where->line}, "%s", what);
  abandon_thread();
}

}  // namespace

extern "C" {

#define ACCESS_HOOKS(bytes)                                                        \
  void __tsan_read##bytes(void* p) { touch(p, bytes, AccessKind::kRead, CALLER); } \
  void __tsan_write##bytes(void* p) {                                              \
    touch(p, bytes, AccessKind::kWrite, CALLER);                                   \
  }                                                                                \
  void __tsan_unaligned_read##bytes(void* p) {                                     \
    touch(p, bytes, AccessKind::kRead, CALLER);                                    \
  }                                                                                \
  void __tsan_unaligned_write##bytes(void* p) {                                    \
    touch(p, bytes, AccessKind::kWrite, CALLER);                                   \
  }
ACCESS_HOOKS(1)
ACCESS_HOOKS(2)
ACCESS_HOOKS(4)
ACCESS_HOOKS(8)
ACCESS_HOOKS(16)

void __tsan_read_range(void* p, size_t n) { touch(p, n, AccessKind::kRead, CALLER); }
void __tsan_write_range(void* p, size_t n) { touch(p, n, AccessKind::kWrite, CALLER); }

void* __tsan_memcpy(void* to, const void* from, size_t n) {
  touch(from, n, AccessKind::kRead, CALLER);
  touch(to, n, AccessKind::kWrite, CALLER);
  return memcpy(to, from, n);
}

void* __tsan_memset(void* to, int value, size_t n) {
  touch(to, n, AccessKind::kWrite, CALLER);
  return memset(to, value, n);
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

void __sanitizer_cov_trace_pc() {
  if (machine.current) count_step(CALLER);
}

#define UNDEFINED_HOOK(name, what)                                           \
  void __ubsan_handle_##name(SourceLocation* where, uintptr_t, uintptr_t) { \
    undefined(where, what);                                                 \
  }
UNDEFINED_HOOK(add_overflow, "signed addition overflows")
UNDEFINED_HOOK(sub_overflow, "signed subtraction overflows")
UNDEFINED_HOOK(mul_overflow, "signed multiplication overflows")
UNDEFINED_HOOK(negate_overflow, "negation overflows")
UNDEFINED_HOOK(divrem_overflow, "division by zero, or its result overflows")
UNDEFINED_HOOK(shift_out_of_bounds, "shift by more than the width, or of a negative")
UNDEFINED_HOOK(load_invalid_value, "bool or enum holds no valid value")
UNDEFINED_HOOK(builtin_unreachable, "unreachable code is reached")
UNDEFINED_HOOK(missing_return, "function ends without a value")
UNDEFINED_HOOK(pointer_overflow, "pointer arithmetic overflows")
UNDEFINED_HOOK(vla_bound_not_positive, "array of variable length")
UNDEFINED_HOOK(nonnull_arg, "null argument")
UNDEFINED_HOOK(float_cast_overflow, "float is out of range of the integer type")
UNDEFINED_HOOK(invalid_builtin, "invalid argument of a bit function")
UNDEFINED_HOOK(type_mismatch_v1, "pointer is misaligned for its type, or null")

struct IndexCheck {
  SourceLocation where;
  const char* array_type;  // 4 bytes of kind, then the name in quotes
};
void __ubsan_handle_out_of_bounds(IndexCheck* check, uintptr_t index) {
  report("out-of-bounds", {nullptr, check->where.file, check->where.line},
         "index %lld is outside %s", (long long)index, check->array_type + 4);
  abandon_thread();
}
}
