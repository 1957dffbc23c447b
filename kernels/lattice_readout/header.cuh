// Scores compared as integers: the order-free maximum of a cell.

__device__ inline float
minus_infinity() {
  return __uint_as_float(0xff800000u);
}

// Floats as unsigned integers in the same order, above 0 (which means no flow yet).
__device__ inline unsigned int
ordered_bits(float value) {
  const unsigned int bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float
from_ordered_bits(unsigned int bits) {
  return __uint_as_float(bits & 0x80000000u ? bits ^ 0x80000000u : ~bits);
}
