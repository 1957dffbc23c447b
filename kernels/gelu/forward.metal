// GELU, forward.
//   exact  y = x * (1 + erf(x / sqrt(2))) / 2
//   TANH   y = x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2
//
// in   x [N] T
// out  y [N] T
// grid x: ceil(N / V) threads; thread = V neighbouring values.
// template T; V values a thread; TANH, the form

const size_t N = size_t(x_shape[0]);
const size_t at = size_t(thread_position_in_grid.x) * V;
for (int j = 0; j < V; ++j) {
  if (at + j < N) {
    const float value = static_cast<float>(x[at + j]);
    const float gelu = TANH ? value * tanh_gate(within_ten(value))
                            : 0.5f * value * (1.0f + erf_of(value));
    y[at + j] = static_cast<T>(gelu);
  }
}
