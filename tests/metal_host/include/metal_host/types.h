// Scalar types: half is the compiler's, bfloat is a class with Metal's conversions.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#undef isnan
#undef isinf
#undef isfinite

typedef unsigned char uchar;
typedef _Float16 half;

// bfloat widens to float by itself; nothing narrows to bfloat without a cast.
struct bfloat {
  uint16_t bits;
  bfloat() = default;
  template <typename T,
            typename = std::enable_if_t<std::is_arithmetic_v<T> || std::is_same_v<T, half>>>
  explicit constexpr bfloat(T value) : bits(rounded((float)value)) {}
  constexpr operator float() const {
    return __builtin_bit_cast(float, uint32_t(bits) << 16);
  }
  static constexpr uint16_t rounded(float value) {  // to nearest, ties to even
    uint32_t u = __builtin_bit_cast(uint32_t, value);
    return value != value ? 0x7fc0 : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
#define BFLOAT_OPERATOR(op)                                       \
  friend constexpr bfloat operator op(bfloat a, bfloat b) {       \
    return bfloat(float(a) op float(b));                          \
  }                                                               \
  constexpr bfloat& operator op##=(float b) {                     \
    return *this = bfloat(float(*this) op b);                     \
  }
  BFLOAT_OPERATOR(+)
  BFLOAT_OPERATOR(-)
  BFLOAT_OPERATOR(*)
  BFLOAT_OPERATOR(/)
#undef BFLOAT_OPERATOR
  friend constexpr bfloat operator-(bfloat a) {
    a.bits ^= 0x8000;
    return a;
  }
};

constexpr half operator""h(long double value) { return (half)value; }
constexpr bfloat operator""bf(long double value) { return bfloat((float)value); }

namespace metal {

using std::conditional;
using std::conditional_t;
using std::enable_if;
using std::enable_if_t;
using std::false_type;
using std::is_convertible_v;
using std::is_same;
using std::is_same_v;
using std::true_type;

template <typename T>
constexpr bool is_integral_v = std::is_integral_v<T>;
template <typename T>
constexpr bool is_floating_point_v = std::is_floating_point_v<T> ||
                                     std::is_same_v<T, half> || std::is_same_v<T, bfloat>;

template <typename T>
struct numeric_limits : std::numeric_limits<T> {};

#define NARROW_LIMITS(T, LARGEST, SMALLEST, EPSILON)                  \
  template <>                                                         \
  struct numeric_limits<T> {                                          \
    static constexpr T max() { return T(LARGEST); }                   \
    static constexpr T lowest() { return T(-LARGEST); }               \
    static constexpr T min() { return T(SMALLEST); }                  \
    static constexpr T epsilon() { return T(EPSILON); }               \
    static constexpr T infinity() { return T(__builtin_inff()); }     \
    static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }  \
  };
NARROW_LIMITS(half, 65504.f, 6.103515625e-05f, 0.0009765625f)
NARROW_LIMITS(bfloat, 3.38953139e38f, 1.17549435e-38f, 0.0078125f)
#undef NARROW_LIMITS

template <typename T, typename U>
inline T as_type_of(U value) {
  static_assert(sizeof(T) == sizeof(U), "as_type needs types of the same size");
  T result;
  memcpy((void*)&result, (const void*)&value, sizeof result);
  return result;
}

}  // namespace metal
