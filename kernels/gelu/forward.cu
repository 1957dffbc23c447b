// GELU, forward.
//   exact  y = x * (1 + erf(x / sqrt(2))) / 2
//   TANH   y = x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2
//
// in   x [N] T
// out  y [N] T
// grid x: ceil(N / V) threads; thread = V neighbouring values.
// template T; V values a thread (16 bytes); TANH, the form

const size_t N = x_shape[0];
const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
if (at >= N) {
  return;
}
// An input may start at any element.
const bool aligned = reinterpret_cast<size_t>(x) % (V * sizeof(T)) == 0;
const int count = N - at < V ? static_cast<int>(N - at) : V;
GeluPack<T, V> pack;
if (aligned && count == V) {
  pack = *reinterpret_cast<const GeluPack<T, V>*>(x + at);
} else {
  for (int j = 0; j < V; ++j) {
    pack.item[j] = j < count ? x[at + j] : static_cast<T>(0.0f);
  }
}
#pragma unroll
for (int j = 0; j < V; ++j) {
  const float value = static_cast<float>(pack.item[j]);
  const float gelu = TANH ? value * tanh_gate(within_ten(value))
                          : 0.5f * value * (1.0f + erff(value * 0.70710678f));
  pack.item[j] = static_cast<T>(gelu);
}
if (count == V) {
  *reinterpret_cast<GeluPack<T, V>*>(y + at) = pack;
} else {
  for (int j = 0; j < count; ++j) {
    y[at + j] = pack.item[j];
  }
}
