// Simdgroup functions: every lane hands in a value, waits for the others, and reads
// what it needs from the record. None of them orders memory.
#pragma once
#include "metal_host/site.h"
#include "metal_host/vectors.h"

namespace host {

template <typename T>
HOST_UNCHECKED inline const HostLanes& exchange(T value, const char* operation,
                                                HOST_SITE) {
  static_assert(sizeof(T) <= 16, "simdgroup values have at most 16 bytes");
  return *host_exchange(&value, sizeof value, operation, HOST_AT);
}

HOST_UNCHECKED inline bool is_active(const HostLanes& lanes, uint32_t lane) {
  return lane < kSimdWidth && (lanes.active >> lane & 1);
}

template <typename T>
HOST_UNCHECKED inline T lane_value(const HostLanes& lanes, uint32_t lane, HOST_SITE) {
  if (!is_active(lanes, lane))
    host_fail("inactive-lane", "a shuffle reads a lane that is not active", HOST_AT);
  T value;
  __builtin_memcpy((void*)&value, lanes.value[lane], sizeof value);
  return value;
}

HOST_UNCHECKED inline uint32_t my_lane() { return host_thread()->lane; }

// A shuffle from beyond the simdgroup is undefined: give something that shows.
template <typename T>
HOST_UNCHECKED inline T undefined_value(T own) {
  unsigned char bytes[sizeof(T)];
  __builtin_memcpy(bytes, (const void*)&own, sizeof own);
  for (unsigned i = 0; i < sizeof(T); ++i) bytes[i] = ~bytes[i];
  __builtin_memcpy((void*)&own, bytes, sizeof own);
  return own;
}
HOST_UNCHECKED inline float undefined_value(float) { return __builtin_nanf(""); }
HOST_UNCHECKED inline half undefined_value(half) { return (half)__builtin_nanf(""); }
HOST_UNCHECKED inline bfloat undefined_value(bfloat) {
  return bfloat(__builtin_nanf(""));
}

}  // namespace host

namespace metal {

// Reductions combine neighbours first, as a tree: close to what hardware does, and
// for floats different from a left-to-right sum.
#define REDUCTION(name, expression)                                                  \
  template <typename T>                                                              \
  HOST_UNCHECKED inline T name(T value, HOST_SITE) {                                 \
    const HostLanes& lanes = host::exchange(value, #name, HOST_AT);                  \
    T part[kSimdWidth];                                                              \
    uint32_t count = 0;                                                              \
    for (uint32_t i = 0; i < kSimdWidth; ++i)                                        \
      if (host::is_active(lanes, i)) part[count++] = host::lane_value<T>(lanes, i);  \
    for (uint32_t step = 1; step < count; step *= 2)                                 \
      for (uint32_t i = 0; i + step < count; i += 2 * step) {                        \
        T a = part[i], b = part[i + step];                                           \
        part[i] = (T)(expression);                                                   \
      }                                                                              \
    return part[0];                                                                  \
  }
REDUCTION(simd_sum, a + b)
REDUCTION(simd_product, a * b)
REDUCTION(simd_max, a < b ? b : a)
REDUCTION(simd_min, b < a ? b : a)
REDUCTION(simd_or, a | b)
REDUCTION(simd_and, a & b)
REDUCTION(simd_xor, a ^ b)
#undef REDUCTION

#define PREFIX_SUM(name, end)                                               \
  template <typename T>                                                     \
  HOST_UNCHECKED inline T name(T value, HOST_SITE) {                        \
    const HostLanes& lanes = host::exchange(value, #name, HOST_AT);         \
    T sum = (T)0;                                                           \
    for (uint32_t i = 0; i < end; ++i)                                      \
      if (host::is_active(lanes, i)) sum = (T)(sum + host::lane_value<T>(lanes, i)); \
    return sum;                                                             \
  }
PREFIX_SUM(simd_prefix_inclusive_sum, host::my_lane() + 1)
PREFIX_SUM(simd_prefix_exclusive_sum, host::my_lane())
#undef PREFIX_SUM

#define SHUFFLE(name, source)                                                   \
  template <typename T>                                                         \
  HOST_UNCHECKED inline T name(T value, ushort argument, HOST_SITE) {           \
    const HostLanes& lanes = host::exchange(value, #name, HOST_AT);             \
    uint32_t lane = host::my_lane(), from = source;                             \
    (void)lane;                                                                 \
    if (from >= kSimdWidth) return host::undefined_value(value);                \
    return host::lane_value<T>(lanes, from, HOST_AT);                           \
  }
SHUFFLE(simd_shuffle, argument)
SHUFFLE(simd_broadcast, argument)
SHUFFLE(simd_shuffle_xor, lane ^ argument)
SHUFFLE(simd_shuffle_down, lane + argument)
SHUFFLE(simd_shuffle_up, lane - argument)
SHUFFLE(simd_shuffle_rotate_down, (lane + argument) % kSimdWidth)
SHUFFLE(simd_shuffle_rotate_up, (lane - argument) % kSimdWidth)
#undef SHUFFLE

#define SHUFFLE_AND_FILL(name, source)                                            \
  template <typename T>                                                           \
  HOST_UNCHECKED inline T name(T value, T filling, ushort delta, HOST_SITE) {     \
    const HostLanes& lanes = host::exchange(value, #name, HOST_AT);               \
    uint32_t from = source;                                                       \
    return from >= kSimdWidth ? filling : host::lane_value<T>(lanes, from, HOST_AT); \
  }
SHUFFLE_AND_FILL(simd_shuffle_and_fill_down, host::my_lane() + delta)
SHUFFLE_AND_FILL(simd_shuffle_and_fill_up, host::my_lane() - delta)
#undef SHUFFLE_AND_FILL

template <typename T>
HOST_UNCHECKED inline T simd_broadcast_first(T value, HOST_SITE) {
  const HostLanes& lanes = host::exchange(value, "simd_broadcast_first", HOST_AT);
  return host::lane_value<T>(lanes, __builtin_ctz(lanes.active), HOST_AT);
}
HOST_UNCHECKED inline uint32_t simd_votes(bool vote, const char* name, HOST_SITE) {
  const HostLanes& lanes = host::exchange(vote, name, HOST_AT);
  uint32_t votes = 0;
  for (uint32_t i = 0; i < kSimdWidth; ++i)
    votes |= uint32_t(host::is_active(lanes, i) && lanes.value[i][0]) << i;
  return votes;
}
HOST_UNCHECKED inline bool simd_any(bool vote, HOST_SITE) {
  return simd_votes(vote, "simd_any", HOST_AT) != 0;
}
HOST_UNCHECKED inline bool simd_all(bool vote, HOST_SITE) {
  return simd_votes(!vote, "simd_all", HOST_AT) == 0;
}

}  // namespace metal
