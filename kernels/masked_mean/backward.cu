// Masked mean, backward.
//   gfeatures[b, t, d] = gpooled[b, d] * scale[b] * mask[b, t]
//
// in   gpooled [B, D] T    mask [B, L] float32    scale [B] float32
// out  gfeatures [B, L, D] T
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sequence, ROWS tokens, tile of 32 * V features), tile fastest.
//      Lane = V neighbouring features, warp = every SG-th of the ROWS tokens.
// template T; V features a lane (16 bytes); SG warps a group; ROWS tokens a group

constexpr int TILE = 32 * V;
const int L = mask_shape[1];
const int D = gpooled_shape[1];
const int tiles = (D + TILE - 1) / TILE;
const int blocks = (L + ROWS - 1) / ROWS;
const int tile = static_cast<int>(blockIdx.x) % tiles;
const int block = static_cast<int>(blockIdx.x) / tiles % blocks;
const int b = static_cast<int>(blockIdx.x) / tiles / blocks;
const int lane = static_cast<int>(threadIdx.x) % 32;
const int warp = static_cast<int>(threadIdx.x) / 32;
const int d = tile * TILE + lane * V;
if (d >= D) {
  return;
}

const T* source = gpooled + static_cast<size_t>(b) * D + d;
float g[V];
for (int j = 0; j < V; ++j) {
  g[j] = d + j < D ? static_cast<float>(source[j]) * scale[b] : 0.0f;
}
const int last = (block + 1) * ROWS < L ? (block + 1) * ROWS : L;
for (int t = block * ROWS + warp; t < last; t += SG) {
  const float m = mask[static_cast<size_t>(b) * L + t];
  FeaturePack<T, V> pack;
#pragma unroll
  for (int j = 0; j < V; ++j) {
    pack.item[j] = static_cast<T>(m != 0.0f ? g[j] * m : 0.0f);
  }
  T* target = gfeatures + (static_cast<size_t>(b) * L + t) * D + d;
  if (D % V == 0) {
    *reinterpret_cast<FeaturePack<T, V>*>(target) = pack;
  } else {
    for (int j = 0; j < V && d + j < D; ++j) {
      target[j] = pack.item[j];
    }
  }
}
