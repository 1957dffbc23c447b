// Columns of a causal dilated convolution.
//   columns[b, t, k, c] = samples[b, t - (K - 1 - k) * DILATION, c], 0 before the start
//
// in   samples [B, L, C] T
// out  columns [B, L, K * C] T, channel fastest
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sequence, ROWS times, tile of 32 * V channels), tile fastest.
//      Lane = V neighbouring channels, warp = every SG-th of the ROWS times.
// A thread reads its sample once and writes it to the K columns that hold it; the
// zeros of column k at time t < shift are written by the thread of time t.
// template T; V channels a lane (16 bytes); SG warps a group; ROWS times a group, a
//      multiple of SG; K taps; DILATION

constexpr int TILE = 32 * V;
const int L = samples_shape[1];
const int C = samples_shape[2];
const int tiles = (C + TILE - 1) / TILE;
const int blocks = (L + ROWS - 1) / ROWS;
const int tile = static_cast<int>(blockIdx.x) % tiles;
const int block = static_cast<int>(blockIdx.x) / tiles % blocks;
const int b = static_cast<int>(blockIdx.x) / tiles / blocks;
const int lane = static_cast<int>(threadIdx.x) % 32;
const int warp = static_cast<int>(threadIdx.x) / 32;
const int c = tile * TILE + lane * V;
if (c >= C) {
  return;
}

// Outputs start aligned; inputs may start at any element.
const bool whole_out = C % V == 0;
const bool whole_in =
    whole_out && reinterpret_cast<size_t>(samples) % (V * sizeof(T)) == 0;
ChannelPack<T, V> zeros;
#pragma unroll
for (int j = 0; j < V; ++j) {
  zeros.item[j] = static_cast<T>(0.0f);
}
// All samples are asked for before the first is used.
constexpr int UNROLL = ROWS / SG;
const int start = block * ROWS + warp;
ChannelPack<T, V> pack[UNROLL];
#pragma unroll
for (int u = 0; u < UNROLL; ++u) {
  const int t = start + u * SG;
  if (t < L) {
    const T* at = samples + (static_cast<size_t>(b) * L + t) * C + c;
    pack[u] = load_channels<T, V>(at, whole_in, C - c);
  }
}
#pragma unroll
for (int u = 0; u < UNROLL; ++u) {
  const int t = start + u * SG;
  if (t < L) {
    const size_t row = static_cast<size_t>(b) * L + t;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int shift = (K - 1 - k) * DILATION;
      if (t + shift < L) {
        T* at = columns + ((row + shift) * K + k) * C + c;
        store_channels<T, V>(at, pack[u], whole_out, C - c);
      }
      if (t < shift) {
        T* at = columns + (row * K + k) * C + c;
        store_channels<T, V>(at, zeros, whole_out, C - c);
      }
    }
  }
}
