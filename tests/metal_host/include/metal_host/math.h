// Mathematics. Every function computes in float and rounds once, as a correctly
// rounded device would; precise:: and fast:: are the same thing here.
#pragma once
#include "metal_host/vectors.h"

namespace metal {

template <typename T>
constexpr bool is_plain_float = std::is_same_v<T, float> || std::is_same_v<T, half>;

// bfloat arguments give float: Metal has no bfloat overloads, MLX widens as well.
#define UNARY(name, expression)                                        \
  template <typename T>                                                \
  inline std::enable_if_t<is_plain_float<T>, T> name(T value) {        \
    float x = (float)value;                                            \
    return (T)(expression);                                            \
  }                                                                    \
  inline float name(bfloat value) {                                    \
    float x = value;                                                   \
    return expression;                                                 \
  }                                                                    \
  template <typename T, int N>                                         \
  inline vec<T, N> name(vec<T, N> v) {                                 \
    for (int i = 0; i < N; ++i) v[i] = (T)name(v[i]);                  \
    return v;                                                          \
  }
#define MATH_FUNCTIONS                                                 \
  UNARY(exp, std::exp(x))                                              \
  UNARY(exp2, std::exp2(x))                                            \
  UNARY(exp10, std::pow(10.0f, x))                                     \
  UNARY(log, std::log(x))                                              \
  UNARY(log2, std::log2(x))                                            \
  UNARY(log10, std::log10(x))                                          \
  UNARY(sqrt, std::sqrt(x))                                            \
  UNARY(rsqrt, 1.0f / std::sqrt(x))                                    \
  UNARY(floor, std::floor(x))                                          \
  UNARY(ceil, std::ceil(x))                                            \
  UNARY(rint, __builtin_rintf(x))                                      \
  UNARY(round, std::round(x))                                          \
  UNARY(trunc, std::trunc(x))                                          \
  UNARY(sin, std::sin(x))                                              \
  UNARY(cos, std::cos(x))                                              \
  UNARY(tan, std::tan(x))                                              \
  UNARY(asin, std::asin(x))                                            \
  UNARY(acos, std::acos(x))                                            \
  UNARY(atan, std::atan(x))                                            \
  UNARY(sinh, std::sinh(x))                                            \
  UNARY(cosh, std::cosh(x))                                            \
  UNARY(tanh, std::tanh(x))                                            \
  UNARY(fabs, std::fabs(x))                                            \
  UNARY(fract, x - std::floor(x))                                      \
  UNARY(saturate, x < 0 ? 0.0f : x > 1 ? 1.0f : x)                     \
  UNARY(sign, x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f)                     \
  inline float pow(float a, float b) { return std::pow(a, b); }        \
  inline float powr(float a, float b) { return std::pow(a, b); }       \
  inline float atan2(float a, float b) { return std::atan2(a, b); }    \
  inline float fmod(float a, float b) { return std::fmod(a, b); }      \
  inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
MATH_FUNCTIONS
namespace precise {
MATH_FUNCTIONS
}
namespace fast {
MATH_FUNCTIONS
}
#undef MATH_FUNCTIONS
#undef UNARY

// One type for all arguments: min(int, uint) is ambiguous in Metal, an error here.
template <typename T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
template <typename T>
inline T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
template <typename T>
inline T select(T if_false, T if_true, bool condition) {
  return condition ? if_true : if_false;
}
template <typename T>
inline T mix(T a, T b, T t) {
  return a + (b - a) * t;
}
template <typename T>
inline std::enable_if_t<std::is_arithmetic_v<T> || is_plain_float<T>, T> abs(T v) {
  return v < 0 ? T(-v) : v;
}
inline float fmin(float a, float b) { return std::fmin(a, b); }
inline float fmax(float a, float b) { return std::fmax(a, b); }

template <typename T>
inline bool isnan(T value) {
  return (float)value != (float)value;
}
template <typename T>
inline bool isinf(T value) {
  return __builtin_isinf((float)value);
}
template <typename T>
inline bool isfinite(T value) {
  return __builtin_isfinite((float)value);
}

inline int popcount(uint x) { return __builtin_popcount(x); }
inline int clz(uint x) { return x ? __builtin_clz(x) : 32; }
inline int ctz(uint x) { return x ? __builtin_ctz(x) : 32; }

}  // namespace metal
