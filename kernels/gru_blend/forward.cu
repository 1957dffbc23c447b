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
//      Lane = V neighbouring channels, warp = every SG-th of the ROWS rows.
// template T; V channels a lane (16 bytes); SG warps a group; ROWS rows a group

constexpr int TILE = 32 * V;
const int N = h_shape[0];
const int H = h_shape[1];
const int tiles = (H + TILE - 1) / TILE;
const int tile = static_cast<int>(blockIdx.x) % tiles;
const int first = static_cast<int>(blockIdx.x) / tiles * ROWS;
const int lane = static_cast<int>(threadIdx.x) % 32;
const int warp = static_cast<int>(threadIdx.x) / 32;
const int c = tile * TILE + lane * V;
if (c >= H) {
  return;
}
const int count = H - c;
// Inputs may start at any element, so the wide path asks for their addresses too.
const size_t addresses =
    reinterpret_cast<size_t>(h) | reinterpret_cast<size_t>(from_x) |
    reinterpret_cast<size_t>(from_h);
const bool wide_rows = H % V == 0;
const bool whole = wide_rows && addresses % (V * sizeof(T)) == 0;

float b_r[V], b_z[V], b_n[V], b_hidden[V];
read_gates<float, V>(b + c, H, count, false, b_r, b_z, b_n);
read_values<float, V>(bhn + c, count, false, b_hidden);

const int last = first + ROWS < N ? first + ROWS : N;
for (int row = first + warp; row < last; row += SG) {
  const size_t at = static_cast<size_t>(row) * H + c;
  const size_t gates = at + static_cast<size_t>(row) * 2 * H;
  float old[V], rx[V], zx[V], nx[V], rh[V], zh[V], nh[V], value[V];
  read_values<T, V>(h + at, count, whole, old);
  read_gates<T, V>(from_x + gates, H, count, whole, rx, zx, nx);
  read_gates<T, V>(from_h + gates, H, count, whole, rh, zh, nh);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const float r = gate_of(rx[j] + rh[j] + b_r[j]);
    const float z = gate_of(zx[j] + zh[j] + b_z[j]);
    const float n = tanhf(nx[j] + b_n[j] + r * (nh[j] + b_hidden[j]));
    value[j] = n + z * (old[j] - n);
  }
  write_values<T, V>(blended + at, count, wide_rows, value);
}
