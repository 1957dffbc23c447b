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
// template T; VALID columns of P; GROUP threads; V columns a thread

constexpr float LOWEST = -3.4e38f;
threadgroup float top[GROUP];
threadgroup float total[GROUP];
threadgroup float plain[GROUP];

const int P = logits_shape[1];
const int n = int(threadgroup_position_in_grid.x);
const int tid = int(thread_position_in_threadgroup.x);
const size_t row = size_t(n) * P;
const float weight = count[n];
const int last = weight != 0.0f ? VALID : 0;
float peak = LOWEST, sum = 0.0f, all = 0.0f;
for (int v = tid * V; v < last; v += GROUP * V) {
  for (int j = 0; j < V && v + j < last; ++j) {
    const float x = static_cast<float>(logits[row + v + j]) + offset[v + j];
    const float high = x > peak ? x : peak;
    sum = sum * metal::precise::exp(peak - high) + metal::precise::exp(x - high);
    all += x;
    peak = high;
  }
}
top[tid] = peak;
total[tid] = sum;
plain[tid] = all;
threadgroup_barrier(mem_flags::mem_threadgroup);
for (int half_group = GROUP / 2; half_group > 0; half_group /= 2) {
  if (tid < half_group) {
    const float mine = top[tid], other = top[tid + half_group];
    const float high = mine > other ? mine : other;
    total[tid] = total[tid] * metal::precise::exp(mine - high) +
        total[tid + half_group] * metal::precise::exp(other - high);
    plain[tid] += plain[tid + half_group];
    top[tid] = high;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
if (tid == 0) {
  float value = 0.0f, norm = 0.0f;
  if (weight != 0.0f) {
    const float s = smoothing[0];
    const int t = target[n];
    const float chosen = static_cast<float>(logits[row + t]) + offset[t];
    norm = top[0] + metal::precise::log(total[0]);
    value = weight * (norm - (1.0f - s) * chosen - s * (plain[0] / VALID));
  }
  loss[n] = value;
  lse[n] = norm;
}
