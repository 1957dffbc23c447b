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
// template T; VALID columns of P; V columns a thread (16 bytes)

const int P = logits_shape[1];
const int N = logits_shape[0];
const unsigned int packs = P / V;
const unsigned int at = blockIdx.x * blockDim.x + threadIdx.x;
const int n = static_cast<int>(at / packs);
if (n >= N) {
  return;
}
const int v = static_cast<int>(at % packs) * V;
const float weight = count[n];
const float s = smoothing[0];
const float norm = lse[n];
const int t = target[n];
LogitPack<T, V> pack;
#pragma unroll
for (int j = 0; j < V; ++j) {
  pack.item[j] = static_cast<T>(0.0f);
}
if (weight != 0.0f) {
  const T* row = logits + static_cast<size_t>(n) * P;
  const LogitPack<T, V> found = logits_at<T, V>(row + v);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    if (v + j < VALID) {
      const float x = static_cast<float>(found.item[j]) + offset[v + j];
      const float hit = v + j == t ? 1.0f - s : 0.0f;
      pack.item[j] = static_cast<T>(weight * (expf(x - norm) - hit - s / VALID));
    }
  }
}
T* out = grad + static_cast<size_t>(n) * P + v;
*reinterpret_cast<LogitPack<T, V>*>(out) = pack;
