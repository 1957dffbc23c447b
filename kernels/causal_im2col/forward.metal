// Columns of a causal dilated convolution.
//   columns[b, t, k, c] = samples[b, t - (K - 1 - k) * DILATION, c], 0 before the start
//
// in   samples [B, L, C] T
// out  columns [B, L, K * C] T, channel fastest
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sequence, ROWS times, tile of 32 * V channels), tile fastest.
//      Lane = V neighbouring channels, simdgroup = every SG-th of the ROWS times.
// A thread reads its sample once and writes it to the K columns that hold it; the
// zeros of column k at time t < shift are written by the thread of time t.
// template T; V channels a lane; SG simdgroups a group; ROWS times a group;
//      K taps; DILATION

constexpr int TILE = 32 * V;
const int L = samples_shape[1];
const int C = samples_shape[2];
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
  T sample[V];
  for (int j = 0; j < owned; ++j) {
    sample[j] = samples[row * C + c + j];
  }
  for (int k = 0; k < K; ++k) {
    const int shift = (K - 1 - k) * DILATION;
    if (t + shift < L) {
      const size_t at = ((row + shift) * K + k) * C + c;
      for (int j = 0; j < owned; ++j) {
        columns[at + j] = sample[j];
      }
    }
    if (t < shift) {
      const size_t at = (row * K + k) * C + c;
      for (int j = 0; j < owned; ++j) {
        columns[at + j] = T(0.0f);
      }
    }
  }
}
