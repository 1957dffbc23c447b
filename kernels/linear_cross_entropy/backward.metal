// Linear cross entropy, backward: gradient of the loss of one chunk of rows.
//   grad[n, v] = count[n] * (exp(x[n, v] - lse[n]) - (1 - s) * (v == target[n])
//                            - s / VALID)
//   x[n, v]    = logits[n, v] + offset[v];  0 for v >= VALID and rows with count 0
//
// in   logits [N, P] T    offset [VALID] float32    target [N] int32
//      count [N] float32    smoothing [1] float32, s    lse [N] float32
// out  grad [N, P] T
// limits P is a multiple of V
// grid x: N * P / V threads; thread = V neighbouring columns, columns fastest.
// template T; VALID columns of P; V columns a thread

const int P = logits_shape[1];
const int N = logits_shape[0];
const uint packs = uint(P / V);
const int n = int(thread_position_in_grid.x / packs);
if (n >= N) {
  return;
}
const int v = int(thread_position_in_grid.x % packs) * V;
const float weight = count[n];
const float s = smoothing[0];
const float norm = lse[n];
const int t = target[n];
for (int j = 0; j < V; ++j) {
  const size_t at = size_t(n) * P + v + j;
  float slope = 0.0f;
  if (weight != 0.0f && v + j < VALID) {
    const float x = static_cast<float>(logits[at]) + offset[v + j];
    const float hit = v + j == t ? 1.0f - s : 0.0f;
    slope = weight * (metal::precise::exp(x - norm) - hit - s / VALID);
  }
  grad[at] = static_cast<T>(slope);
}
