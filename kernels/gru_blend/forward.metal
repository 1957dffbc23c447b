// GRU blend, forward.
//   r = sigmoid(x_r + h_r + b_r)    z = sigmoid(x_z + h_z + b_z)
//   n = tanh(x_n + b_n + r * (h_n + bhn))
//   blended = n + z * (h - n)
//
// in   h [N, H] T    from_x, from_h [N, 3H] T, gates r, z, n side by side
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
      const size_t at_r = at + size_t(row) * 2 * H;
      const size_t at_z = at_r + H;
      const size_t at_n = at_z + H;
      const float r = gate_of(
          static_cast<float>(from_x[at_r]) + static_cast<float>(from_h[at_r]) + b_r[j]);
      const float z = gate_of(
          static_cast<float>(from_x[at_z]) + static_cast<float>(from_h[at_z]) + b_z[j]);
      const float hidden = static_cast<float>(from_h[at_n]) + b_hidden[j];
      const float n =
          metal::precise::tanh(static_cast<float>(from_x[at_n]) + b_n[j] + r * hidden);
      blended[at] = static_cast<T>(n + z * (static_cast<float>(h[at]) - n));
    }
  }
}
