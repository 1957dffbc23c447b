// Layer norm, backward; with xhat = (x - mean) / sqrt(var + eps) and h = g * weight:
//   gx[n, d]      = (h[n, d] - mean_d h - xhat[n, d] * mean_d(h * xhat)) / sqrt(var + eps)
//   sums[u, 0, d] = sum of g[n, d] * xhat[n, d] over the ROWS rows of unit u
//   sums[u, 1, d] = sum of g[n, d] over them
//
// in   x [N, D] T    weight [D] T    g [N, D] T    eps [1] float32
// out  gx [N, D] T    sums [ceil(N / ROWS), 2, D] float32
// grid x: ceil(units / SG) * SG * 32 threads; one simdgroup a unit, its rows one after
//      another; features as in the forward pass.
// template T; V features a pack; PACKS a lane; SG simdgroups; ROWS a unit

const int N = x_shape[0];
const int D = x_shape[1];
const int lane = int(thread_index_in_simdgroup);
const int unit = int(threadgroup_position_in_grid.x) * SG +
    int(simdgroup_index_in_threadgroup);
const int first = unit * ROWS;
if (first >= N) {
  return;
}
const int last = first + ROWS < N ? first + ROWS : N;
float gweight[PACKS * V], gbias[PACKS * V];
for (int i = 0; i < PACKS * V; ++i) {
  gweight[i] = 0.0f;
  gbias[i] = 0.0f;
}
for (int n = first; n < last; ++n) {
  const size_t row = size_t(n) * D;
  float value[PACKS * V], up[PACKS * V];
  float sum = 0.0f;
  for (int p = 0; p < PACKS; ++p) {
    for (int j = 0; j < V; ++j) {
      const int d = (p * 32 + lane) * V + j;
      value[p * V + j] = 0.0f;
      up[p * V + j] = 0.0f;
      if (d < D) {
        value[p * V + j] = static_cast<float>(x[row + d]);
        up[p * V + j] = static_cast<float>(g[row + d]);
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
  float plain = 0.0f, along = 0.0f;
  for (int p = 0; p < PACKS; ++p) {
    for (int j = 0; j < V; ++j) {
      const int i = p * V + j;
      const int d = (p * 32 + lane) * V + j;
      value[i] *= scale;
      gweight[i] += up[i] * value[i];
      gbias[i] += up[i];
      if (d < D) {
        up[i] *= static_cast<float>(weight[d]);
      }
      plain += up[i];
      along += up[i] * value[i];
    }
  }
  plain = simd_sum(plain) / D;
  along = simd_sum(along) / D;
  for (int p = 0; p < PACKS; ++p) {
    for (int j = 0; j < V; ++j) {
      const int i = p * V + j;
      const int d = (p * 32 + lane) * V + j;
      if (d < D) {
        gx[row + d] = static_cast<T>((up[i] - plain - value[i] * along) * scale);
      }
    }
  }
}
const size_t own = size_t(unit) * 2 * D;
for (int p = 0; p < PACKS; ++p) {
  for (int j = 0; j < V; ++j) {
    const int d = (p * 32 + lane) * V + j;
    if (d < D) {
      sums[own + d] = gweight[p * V + j];
      sums[own + D + d] = gbias[p * V + j];
    }
  }
}
