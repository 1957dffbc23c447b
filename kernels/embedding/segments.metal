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
// template T; ROWS of the table; CHUNK positions; V features a thread

const int N = order_shape[0];
const int D = grad_shape[1];
const uint packs = uint((D + V - 1) / V);
const uint at = thread_position_in_grid.x;
if (at <= uint(ROWS)) {
  int low = 0, high = N;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (sorted[middle] < int(at)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  starts[at] = low;
}
const int chunk = int(at / packs);
const int first = chunk * CHUNK;
if (first >= N) {
  return;
}
const int d = int(at % packs) * V;
const int last = first + CHUNK;
float sum[V];
for (int j = 0; j < V; ++j) {
  sum[j] = 0.0f;
}
if (last <= N && sorted[first] == sorted[last - 1]) {
  for (int p = first; p < last; ++p) {
    const size_t row = size_t(order[p]) * D + d;
    for (int j = 0; j < V && d + j < D; ++j) {
      sum[j] += static_cast<float>(grad[row + j]);
    }
  }
}
for (int j = 0; j < V && d + j < D; ++j) {
  partial[size_t(chunk) * D + d + j] = sum[j];
}
