// Lattice scatter, forward.
//   surface[b, s, c] = sum over the flows f of slice s of share(f, c) * weight * energy
// `share` is 1 for the flow's cell (nearest) or its share of the four cells around it
// (bilinear). Flows with a NaN coordinate are dropped.
//
// in   position [B, F, P] floats, x and y first    energy [B, F]    weight [B, F]
// out  surface [B, SLICES, HEIGHT * WIDTH] T; sums in float32
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sample, slice of the flows, tile of TILE cells), tile fastest.
// Every simdgroup adds its flows, 32 at a time, to its own copy of the tile. Of the
// flows of one round that share a cell the first lane adds all, in lane order, so no
// two lanes write one address and equal input gives equal bits.
// template T; HEIGHT; WIDTH; BILINEAR; SG simdgroups; TILE cells; SLICES

constexpr int CORNERS = BILINEAR ? 4 : 1;
constexpr int CELLS = HEIGHT * WIDTH;
constexpr int TILES = (CELLS + TILE - 1) / TILE;
threadgroup float sums[SG * TILE];
threadgroup int staged_cell[SG * 32];
threadgroup float staged_value[SG * 32];
threadgroup float staged_fx[SG * 32];
threadgroup float staged_fy[SG * 32];

const int F = energy_shape[1];
const int P = position_shape[2];
const int group = int(threadgroup_position_in_grid.x);
const int tile = group % TILES;
const int slice = group / TILES % SLICES;
const int b = group / TILES / SLICES;
const int tid = int(thread_position_in_threadgroup.x);
const int own = tid / 32 * 32;  // first staged flow of this simdgroup
const int first = tile * TILE;
const int last = first + TILE < CELLS ? first + TILE : CELLS;
const int per_slice = (F + SLICES - 1) / SLICES;
const int begin = slice * per_slice;
const int end = begin + per_slice < F ? begin + per_slice : F;
const int copy = tid / 32 * TILE - first;  // this simdgroup's copy of the tile

for (int i = tid; i < SG * TILE; i += SG * 32) {
  sums[i] = 0.0f;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// The next round's flow is asked for while this round's is being added.
int f = begin + tid;
float x = 0.0f, y = 0.0f, value = 0.0f;
if (f < end) {
  const size_t at = size_t(b) * F + f;
  x = static_cast<float>(position[at * P]);
  y = static_cast<float>(position[at * P + 1]);
  value = static_cast<float>(energy[at]) * static_cast<float>(weight[at]);
}
for (int start = begin; start < end; start += SG * 32) {
  Placement place = {-1, 0.0f, 0.0f, 0.0f, 0.0f};
  if (f < end) {
    place = place_flow(x, y, HEIGHT, WIDTH, BILINEAR);
    const int furthest = corner_cell(CORNERS - 1, place.cell, HEIGHT, WIDTH);
    if (place.cell >= last || furthest < first) {
      place.cell = -1;
    }
  }
  staged_cell[tid] = place.cell;
  staged_value[tid] = value;
  staged_fx[tid] = place.fx;
  staged_fy[tid] = place.fy;
  f += SG * 32;
  if (f < end) {
    const size_t at = size_t(b) * F + f;
    x = static_cast<float>(position[at * P]);
    y = static_cast<float>(position[at * P + 1]);
    value = static_cast<float>(energy[at]) * static_cast<float>(weight[at]);
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);

  uint peers = 0;
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    peers |= staged_cell[own + j] == place.cell ? 1u << j : 0u;
  }
  const bool leads = place.cell >= 0 && (peers & ((1u << (tid % 32)) - 1u)) == 0;
  float sum[CORNERS];
#pragma unroll
  for (int k = 0; k < CORNERS; ++k) {
    sum[k] = 0.0f;
  }
  if (leads) {
    for (uint rest = peers; rest != 0; rest &= rest - 1u) {
      const int j = own + int(metal::ctz(rest));
#pragma unroll
      for (int k = 0; k < CORNERS; ++k) {
        const float part =
            BILINEAR ? corner_share(k, staged_fx[j], staged_fy[j]) : 1.0f;
        sum[k] += part * staged_value[j];
      }
    }
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  // Different leaders have different cells, so each corner in turn is free of
  // conflicts.
#pragma unroll
  for (int k = 0; k < CORNERS; ++k) {
    const int cell = corner_cell(k, place.cell, HEIGHT, WIDTH);
    if (leads && cell >= first && cell < last) {
      sums[copy + cell] += sum[k];
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

for (int i = tid; i < last - first; i += SG * 32) {
  float total = 0.0f;
  for (int s = 0; s < SG; ++s) {
    total += sums[s * TILE + i];
  }
  const size_t at = (size_t(b) * SLICES + slice) * CELLS + first + i;
  surface[at] = static_cast<T>(total);
}
