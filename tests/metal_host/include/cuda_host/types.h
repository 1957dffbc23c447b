// Half types, vector types and index variables.
#pragma once
#include "metal_host/metal.h"

template <typename Storage>
struct HostNarrowFloat {
  Storage value;
  HostNarrowFloat() = default;
  explicit HostNarrowFloat(float wide) : value((Storage)wide) {}
  explicit HostNarrowFloat(int wide) : value((Storage)(float)wide) {}
  explicit operator float() const { return (float)value; }
};
typedef HostNarrowFloat<half> __half;
typedef HostNarrowFloat<bfloat> __nv_bfloat16;

inline float __half2float(__half v) { return (float)v; }
inline __half __float2half(float v) { return __half(v); }
inline __half __float2half_rn(float v) { return __half(v); }
inline float __bfloat162float(__nv_bfloat16 v) { return (float)v; }
inline __nv_bfloat16 __float2bfloat16(float v) { return __nv_bfloat16(v); }
inline __nv_bfloat16 __float2bfloat16_rn(float v) { return __nv_bfloat16(v); }

#define CUDA_VECTORS(T, NAME)                                                        \
  struct alignas(2 * sizeof(T)) NAME##2 { T x, y; };                                 \
  struct NAME##3 { T x, y, z; };                                                     \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) NAME##4 { T x, y, z, w; }; \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                         \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
namespace cuda_host {
CUDA_VECTORS(float, float)
CUDA_VECTORS(int, int)
CUDA_VECTORS(unsigned int, uint)
CUDA_VECTORS(unsigned short, ushort)
}  // namespace cuda_host
#undef CUDA_VECTORS

struct dim3 {
  uint32_t x, y, z;
};
HOST_UNCHECKED inline dim3 host_dim3(const uint32_t* axes) {
  return {axes[0], axes[1], axes[2]};
}
#define threadIdx host_dim3(host_thread()->position_in_group)
#define blockIdx host_dim3(host_thread()->group_position)
#define blockDim host_dim3(host_thread()->group_size)
#define gridDim host_dim3(host_thread()->groups)
#define warpSize 32

namespace mlx::core::cu {

using namespace cuda_host;

template <typename T>
struct HostAxes {
  T axis[10];
  const T& operator[](int i) const { return axis[i]; }
  const T* data() const { return axis; }
};
typedef HostAxes<int32_t> Shape;
typedef HostAxes<int64_t> Strides;

template <typename Index = int64_t>
inline Index elem_to_loc(Index element, const int32_t* shape, const int64_t* strides,
                         int ndim) {
  Index location = 0;
  for (int i = ndim - 1; i >= 0; --i) {
    location += (element % shape[i]) * Index(strides[i]);
    element /= shape[i];
  }
  return location;
}

}  // namespace mlx::core::cu
