// Embedding, forward.
//   rows[n, d] = table[ids[n], d], 0 where ids[n] is no row of the table
//
// in   table [R, D] S    ids [N] int32
// out  rows  [N, D] T
// grid x: N * ceil(D / V) threads; thread = V neighbouring features, features fastest.
// template S, T; V features a thread (16 bytes of T)

const int R = table_shape[0];
const int D = table_shape[1];
const unsigned int N = ids_shape[0];
const unsigned int packs = (D + V - 1) / V;
const unsigned int at = blockIdx.x * blockDim.x + threadIdx.x;
const unsigned int n = at / packs;
if (n >= N) {
  return;
}
const int d = static_cast<int>(at % packs) * V;
const int count = D - d < V ? D - d : V;
const int id = ids[n];
EmbeddingPack<T, V> pack;
for (int j = 0; j < V; ++j) {
  pack.item[j] = static_cast<T>(0.0f);
}
if (id >= 0 && id < R) {
  const EmbeddingPack<S, V> found = elements_at<S, V>(
      table + static_cast<size_t>(id) * D + d, is_wide<S, V>(table, D), count);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    pack.item[j] = static_cast<T>(static_cast<float>(found.item[j]));
  }
}
T* target = rows + static_cast<size_t>(n) * D + d;
if (D % V == 0) {
  *reinterpret_cast<EmbeddingPack<T, V>*>(target) = pack;
} else {
  for (int j = 0; j < count; ++j) {
    target[j] = pack.item[j];
  }
}
