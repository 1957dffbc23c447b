// Masked mean, backward.
//   gfeatures[b, t, d] = gpooled[b, d] * scale[b] * mask[b, t]
//
// in   gpooled [B, D] T    mask [B, L] float32    scale [B] float32
// out  gfeatures [B, L, D] T
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sequence, ROWS tokens, tile of 32 * V features), tile fastest.
//      Lane = V neighbouring features, simdgroup = every SG-th of the ROWS tokens.
// template T; V features a lane; SG simdgroups a group; ROWS tokens a group

constexpr int TILE = 32 * V;
const int L = mask_shape[1];
const int D = gpooled_shape[1];
const int tiles = (D + TILE - 1) / TILE;
const int blocks = (L + ROWS - 1) / ROWS;
const int group = int(threadgroup_position_in_grid.x);
const int tile = group % tiles;
const int block = group / tiles % blocks;
const int b = group / tiles / blocks;
const int d = tile * TILE + int(thread_index_in_simdgroup) * V;

float g[V];
for (int j = 0; j < V; ++j) {
  g[j] = 0.0f;
  if (d + j < D) {
    g[j] = static_cast<float>(gpooled[size_t(b) * D + d + j]) * scale[b];
  }
}
const int last = metal::min(L, (block + 1) * ROWS);
for (int t = block * ROWS + int(simdgroup_index_in_threadgroup); t < last; t += SG) {
  const float m = mask[size_t(b) * L + t];
  const size_t at = (size_t(b) * L + t) * D + d;
  for (int j = 0; j < V; ++j) {
    if (d + j < D) {
      gfeatures[at + j] = static_cast<T>(m != 0.0f ? g[j] * m : 0.0f);
    }
  }
}
