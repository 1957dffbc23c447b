// Gradient of the columns gathered back onto the samples (col2im).
//   gsamples[b, t, c] = sum_k gcolumns[b, t + (K - 1 - k) * DILATION, k, c]
//   over the taps whose time exists
//
// in   gcolumns [B, L, K * C] T, channel fastest
// out  gsamples [B, L, C] T; sums in float32, taps in rising order
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sequence, ROWS times, tile of 32 * V channels), tile fastest.
//      Lane = V neighbouring channels, warp = every SG-th of the ROWS times.
// template T; V channels a lane (16 bytes); SG warps a group; ROWS times a group, a
//      multiple of SG; K taps; DILATION

constexpr int TILE = 32 * V;
const int L = gcolumns_shape[1];
const int C = gcolumns_shape[2] / K;
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
    whole_out && reinterpret_cast<size_t>(gcolumns) % (V * sizeof(T)) == 0;
constexpr int UNROLL = ROWS / SG;
const int start = block * ROWS + warp;
float acc[UNROLL][V];
#pragma unroll
for (int u = 0; u < UNROLL; ++u) {
#pragma unroll
  for (int j = 0; j < V; ++j) {
    acc[u][j] = 0.0f;
  }
}
#pragma unroll
for (int k = 0; k < K; ++k) {
  // One tap of all rows is asked for before the first is used.
  ChannelPack<T, V> pack[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    const int source = start + u * SG + (K - 1 - k) * DILATION;
    if (source < L) {
      const T* at = gcolumns + ((static_cast<size_t>(b) * L + source) * K + k) * C + c;
      pack[u] = load_channels<T, V>(at, whole_in, C - c);
    }
  }
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    if (start + u * SG + (K - 1 - k) * DILATION < L) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        acc[u][j] += static_cast<float>(pack[u].item[j]);
      }
    }
  }
}
#pragma unroll
for (int u = 0; u < UNROLL; ++u) {
  const int t = start + u * SG;
  if (t < L) {
    ChannelPack<T, V> sum;
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sum.item[j] = static_cast<T>(acc[u][j]);
    }
    T* at = gsamples + (static_cast<size_t>(b) * L + t) * C + c;
    store_channels<T, V>(at, sum, whole_out, C - c);
  }
}
