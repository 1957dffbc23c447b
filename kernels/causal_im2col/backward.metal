// Gradient of the columns gathered back onto the samples (col2im).
//   gsamples[b, t, c] = sum_k gcolumns[b, t + (K - 1 - k) * DILATION, k, c]
//   over the taps whose time exists
//
// in   gcolumns [B, L, K * C] T, channel fastest
// out  gsamples [B, L, C] T; sums in float32, taps in rising order
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sequence, ROWS times, tile of 32 * V channels), tile fastest.
//      Lane = V neighbouring channels, simdgroup = every SG-th of the ROWS times.
// template T; V channels a lane; SG simdgroups a group; ROWS times a group;
//      K taps; DILATION

constexpr int TILE = 32 * V;
const int L = gcolumns_shape[1];
const int C = gcolumns_shape[2] / K;
const int tiles = (C + TILE - 1) / TILE;
const int blocks = (L + ROWS - 1) / ROWS;
const int group = int(threadgroup_position_in_grid.x);
const int tile = group % tiles;
const int block = group / tiles % blocks;
const int b = group / tiles / blocks;
const int c = tile * TILE + int(thread_index_in_simdgroup) * V;
const int owned = metal::min(V, C - c);  // not positive past the last channel

const int last = metal::min(L, (block + 1) * ROWS);
for (int t = block * ROWS + int(simdgroup_index_in_threadgroup); t < last; t += SG) {
  const size_t row = size_t(b) * L + t;
  float acc[V];
  for (int j = 0; j < V; ++j) {
    acc[j] = 0.0f;
  }
  for (int k = 0; k < K; ++k) {
    const int shift = (K - 1 - k) * DILATION;
    if (t + shift < L) {
      const size_t at = ((row + shift) * K + k) * C + c;
      for (int j = 0; j < owned; ++j) {
        acc[j] += static_cast<float>(gcolumns[at + j]);
      }
    }
  }
  for (int j = 0; j < owned; ++j) {
    gsamples[row * C + c + j] = static_cast<T>(acc[j]);
  }
}
