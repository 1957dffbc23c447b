// Embedding, forward.
//   rows[n, d] = table[ids[n], d], 0 where ids[n] is no row of the table
//
// in   table [R, D] S    ids [N] int32
// out  rows  [N, D] T
// grid x: N * ceil(D / V) threads; thread = V neighbouring features, features fastest.
// template S, T; V features a thread

const int R = table_shape[0];
const int D = table_shape[1];
const uint N = uint(ids_shape[0]);
const uint packs = uint((D + V - 1) / V);
const uint n = thread_position_in_grid.x / packs;
if (n >= N) {
  return;
}
const int d = int(thread_position_in_grid.x % packs) * V;
const int id = ids[n];
const bool inside = id >= 0 && id < R;
for (int j = 0; j < V && d + j < D; ++j) {
  float value = 0.0f;
  if (inside) {
    value = static_cast<float>(table[size_t(id) * D + d + j]);
  }
  rows[size_t(n) * D + d + j] = static_cast<T>(value);
}
