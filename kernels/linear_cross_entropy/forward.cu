// Linear cross entropy, forward, from the products of one chunk of rows.
//   x[n, v]  = logits[n, v] + offset[v],  v < VALID
//   lse[n]   = log sum_v exp(x[n, v])
//   loss[n]  = count[n] * (lse[n] - (1 - s) * x[n, target[n]] - s * mean_v x[n, v])
// Rows with count 0 are not read; their loss and lse are 0.
//
// in   logits [N, P] T    offset [VALID] float32    target [N] int32
//      count [N] float32    smoothing [1] float32, s
// out  loss [N] float32    lse [N] float32
// grid x: N * GROUP threads; one group of GROUP threads a row, a power of two. Thread =
//      every GROUP-th pack of V columns; threads are merged in a fixed tree.
// limits P is a multiple of V
// template T; VALID columns of P; GROUP threads; V columns a thread (16 bytes)

constexpr float LOWEST = -3.4e38f;
__shared__ float top[GROUP];
__shared__ float total[GROUP];
__shared__ float plain[GROUP];

const int P = logits_shape[1];
const int n = static_cast<int>(blockIdx.x);
const int tid = static_cast<int>(threadIdx.x);
const T* row = logits + static_cast<size_t>(n) * P;
const float weight = count[n];
const int last = weight != 0.0f ? VALID : 0;
float peak = LOWEST, sum = 0.0f, all = 0.0f;
for (int v = tid * V; v < last; v += GROUP * V) {
  const int inside = last - v < V ? last - v : V;
  const LogitPack<T, V> pack = logits_at<T, V>(row + v);
  float x[V];
  float high = peak;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    x[j] = j < inside ? static_cast<float>(pack.item[j]) + offset[v + j] : LOWEST;
    high = x[j] > high ? x[j] : high;
  }
  sum *= expf(peak - high);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    if (j < inside) {
      sum += expf(x[j] - high);
      all += x[j];
    }
  }
  peak = high;
}
top[tid] = peak;
total[tid] = sum;
plain[tid] = all;
__syncthreads();
for (int half = GROUP / 2; half > 0; half /= 2) {
  if (tid < half) {
    const float mine = top[tid], other = top[tid + half];
    const float high = mine > other ? mine : other;
    total[tid] =
        total[tid] * expf(mine - high) + total[tid + half] * expf(other - high);
    plain[tid] += plain[tid + half];
    top[tid] = high;
  }
  __syncthreads();
}
if (tid == 0) {
  float value = 0.0f, norm = 0.0f;
  if (weight != 0.0f) {
    const float s = smoothing[0];
    const int t = target[n];
    const float chosen = static_cast<float>(row[t]) + offset[t];
    norm = top[0] + logf(total[0]);
    value = weight * (norm - (1.0f - s) * chosen - s * (plain[0] / VALID));
  }
  loss[n] = value;
  lse[n] = norm;
}
