// Masked mean, forward.
//   pooled[b, d] = scale[b] * sum_t mask[b, t] * features[b, t, d]
//   scale[b]     = 1 / max(1, sum_t mask[b, t])
// Tokens with mask 0 are not read.
//
// in   features [B, L, D] T        mask [B, L] float32
// out  pooled   [B, D]    T        scale [B]   float32
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sequence, tile of 32 * V features), tile fastest. Lane = V neighbouring
//      features, simdgroup = every SG-th token; simdgroups are summed in fixed order.
// template T; V features a lane; SG simdgroups a group

constexpr int TILE = 32 * V;
threadgroup float partial[SG * TILE];
threadgroup float partial_count[SG];

const int L = features_shape[1];
const int D = features_shape[2];
const int tiles = (D + TILE - 1) / TILE;
const int tile = int(threadgroup_position_in_grid.x) % tiles;
const int b = int(threadgroup_position_in_grid.x) / tiles;
const int lane = int(thread_index_in_simdgroup);
const int sg = int(simdgroup_index_in_threadgroup);
const int d = tile * TILE + lane * V;
const bool whole = d + V <= D;

float acc[V];
for (int j = 0; j < V; ++j) {
  acc[j] = 0.0f;
}
float count = 0.0f;
for (int t = sg; t < L; t += SG) {
  const float m = mask[size_t(b) * L + t];
  count += m;
  if (m == 0.0f) {
    continue;
  }
  const size_t at = (size_t(b) * L + t) * D + d;
  if (whole) {
    for (int j = 0; j < V; ++j) {
      acc[j] += m * static_cast<float>(features[at + j]);
    }
  } else {
    for (int j = 0; j < V && d + j < D; ++j) {
      acc[j] += m * static_cast<float>(features[at + j]);
    }
  }
}

for (int j = 0; j < V; ++j) {
  partial[sg * TILE + lane * V + j] = acc[j];
}
if (lane == 0) {
  partial_count[sg] = count;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

float tokens = 0.0f;
for (int s = 0; s < SG; ++s) {
  tokens += partial_count[s];
}
const float inverse = 1.0f / metal::max(tokens, 1.0f);
for (int i = sg * 32 + lane; i < TILE; i += SG * 32) {
  float sum = 0.0f;
  for (int s = 0; s < SG; ++s) {
    sum += partial[s * TILE + i];
  }
  if (tile * TILE + i < D) {
    pooled[size_t(b) * D + tile * TILE + i] = static_cast<T>(sum * inverse);
  }
}
if (tile == 0 && sg == 0 && lane == 0) {
  scale[b] = inverse;
}
