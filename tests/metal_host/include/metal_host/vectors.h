// vec<T, N> with elementwise arithmetic, and the packed_ types that need only the
// alignment of their elements. Swizzles are left out: name components one by one.
#pragma once
#include "metal_host/types.h"

namespace metal {

template <typename T, int N>
struct vec;

template <typename From, typename To>
using if_converts =
    std::enable_if_t<std::is_convertible_v<From, To> || std::is_same_v<To, bfloat>>;

#define VECTOR_COMMON(N)                                                            \
  vec() = default;                                                                  \
  template <typename U, typename = if_converts<U, T>>                               \
  constexpr vec(U value) {                                                          \
    for (int i = 0; i < N; ++i) (*this)[i] = (T)value;                              \
  }                                                                                 \
  template <typename U>                                                             \
  explicit constexpr vec(const vec<U, N>& other) {                                  \
    for (int i = 0; i < N; ++i) (*this)[i] = (T)other[i];                           \
  }                                                                                 \
  constexpr T& operator[](int i) { return (&x)[i]; }                                \
  constexpr const T& operator[](int i) const { return (&x)[i]; }

template <typename T>
struct alignas(sizeof(T) * 2) vec<T, 2> {
  T x, y;
  VECTOR_COMMON(2)
  constexpr vec(T a, T b) : x(a), y(b) {}
};

template <typename T>
struct alignas(sizeof(T) * 4) vec<T, 3> {
  T x, y, z;
  VECTOR_COMMON(3)
  constexpr vec(T a, T b, T c) : x(a), y(b), z(c) {}
  constexpr vec(vec<T, 2> ab, T c) : x(ab.x), y(ab.y), z(c) {}
};

template <typename T>
struct alignas(sizeof(T) * 4) vec<T, 4> {
  T x, y, z, w;
  VECTOR_COMMON(4)
  constexpr vec(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
  constexpr vec(vec<T, 2> ab, vec<T, 2> cd) : x(ab.x), y(ab.y), z(cd.x), w(cd.y) {}
};
#undef VECTOR_COMMON

#define VECTOR_OPERATOR(op)                                                       \
  template <typename T, int N>                                                    \
  constexpr vec<T, N> operator op(vec<T, N> a, vec<T, N> b) {                     \
    for (int i = 0; i < N; ++i) a[i] = T(a[i] op b[i]);                           \
    return a;                                                                     \
  }                                                                               \
  template <typename T, int N>                                                    \
  constexpr vec<T, N> operator op(vec<T, N> a, std::common_type_t<T> b) {         \
    for (int i = 0; i < N; ++i) a[i] = T(a[i] op b);                              \
    return a;                                                                     \
  }                                                                               \
  template <typename T, int N>                                                    \
  constexpr vec<T, N> operator op(std::common_type_t<T> a, vec<T, N> b) {         \
    for (int i = 0; i < N; ++i) b[i] = T(a op b[i]);                              \
    return b;                                                                     \
  }                                                                               \
  template <typename T, int N, typename U>                                        \
  constexpr vec<T, N>& operator op##=(vec<T, N>& a, U b) {                        \
    return a = a op b;                                                            \
  }
VECTOR_OPERATOR(+)
VECTOR_OPERATOR(-)
VECTOR_OPERATOR(*)
VECTOR_OPERATOR(/)
#undef VECTOR_OPERATOR

template <typename T, int N>
struct packed_vec {
  T element[N];
  packed_vec() = default;
  packed_vec(vec<T, N> v) {
    for (int i = 0; i < N; ++i) element[i] = v[i];
  }
  operator vec<T, N>() const {
    vec<T, N> v;
    for (int i = 0; i < N; ++i) v[i] = element[i];
    return v;
  }
  T& operator[](int i) { return element[i]; }
  const T& operator[](int i) const { return element[i]; }
};

template <typename T, int N>
inline T dot(vec<T, N> a, vec<T, N> b) {
  T sum = T(a[0] * b[0]);
  for (int i = 1; i < N; ++i) sum = T(sum + a[i] * b[i]);
  return sum;
}

#define VECTOR_NAMES(T)                                                  \
  typedef vec<T, 2> T##2;                                                \
  typedef vec<T, 3> T##3;                                                \
  typedef vec<T, 4> T##4;                                                \
  typedef packed_vec<T, 2> packed_##T##2;                                \
  typedef packed_vec<T, 3> packed_##T##3;                                \
  typedef packed_vec<T, 4> packed_##T##4;
VECTOR_NAMES(float)
VECTOR_NAMES(half)
VECTOR_NAMES(bfloat)
VECTOR_NAMES(int)
VECTOR_NAMES(uint)
VECTOR_NAMES(short)
VECTOR_NAMES(ushort)
VECTOR_NAMES(char)
VECTOR_NAMES(uchar)
VECTOR_NAMES(long)
VECTOR_NAMES(ulong)
VECTOR_NAMES(bool)
#undef VECTOR_NAMES

}  // namespace metal

using metal::vec;
