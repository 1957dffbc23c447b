// Embedding, second half of the gradient.
//   gtable[r, d] = sum of grad[order[p], d] over starts[r] <= p < starts[r + 1]
// Whole chunks come from `partial`; the order of the sum is fixed: positions before the
// first chunk, chunks, positions after the last.
//
// in   grad [N, D] T    order [N] uint32    starts [R + 1] int32
//      partial [ceil(N / CHUNK), D] float32
// out  gtable [R, D] S; sums in float32
// grid x: R * ceil(D / V) threads; thread = V neighbouring features, features fastest.
// template S, T; CHUNK positions; V features a thread (16 bytes of T)

const int D = grad_shape[1];
const int R = starts_shape[0] - 1;
const unsigned int packs = (D + V - 1) / V;
const unsigned int at = blockIdx.x * blockDim.x + threadIdx.x;
const int r = static_cast<int>(at / packs);
if (r >= R) {
  return;
}
const int d = static_cast<int>(at % packs) * V;
const int count = D - d < V ? D - d : V;
const bool wide = is_wide<T, V>(grad, D);
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
add_positions<T, V>(sum, grad, order, first, head, D, d, wide, count);
if (chunk < end) {
  add_chunks<V>(sum, partial, chunk, end, D, d, count);
  add_positions<T, V>(sum, grad, order, end * CHUNK, last, D, d, wide, count);
}
S* target = gtable + static_cast<size_t>(r) * D + d;
EmbeddingPack<S, V> pack;
#pragma unroll
for (int j = 0; j < V; ++j) {
  pack.item[j] = static_cast<S>(sum[j]);
}
if (D % V == 0) {
  *reinterpret_cast<EmbeddingPack<S, V>*>(target) = pack;
} else {
  for (int j = 0; j < count; ++j) {
    target[j] = pack.item[j];
  }
}
