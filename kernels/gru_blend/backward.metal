// GRU blend, backward.
//   d_n      = g * (1 - z) * (1 - n * n)           before the tanh
//   d_r      = d_n * (h_n + bhn) * r * (1 - r)     before the sigmoid
//   d_z      = g * (h - n) * z * (1 - z)           before the sigmoid
//   d_hidden = d_n * r                             of h_n + bhn
//   d_h      = g * z
// with the gates of the forward kernel, computed again, and the sums of d_r, d_z, d_n
// and d_hidden over the rows of each group, which the caller adds up.
//
// in   g, h [N, H] T    from_x, from_h [N, 3H] T, gates r, z, n side by side
//      b [3H] float32    bhn [H] float32
// out  d_h [N, H] T    d_x [N, 3H] T, d_r, d_z, d_n side by side
//      d_y [N, 3H] T, d_r, d_z, d_hidden    partial [blocks of rows, 4, H] float32
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (ROWS rows, tile of 32 * V channels), tile fastest.
//      Lane = V neighbouring channels, simdgroup = every SG-th of the ROWS rows;
//      simdgroups are summed in fixed order.
// template T; V channels a lane; SG simdgroups a group; ROWS rows a group

constexpr int TILE = 32 * V;
threadgroup float sums[SG * 4 * TILE];

const int N = h_shape[0];
const int H = h_shape[1];
const int tiles = (H + TILE - 1) / TILE;
const int tile = int(threadgroup_position_in_grid.x) % tiles;
const int block = int(threadgroup_position_in_grid.x) / tiles;
const int lane = int(thread_index_in_simdgroup);
const int sg = int(simdgroup_index_in_threadgroup);
const int c = tile * TILE + lane * V;
const int last = metal::min(N, (block + 1) * ROWS);

for (int j = 0; j < V; ++j) {
  float sum_r = 0.0f;
  float sum_z = 0.0f;
  float sum_n = 0.0f;
  float sum_hidden = 0.0f;
  if (c + j < H) {
    const float b_r = b[c + j];
    const float b_z = b[H + c + j];
    const float b_n = b[2 * H + c + j];
    const float b_hidden = bhn[c + j];
    for (int row = block * ROWS + sg; row < last; row += SG) {
      const size_t at = size_t(row) * H + c + j;
      const float up = static_cast<float>(g[at]);
      const size_t at_r = at + size_t(row) * 2 * H;
      const size_t at_z = at_r + H;
      const size_t at_n = at_z + H;
      const float r = gate_of(
          static_cast<float>(from_x[at_r]) + static_cast<float>(from_h[at_r]) + b_r);
      const float z = gate_of(
          static_cast<float>(from_x[at_z]) + static_cast<float>(from_h[at_z]) + b_z);
      const float hidden = static_cast<float>(from_h[at_n]) + b_hidden;
      const float n =
          metal::precise::tanh(static_cast<float>(from_x[at_n]) + b_n + r * hidden);
      const float gn = up * (1.0f - z) * (1.0f - n * n);
      const float gr = gn * hidden * (r * (1.0f - r));
      const float gz = up * (static_cast<float>(h[at]) - n) * (z * (1.0f - z));
      d_h[at] = static_cast<T>(up * z);
      d_x[at_r] = d_y[at_r] = static_cast<T>(gr);
      d_x[at_z] = d_y[at_z] = static_cast<T>(gz);
      d_x[at_n] = static_cast<T>(gn);
      d_y[at_n] = static_cast<T>(gn * r);
      sum_r += gr;
      sum_z += gz;
      sum_n += gn;
      sum_hidden += gn * r;
    }
  }
  const int own = sg * 4 * TILE + lane * V + j;
  sums[own] = sum_r;
  sums[own + TILE] = sum_z;
  sums[own + 2 * TILE] = sum_n;
  sums[own + 3 * TILE] = sum_hidden;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

for (int i = sg * 32 + lane; i < 4 * TILE; i += SG * 32) {
  float sum = 0.0f;
  for (int s = 0; s < SG; ++s) {
    sum += sums[s * 4 * TILE + i];
  }
  const int channel = tile * TILE + i % TILE;
  if (channel < H) {
    partial[(size_t(block) * 4 + i / TILE) * H + channel] = sum;
  }
}
