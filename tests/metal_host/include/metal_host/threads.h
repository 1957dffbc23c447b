// Group variables, barriers and atomics.
#pragma once
#include "metal_host/site.h"
#include "metal_host/types.h"

namespace host {

// `threadgroup float a[4];` becomes `auto& a = group_variable<float[4]>(0, "a");`
template <typename T>
inline T& group_variable(uint32_t number, const char* name) {
  using Element = std::remove_all_extents_t<T>;
  constexpr uint32_t tracked = sizeof(Element) >= 4 ? 4 : sizeof(Element);
  return *(T*)host_group_variable(number, sizeof(T), tracked, name);
}

}  // namespace host

namespace metal {

enum class mem_flags : uint32_t {
  mem_none = kNoMemory,
  mem_device = kDeviceMemory,
  mem_threadgroup = kGroupMemory,
  mem_texture = 4,
};
constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return mem_flags((uint32_t)a | (uint32_t)b);
}
inline void threadgroup_barrier(mem_flags memory, HOST_SITE) {
  host_group_barrier((uint32_t)memory, HOST_AT);
}
inline void simdgroup_barrier(mem_flags memory, HOST_SITE) {
  host_simd_barrier((uint32_t)memory, HOST_AT);
}

enum memory_order { memory_order_relaxed };

// No plain = or +=, as in Metal.
template <typename T>
struct atomic {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, uint> ||
                    std::is_same_v<T, float> || std::is_same_v<T, bool> ||
                    std::is_same_v<T, ulong>,
                "Metal has no atomic of this type");
  T value;
  atomic() = default;
  atomic(const atomic&) = delete;
  void operator=(T) = delete;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;

template <typename T>
HOST_UNCHECKED inline void atomic_access(const volatile atomic<T>* p, HostAtomic operation,
                                         HOST_SITE) {
  constexpr bool is_float = std::is_same_v<T, float>;
  if (is_float && host_in_group_memory((const void*)p))
    host_fail("type", "float atomics exist in device memory only", HOST_AT);
  host_atomic((const void*)p, sizeof(T), operation, is_float, HOST_AT);
}

#define ATOMIC_UPDATE(name, expression)                                               \
  template <typename T>                                                               \
  HOST_UNCHECKED inline T atomic_##name##_explicit(                                   \
      volatile atomic<T>* p, std::common_type_t<T> operand, memory_order, HOST_SITE) { \
    atomic_access(p, kAtomicUpdate, HOST_AT);                                         \
    T old = p->value;                                                                 \
    p->value = (T)(expression);                                                       \
    return old;                                                                       \
  }
ATOMIC_UPDATE(fetch_add, old + operand)
ATOMIC_UPDATE(fetch_sub, old - operand)
ATOMIC_UPDATE(fetch_min, operand < old ? operand : old)
ATOMIC_UPDATE(fetch_max, old < operand ? operand : old)
ATOMIC_UPDATE(fetch_or, (uint)old | (uint)operand)
ATOMIC_UPDATE(fetch_and, (uint)old & (uint)operand)
ATOMIC_UPDATE(fetch_xor, (uint)old ^ (uint)operand)
ATOMIC_UPDATE(exchange, operand)
#undef ATOMIC_UPDATE

template <typename T>
HOST_UNCHECKED inline T atomic_load_explicit(const volatile atomic<T>* p, memory_order,
                                             HOST_SITE) {
  atomic_access(p, kAtomicLoad, HOST_AT);
  return p->value;
}
template <typename T>
HOST_UNCHECKED inline void atomic_store_explicit(volatile atomic<T>* p,
                                                 std::common_type_t<T> desired,
                                                 memory_order, HOST_SITE) {
  atomic_access(p, kAtomicStore, HOST_AT);
  p->value = desired;
}
template <typename T>
HOST_UNCHECKED inline bool atomic_compare_exchange_weak_explicit(
    volatile atomic<T>* p, T* expected, std::common_type_t<T> desired, memory_order,
    memory_order, HOST_SITE) {
  atomic_access(p, kAtomicUpdate, HOST_AT);
  bool equal = memcmp((const void*)&p->value, expected, sizeof(T)) == 0;
  if (equal)
    p->value = desired;
  else
    *expected = p->value;
  return equal;
}

}  // namespace metal
