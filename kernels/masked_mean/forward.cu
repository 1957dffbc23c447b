// Masked mean, forward.
//   pooled[b, d] = scale[b] * sum_t mask[b, t] * features[b, t, d]
//   scale[b]     = 1 / max(1, sum_t mask[b, t])
// Tokens with mask 0 are not read.
//
// in   features [B, L, D] T        mask [B, L] float32
// out  pooled   [B, D]    T        scale [B]   float32
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sequence, tile of 32 * V features), tile fastest. Lane = V neighbouring
//      features, warp = every SG-th token; warps are summed in fixed order.
// template T; V features a lane (16 bytes); SG warps a group

constexpr int TILE = 32 * V;
constexpr int UNROLL = 2;
constexpr int ROUND = SG * UNROLL;  // tokens that all warps take at a time
__shared__ float partial[SG * TILE];
__shared__ float partial_count[SG];

const int L = features_shape[1];
const int D = features_shape[2];
const int tiles = (D + TILE - 1) / TILE;
const int tile = static_cast<int>(blockIdx.x) % tiles;
const int b = static_cast<int>(blockIdx.x) / tiles;
const int lane = static_cast<int>(threadIdx.x) % 32;
const int warp = static_cast<int>(threadIdx.x) / 32;
const int d = tile * TILE + lane * V;
const int last = d < D ? L : 0;  // lanes past the last feature add nothing
// Inputs may start at any element, so the wide path asks for their address too.
const bool whole =
    D % V == 0 && reinterpret_cast<size_t>(features) % (V * sizeof(T)) == 0;
const float* row_mask = mask + static_cast<size_t>(b) * L;
const T* rows = features + static_cast<size_t>(b) * L * D + d;

float acc[V];
for (int j = 0; j < V; ++j) {
  acc[j] = 0.0f;
}
float count = 0.0f;
if (whole) {
  // While one round is added, the tokens of the next and the mask of the one after it
  // are on their way from memory. Used at once, a load would wait for its own token.
  float m[UNROLL], next_m[UNROLL];
  FeaturePack<T, V> pack[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    const int t = warp + u * SG;
    m[u] = weight_at(row_mask, t, last);
    next_m[u] = weight_at(row_mask, t + ROUND, last);
    pack[u] = features_at<T, V>(rows, t, D, m[u]);
  }
  for (int start = warp; start < last; start += ROUND) {
    float later_m[UNROLL];
    FeaturePack<T, V> next[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const int t = start + ROUND + u * SG;
      next[u] = features_at<T, V>(rows, t, D, next_m[u]);
      later_m[u] = weight_at(row_mask, t + ROUND, last);
    }
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      count += m[u];
#pragma unroll
      for (int j = 0; j < V; ++j) {
        acc[j] += m[u] * static_cast<float>(pack[u].item[j]);
      }
      m[u] = next_m[u];
      next_m[u] = later_m[u];
      pack[u] = next[u];
    }
  }
} else {
  for (int t = warp; t < last; t += SG) {
    const float m = row_mask[t];
    count += m;
    if (m != 0.0f) {
      for (int j = 0; j < V && d + j < D; ++j) {
        acc[j] += m * static_cast<float>(rows[static_cast<size_t>(t) * D + j]);
      }
    }
  }
}

for (int j = 0; j < V; ++j) {
  partial[warp * TILE + lane * V + j] = acc[j];
}
if (lane == 0) {
  partial_count[warp] = count;
}
__syncthreads();

float tokens = 0.0f;
for (int s = 0; s < SG; ++s) {
  tokens += partial_count[s];
}
const float inverse = 1.0f / (tokens > 1.0f ? tokens : 1.0f);
for (int i = static_cast<int>(threadIdx.x); i < TILE; i += SG * 32) {
  float sum = 0.0f;
  for (int s = 0; s < SG; ++s) {
    sum += partial[s * TILE + i];
  }
  if (tile * TILE + i < D) {
    pooled[static_cast<size_t>(b) * D + tile * TILE + i] =
        static_cast<T>(sum * inverse);
  }
}
if (tile == 0 && threadIdx.x == 0) {
  scale[b] = inverse;
}
