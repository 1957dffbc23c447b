// GRU blend, forward.
//   r = sigmoid(r_x + r_h + b_r)    z = sigmoid(z_x + z_h + b_z)
//   n = tanh(n_x + b_n + r * (n_h + bhn))
//   blended = n + z * (h - n)
//
// in   h [N, H] T    r_x, z_x, n_x, r_h, z_h, n_h [N, H] T
//      b [3H] float32    bhn [H] float32
// out  blended [N, H] T
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (ROWS rows, tile of 32 * V channels), tile fastest.
//      Lane = V neighbouring channels, simdgroup = every SG-th of the ROWS rows.
// template T; V channels a lane; SG simdgroups a group; ROWS rows a group

constexpr int TILE = 32 * V;
const int N = h_shape[0];
const int H = h_shape[1];
const int tiles = (H + TILE - 1) / TILE;
const int group = int(threadgroup_position_in_grid.x);
const int first = group / tiles * ROWS;
const int c = group % tiles * TILE + int(thread_index_in_simdgroup) * V;

float b_r[V], b_z[V], b_n[V], b_hidden[V];
for (int j = 0; j < V; ++j) {
  if (c + j < H) {
    b_r[j] = b[c + j];
    b_z[j] = b[H + c + j];
    b_n[j] = b[2 * H + c + j];
    b_hidden[j] = bhn[c + j];
  }
}
const int last = metal::min(N, first + ROWS);
for (int row = first + int(simdgroup_index_in_threadgroup); row < last; row += SG) {
  for (int j = 0; j < V; ++j) {
    if (c + j < H) {
      const size_t at = size_t(row) * H + c + j;
      const float r =
          gate_of(static_cast<float>(r_x[at]) + static_cast<float>(r_h[at]) + b_r[j]);
      const float z =
          gate_of(static_cast<float>(z_x[at]) + static_cast<float>(z_h[at]) + b_z[j]);
      const float hidden = static_cast<float>(n_h[at]) + b_hidden[j];
      const float n =
          metal::precise::tanh(static_cast<float>(n_x[at]) + b_n[j] + r * hidden);
      blended[at] = static_cast<T>(n + z * (static_cast<float>(h[at]) - n));
    }
  }
}
