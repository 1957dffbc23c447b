// Gates of the GRU blend.

// No overflow: the exponential is at most 1.
inline float gate_of(float x) {
  const float e = metal::precise::exp(-metal::fabs(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}
