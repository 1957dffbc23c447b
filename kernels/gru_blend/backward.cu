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
//      Lane = V neighbouring channels, warp = every SG-th of the ROWS rows; warps are
//      summed in fixed order.
// template T; V channels a lane (16 bytes); SG warps a group; ROWS rows a group

constexpr int TILE = 32 * V;
__shared__ float sums[SG * 4 * TILE];

const int N = h_shape[0];
const int H = h_shape[1];
const int tiles = (H + TILE - 1) / TILE;
const int tile = static_cast<int>(blockIdx.x) % tiles;
const int block = static_cast<int>(blockIdx.x) / tiles;
const int lane = static_cast<int>(threadIdx.x) % 32;
const int warp = static_cast<int>(threadIdx.x) / 32;
const int c = tile * TILE + lane * V;
const int count = H - c;
// Inputs may start at any element, so the wide path asks for their addresses too.
const size_t addresses =
    reinterpret_cast<size_t>(g) | reinterpret_cast<size_t>(h) |
    reinterpret_cast<size_t>(from_x) | reinterpret_cast<size_t>(from_h);
const bool wide_rows = H % V == 0;
const bool whole = wide_rows && addresses % (V * sizeof(T)) == 0;

float sum_r[V], sum_z[V], sum_n[V], sum_hidden[V];
for (int j = 0; j < V; ++j) {
  sum_r[j] = sum_z[j] = sum_n[j] = sum_hidden[j] = 0.0f;
}
if (count > 0) {
  float b_r[V], b_z[V], b_n[V], b_hidden[V];
  read_gates<float, V>(b + c, H, count, false, b_r, b_z, b_n);
  read_values<float, V>(bhn + c, count, false, b_hidden);
  const int last = (block + 1) * ROWS < N ? (block + 1) * ROWS : N;
  for (int row = block * ROWS + warp; row < last; row += SG) {
    const size_t at = static_cast<size_t>(row) * H + c;
    const size_t gates = at + static_cast<size_t>(row) * 2 * H;
    // Each sum's array becomes the array of its gradient.
    float up[V], old[V], rx[V], zx[V], nx[V], rh[V], zh[V], nh[V];
    read_values<T, V>(g + at, count, whole, up);
    read_values<T, V>(h + at, count, whole, old);
    read_gates<T, V>(from_x + gates, H, count, whole, rx, zx, nx);
    read_gates<T, V>(from_h + gates, H, count, whole, rh, zh, nh);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float hidden = nh[j] + b_hidden[j];
      const float r = gate_of(rx[j] + rh[j] + b_r[j]);
      const float z = gate_of(zx[j] + zh[j] + b_z[j]);
      const float n = tanhf(nx[j] + b_n[j] + r * hidden);
      nx[j] = up[j] * (1.0f - z) * (1.0f - n * n);
      rx[j] = nx[j] * hidden * (r * (1.0f - r));
      zx[j] = up[j] * (old[j] - n) * (z * (1.0f - z));
      nh[j] = nx[j] * r;
      old[j] = up[j] * z;
      sum_r[j] += rx[j];
      sum_z[j] += zx[j];
      sum_n[j] += nx[j];
      sum_hidden[j] += nh[j];
    }
    write_values<T, V>(d_h + at, count, wide_rows, old);
    write_gates<T, V>(d_x + gates, H, count, wide_rows, rx, zx, nx);
    write_gates<T, V>(d_y + gates, H, count, wide_rows, rx, zx, nh);
  }
}

float* own = sums + warp * 4 * TILE + lane * V;
for (int j = 0; j < V; ++j) {
  own[j] = sum_r[j];
  own[TILE + j] = sum_z[j];
  own[2 * TILE + j] = sum_n[j];
  own[3 * TILE + j] = sum_hidden[j];
}
__syncthreads();

for (int i = static_cast<int>(threadIdx.x); i < 4 * TILE; i += SG * 32) {
  float sum = 0.0f;
  for (int s = 0; s < SG; ++s) {
    sum += sums[s * 4 * TILE + i];
  }
  const int channel = tile * TILE + i % TILE;
  if (channel < H) {
    partial[(static_cast<size_t>(block) * 4 + i / TILE) * H + channel] = sum;
  }
}
