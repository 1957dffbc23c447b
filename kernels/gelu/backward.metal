// GELU, backward.
//   exact  gx = g * ((1 + erf(x / sqrt(2))) / 2 + x * exp(-x^2 / 2) / sqrt(2 pi))
//   TANH   gx = g * (p + 2 x * p * (1 - p) * du/dx), p = (1 + tanh(u)) / 2,
//          u = sqrt(2 / pi) * (x + 0.044715 * x^3)
//
// in   x, g [N] T
// out  gx [N] T
// grid x: ceil(N / V) threads; thread = V neighbouring values.
// template T; V values a thread; TANH, the form

const size_t N = size_t(x_shape[0]);
const size_t at = size_t(thread_position_in_grid.x) * V;
for (int j = 0; j < V; ++j) {
  if (at + j < N) {
    const float value = static_cast<float>(x[at + j]);
    const float share = 0.5f + 0.5f * erf_of(value);
    const float density = 0.39894228f * metal::precise::exp(-0.5f * value * value);
    const float slope =
        TANH ? tanh_slope(within_ten(value)) : share + value * density;
    gx[at + j] = static_cast<T>(slope * static_cast<float>(g[at + j]));
  }
}
