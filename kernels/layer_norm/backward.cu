// Layer norm, backward; with xhat = (x - mean) / sqrt(var + eps) and h = g * weight:
//   gx[n, d]      = (h[n, d] - mean_d h - xhat[n, d] * mean_d(h * xhat)) / sqrt(var + eps)
//   sums[u, 0, d] = sum of g[n, d] * xhat[n, d] over the ROWS rows of unit u
//   sums[u, 1, d] = sum of g[n, d] over them
//
// in   x [N, D] T    weight [D] T    g [N, D] T    eps [1] float32
// out  gx [N, D] T    sums [ceil(N / ROWS), 2, D] float32
// grid x: ceil(units / SG) * SG * 32 threads; one warp a unit, its rows one after
//      another; features as in the forward pass.
// template T; V features a pack (16 bytes); PACKS a lane; SG warps; ROWS a unit

const int N = x_shape[0];
const int D = x_shape[1];
const int lane = static_cast<int>(threadIdx.x) % 32;
const int unit = static_cast<int>(blockIdx.x) * SG + static_cast<int>(threadIdx.x) / 32;
const int first = unit * ROWS;
if (first >= N) {
  return;
}
const int last = first + ROWS < N ? first + ROWS : N;
float gweight[PACKS * V], gbias[PACKS * V], scaled[PACKS * V];
#pragma unroll
for (int p = 0; p < PACKS; ++p) {
  const int d = (p * 32 + lane) * V;
  const NormPack<T, V> w = features_at<T, V>(weight + (d < D ? d : 0), D - d);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    scaled[p * V + j] = static_cast<float>(w.item[j]);
    gweight[p * V + j] = 0.0f;
    gbias[p * V + j] = 0.0f;
  }
}
for (int n = first; n < last; ++n) {
  const size_t start = static_cast<size_t>(n) * D;
  float value[PACKS * V], up[PACKS * V];
  float sum = 0.0f;
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {
    const int d = (p * 32 + lane) * V;
    const size_t at = start + (d < D ? d : 0);
    const NormPack<T, V> pack = features_at<T, V>(x + at, D - d);
    const NormPack<T, V> slope = features_at<T, V>(g + at, D - d);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      value[p * V + j] = static_cast<float>(pack.item[j]);
      up[p * V + j] = static_cast<float>(slope.item[j]);
      sum += value[p * V + j];
    }
  }
  const float mean = sum_of_warp(sum) / D;
  float square = 0.0f;
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if ((p * 32 + lane) * V + j < D) {
        value[p * V + j] -= mean;
        square += value[p * V + j] * value[p * V + j];
      }
    }
  }
  const float scale = rsqrtf(sum_of_warp(square) / D + eps[0]);
  float plain = 0.0f, along = 0.0f;
#pragma unroll
  for (int i = 0; i < PACKS * V; ++i) {
    value[i] *= scale;
    gweight[i] += up[i] * value[i];
    gbias[i] += up[i];
    up[i] *= scaled[i];
    plain += up[i];
    along += up[i] * value[i];
  }
  plain = sum_of_warp(plain) / D;
  along = sum_of_warp(along) / D;
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {
    const int d = (p * 32 + lane) * V;
    NormPack<T, V> pack;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const int i = p * V + j;
      pack.item[j] = static_cast<T>((up[i] - plain - value[i] * along) * scale);
    }
    T* target = gx + start + d;
    if (D - d >= V && D % V == 0) {
      *reinterpret_cast<NormPack<T, V>*>(target) = pack;
    } else {
      for (int j = 0; j < V && d + j < D; ++j) {
        target[j] = pack.item[j];
      }
    }
  }
}
float* own = sums + static_cast<size_t>(unit) * 2 * D;
for (int p = 0; p < PACKS; ++p) {
  for (int j = 0; j < V; ++j) {
    const int d = (p * 32 + lane) * V + j;
    if (d < D) {
      own[d] = gweight[p * V + j];
      own[D + d] = gbias[p * V + j];
    }
  }
}
