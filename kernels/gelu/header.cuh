// Sixteen-byte access for GELU, and its tanh form.

template <typename T, int V>
struct alignas(sizeof(T) * V) GeluPack {
  T item[V];
};

// Brought to |x| <= 10, where the tanh gate is already 0 or 1; NaN stays.
__device__ inline float
within_ten(float x) {
  return x > 10.0f ? 10.0f : (x < -10.0f ? -10.0f : x);
}

// (1 + tanh(u)) / 2 with u = sqrt(2 / pi) * (x + 0.044715 * x^3), for |x| <= 10.
__device__ inline float
tanh_gate(float x) {
  const float u = 0.79788456f * (x + 0.044715f * x * x * x);
  return 1.0f / (1.0f + expf(-2.0f * u));
}

// Derivative of x * tanh_gate(x), for |x| <= 10.
__device__ inline float
tanh_slope(float x) {
  const float gate = tanh_gate(x);
  const float du = 0.79788456f * (1.0f + 0.134145f * x * x);
  return gate + x * (2.0f * gate * (1.0f - gate) * du);
}
