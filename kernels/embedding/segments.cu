// Embedding, first half of the gradient: where each row's positions begin, and sums of
// the chunks that belong to one row alone.
//   starts[r]     = number of positions whose id is below r
//   partial[c, d] = sum of grad[order[p], d] over the CHUNK positions p of chunk c, if
//                   they all have one id; else 0
//
// in   grad [N, D] T    order [N] uint32    sorted [N] int32 = ids[order], rising
// out  starts [ROWS + 1] int32    partial [ceil(N / CHUNK), D] float32
// grid x: max(ROWS + 1, chunks * ceil(D / V)) threads; thread = one start, and V
//      neighbouring features of one chunk, features fastest; in order of position.
// template T; ROWS of the table; CHUNK positions; V features a thread (16 bytes)

const int N = order_shape[0];
const int D = grad_shape[1];
const unsigned int packs = (D + V - 1) / V;
const unsigned int at = blockIdx.x * blockDim.x + threadIdx.x;
if (at <= ROWS) {
  int low = 0, high = N;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (sorted[middle] < static_cast<int>(at)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  starts[at] = low;
}
const int chunk = static_cast<int>(at / packs);
const int first = chunk * CHUNK;
if (first >= N) {
  return;
}
const int d = static_cast<int>(at % packs) * V;
const int count = D - d < V ? D - d : V;
const bool wide = is_wide<T, V>(grad, D);
const int last = first + CHUNK;
float sum[V];
for (int j = 0; j < V; ++j) {
  sum[j] = 0.0f;
}
if (last <= N && sorted[first] == sorted[last - 1]) {
  add_positions<T, V>(sum, grad, order, first, last, D, d, wide, count);
}
for (int j = 0; j < count; ++j) {
  partial[static_cast<size_t>(chunk) * D + d + j] = sum[j];
}
