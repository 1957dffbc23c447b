// Scores compared as integers: the order-free maximum of a cell.

inline float
minus_infinity() {
  return -INFINITY;
}

// Floats as unsigned integers in the same order, above 0 (which means no flow yet).
inline uint
ordered_bits(float value) {
  const uint bits = as_type<uint>(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline float
from_ordered_bits(uint bits) {
  return as_type<float>(bits & 0x80000000u ? bits ^ 0x80000000u : ~bits);
}
