// Layer norm, forward.
//   y[n, d] = weight[d] * (x[n, d] - mean[n]) / sqrt(var[n] + eps) + bias[d]
//
// in   x [N, D] T    weight [D] T    bias [D] T    eps [1] float32
// out  y [N, D] T; statistics in float32
// grid x: ceil(N / SG) * SG * 32 threads; one warp a row, which its lanes hold in packs
//      of V neighbouring features, pack p of lane l from feature (32 p + l) V.
// template T; V features a pack (16 bytes); PACKS a lane, ceil(D / 32 V); SG warps

const int N = x_shape[0];
const int D = x_shape[1];
const int lane = static_cast<int>(threadIdx.x) % 32;
const int n = static_cast<int>(blockIdx.x) * SG + static_cast<int>(threadIdx.x) / 32;
if (n >= N) {
  return;
}
const T* row = x + static_cast<size_t>(n) * D;
float value[PACKS * V];
float sum = 0.0f;
#pragma unroll
for (int p = 0; p < PACKS; ++p) {
  const int d = (p * 32 + lane) * V;
  const NormPack<T, V> pack = features_at<T, V>(row + (d < D ? d : 0), D - d);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    value[p * V + j] = static_cast<float>(pack.item[j]);
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
#pragma unroll
for (int p = 0; p < PACKS; ++p) {
  const int d = (p * 32 + lane) * V;
  const int count = D - d;
  const NormPack<T, V> w = features_at<T, V>(weight + (d < D ? d : 0), count);
  const NormPack<T, V> b = features_at<T, V>(bias + (d < D ? d : 0), count);
  NormPack<T, V> pack;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    pack.item[j] = static_cast<T>(
        value[p * V + j] * scale * static_cast<float>(w.item[j]) +
        static_cast<float>(b.item[j]));
  }
  T* target = y + static_cast<size_t>(n) * D + d;
  if (count >= V && D % V == 0) {
    *reinterpret_cast<NormPack<T, V>*>(target) = pack;
  } else {
    for (int j = 0; j < V && j < count; ++j) {
      target[j] = pack.item[j];
    }
  }
}
