// Embedding, second half of the gradient.
//   gtable[r, d] = sum of grad[order[p], d] over starts[r] <= p < starts[r + 1]
// Whole chunks come from `partial`; the order of the sum is fixed: positions before the
// first chunk, chunks, positions after the last.
//
// in   grad [N, D] T    order [N] uint32    starts [R + 1] int32
//      partial [ceil(N / CHUNK), D] float32
// out  gtable [R, D] S; sums in float32
// grid x: R * ceil(D / V) threads; thread = V neighbouring features, features fastest.
// template S, T; CHUNK positions; V features a thread

const int D = grad_shape[1];
const int R = starts_shape[0] - 1;
const uint packs = uint((D + V - 1) / V);
const int r = int(thread_position_in_grid.x / packs);
if (r >= R) {
  return;
}
const int d = int(thread_position_in_grid.x % packs) * V;
const int first = starts[r];
const int last = starts[r + 1];
// Chunks that lie in the segment as a whole; none where the two limits cross.
const int chunk = (first + CHUNK - 1) / CHUNK;
const int end = last / CHUNK;
const int head = chunk < end ? chunk * CHUNK : last;
float sum[V];
for (int j = 0; j < V; ++j) {
  sum[j] = 0.0f;
}
for (int p = first; p < head; ++p) {
  const size_t row = size_t(order[p]) * D + d;
  for (int j = 0; j < V && d + j < D; ++j) {
    sum[j] += static_cast<float>(grad[row + j]);
  }
}
if (chunk < end) {
  for (int c = chunk; c < end; ++c) {
    for (int j = 0; j < V && d + j < D; ++j) {
      sum[j] += partial[size_t(c) * D + d + j];
    }
  }
  for (int p = end * CHUNK; p < last; ++p) {
    const size_t row = size_t(order[p]) * D + d;
    for (int j = 0; j < V && d + j < D; ++j) {
      sum[j] += static_cast<float>(grad[row + j]);
    }
  }
}
for (int j = 0; j < V && d + j < D; ++j) {
  gtable[size_t(r) * D + d + j] = static_cast<S>(sum[j]);
}
