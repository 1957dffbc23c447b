// Layer norm, forward.
//   y[n, d] = weight[d] * (x[n, d] - mean[n]) / sqrt(var[n] + eps) + bias[d]
//
// in   x [N, D] T    weight [D] T    bias [D] T    eps [1] float32
// out  y [N, D] T; statistics in float32
// grid x: ceil(N / SG) * SG * 32 threads; one simdgroup a row, which its lanes hold in
//      packs of V neighbouring features, pack p of lane l from feature (32 p + l) V.
// template T; V features a pack; PACKS a lane, ceil(D / 32 V); SG simdgroups

const int N = x_shape[0];
const int D = x_shape[1];
const int lane = int(thread_index_in_simdgroup);
const int n = int(threadgroup_position_in_grid.x) * SG +
    int(simdgroup_index_in_threadgroup);
if (n >= N) {
  return;
}
const size_t row = size_t(n) * D;
float value[PACKS * V];
float sum = 0.0f;
for (int p = 0; p < PACKS; ++p) {
  for (int j = 0; j < V; ++j) {
    const int d = (p * 32 + lane) * V + j;
    value[p * V + j] = 0.0f;
    if (d < D) {
      value[p * V + j] = static_cast<float>(x[row + d]);
    }
    sum += value[p * V + j];
  }
}
const float mean = simd_sum(sum) / D;
float square = 0.0f;
for (int p = 0; p < PACKS; ++p) {
  for (int j = 0; j < V; ++j) {
    if ((p * 32 + lane) * V + j < D) {
      value[p * V + j] -= mean;
      square += value[p * V + j] * value[p * V + j];
    }
  }
}
const float scale = metal::precise::rsqrt(simd_sum(square) / D + eps[0]);
for (int p = 0; p < PACKS; ++p) {
  for (int j = 0; j < V; ++j) {
    const int d = (p * 32 + lane) * V + j;
    if (d < D) {
      y[row + d] = static_cast<T>(
          value[p * V + j] * scale * static_cast<float>(weight[d]) +
          static_cast<float>(bias[d]));
    }
  }
}
