// GELU, backward.
//   exact  gx = g * ((1 + erf(x / sqrt(2))) / 2 + x * exp(-x^2 / 2) / sqrt(2 pi))
//   TANH   gx = g * (p + 2 x * p * (1 - p) * du/dx), p = (1 + tanh(u)) / 2,
//          u = sqrt(2 / pi) * (x + 0.044715 * x^3)
//
// in   x, g [N] T
// out  gx [N] T
// grid x: ceil(N / V) threads; thread = V neighbouring values.
// template T; V values a thread (16 bytes); TANH, the form

const size_t N = x_shape[0];
const size_t at = (static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
if (at >= N) {
  return;
}
// An input may start at any element.
const bool aligned =
    (reinterpret_cast<size_t>(x) | reinterpret_cast<size_t>(g)) % (V * sizeof(T)) == 0;
const int count = N - at < V ? static_cast<int>(N - at) : V;
GeluPack<T, V> pack, up;
if (aligned && count == V) {
  pack = *reinterpret_cast<const GeluPack<T, V>*>(x + at);
  up = *reinterpret_cast<const GeluPack<T, V>*>(g + at);
} else {
  for (int j = 0; j < V; ++j) {
    pack.item[j] = j < count ? x[at + j] : static_cast<T>(0.0f);
    up.item[j] = j < count ? g[at + j] : static_cast<T>(0.0f);
  }
}
#pragma unroll
for (int j = 0; j < V; ++j) {
  const float value = static_cast<float>(pack.item[j]);
  const float share = 0.5f + 0.5f * erff(value * 0.70710678f);
  const float density = 0.39894228f * expf(-0.5f * value * value);
  const float slope = TANH ? tanh_slope(within_ten(value)) : share + value * density;
  pack.item[j] = static_cast<T>(slope * static_cast<float>(up.item[j]));
}
if (count == V) {
  *reinterpret_cast<GeluPack<T, V>*>(gx + at) = pack;
} else {
  for (int j = 0; j < count; ++j) {
    gx[at + j] = pack.item[j];
  }
}
