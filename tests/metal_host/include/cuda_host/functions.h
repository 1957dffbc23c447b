// Barriers, warp functions, atomics, cooperative groups and device mathematics.
#pragma once
#include "cuda_host/types.h"

constexpr uint32_t kAllMemory = kDeviceMemory | kGroupMemory;

inline void __syncthreads(HOST_SITE) { host_group_barrier(kAllMemory, HOST_AT); }
inline void __syncwarp(unsigned = ~0u, HOST_SITE) { host_simd_barrier(kAllMemory, HOST_AT); }
inline void __threadfence() {}

// The warp functions of CUDA differ from Metal's in one case: beyond the end a shuffle
// returns the lane's own value.
#define WARP_SHUFFLE(name, source)                                              \
  template <typename T>                                                         \
  HOST_UNCHECKED inline T name(unsigned, T value, unsigned argument, HOST_SITE) { \
    const HostLanes& lanes = host::exchange(value, #name, HOST_AT);             \
    uint32_t lane = host::my_lane(), from = source;                             \
    (void)lane;                                                                 \
    return from < kSimdWidth ? host::lane_value<T>(lanes, from, HOST_AT) : value; \
  }
WARP_SHUFFLE(__shfl_sync, argument % kSimdWidth)
WARP_SHUFFLE(__shfl_down_sync, lane + argument)
WARP_SHUFFLE(__shfl_up_sync, lane - argument)
WARP_SHUFFLE(__shfl_xor_sync, lane ^ argument)
#undef WARP_SHUFFLE

inline bool __any_sync(unsigned, bool vote, HOST_SITE) {
  return metal::simd_any(vote, HOST_AT);
}
inline bool __all_sync(unsigned, bool vote, HOST_SITE) {
  return metal::simd_all(vote, HOST_AT);
}
inline unsigned __ballot_sync(unsigned, bool vote, HOST_SITE) {
  return metal::simd_votes(vote, "__ballot_sync", HOST_AT);
}

#define CUDA_ATOMIC(name, expression)                                             \
  template <typename T>                                                           \
  HOST_UNCHECKED inline T name(T* p, std::common_type_t<T> operand, HOST_SITE) {  \
    host_atomic(p, sizeof(T), kAtomicUpdate, std::is_same_v<T, float>, HOST_AT);  \
    T old = *p;                                                                   \
    *p = (T)(expression);                                                         \
    return old;                                                                   \
  }
CUDA_ATOMIC(atomicAdd, old + operand)
CUDA_ATOMIC(atomicMax, old < operand ? operand : old)
CUDA_ATOMIC(atomicMin, operand < old ? operand : old)
CUDA_ATOMIC(atomicExch, operand)
#undef CUDA_ATOMIC

namespace cooperative_groups {

struct grid_group {
  HOST_UNCHECKED uint64_t thread_rank() const {
    const HostThread& t = *host_thread();
    uint64_t block = (uint64_t(t.group_position[2]) * t.groups[1] + t.group_position[1]) *
                         t.groups[0] + t.group_position[0];
    return block * t.group_size[0] * t.group_size[1] * t.group_size[2] + t.index_in_group;
  }
};
struct thread_block {
  HOST_UNCHECKED unsigned thread_rank() const { return host_thread()->index_in_group; }
  HOST_UNCHECKED dim3 thread_index() const {
    return host_dim3(host_thread()->position_in_group);
  }
  HOST_UNCHECKED dim3 group_index() const {
    return host_dim3(host_thread()->group_position);
  }
  void sync(HOST_SITE) const { __syncthreads(HOST_AT); }
};
inline grid_group this_grid() { return {}; }
inline thread_block this_thread_block() { return {}; }
inline void sync(const thread_block& block, HOST_SITE) { block.sync(HOST_AT); }

}  // namespace cooperative_groups

namespace cuda_host {

template <typename T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
inline T max(T a, T b) {
  return a < b ? b : a;
}

}  // namespace cuda_host

template <typename T>
inline T __ldg(const T* p) {
  return *p;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline int __float2int_rn(float x) { return (int)__builtin_rintf(x); }
inline int __float_as_int(float x) { return metal::as_type_of<int>(x); }
inline unsigned __float_as_uint(float x) { return metal::as_type_of<unsigned>(x); }
inline float __int_as_float(int x) { return metal::as_type_of<float>(x); }
inline float __uint_as_float(unsigned x) { return metal::as_type_of<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
