// Just enough of complex64_t for the real utils.h to compile.
#pragma once
#include <metal_stdlib>

template <typename T>
struct complex_t {
  using value_type = T;
  T real, imag;
  complex_t() = default;
  constexpr complex_t(T r, T i = 0) : real(r), imag(i) {}
};
typedef complex_t<float> complex64_t;
