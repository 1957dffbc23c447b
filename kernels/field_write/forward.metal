// Field write, forward.
//   field[b, s, c] = sum over the flows f of slice s of share(f, c) * value[f]
// `share` is a flow's share of the eight cells around it. Flows that are not alive or
// have a NaN coordinate are dropped.
//
// in   position [B, F, 3]    value [B, F, C]; any float types    alive [B, F] bool
// out  field [B, SLICES, N, N, N, C] T; sums in float32
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sample, slice of the flows, tile of TILE cells, pack of V channels), pack
//      fastest.
// Every simdgroup adds its flows, 32 at a time, to its own copy of the tile. Of the
// flows of one round that share a cell the first lane adds all, in lane order, so no
// two lanes write one address and equal input gives equal bits.
// template T; N cells an axis; V channels; SG simdgroups; TILE cells; SLICES

constexpr int CELLS = N * N * N;
constexpr int TILES = (CELLS + TILE - 1) / TILE;
threadgroup float sums[SG * TILE * V];
threadgroup int staged_cell[SG * 32];
threadgroup float staged_fx[SG * 32];
threadgroup float staged_fy[SG * 32];
threadgroup float staged_fz[SG * 32];
threadgroup float staged_value[SG * 32 * V];

const int F = value_shape[1];
const int C = value_shape[2];
const int packs = (C + V - 1) / V;
const int group = int(threadgroup_position_in_grid.x);
const int channel = group % packs * V;
const int tile = group / packs % TILES;
const int slice = group / packs / TILES % SLICES;
const int b = group / packs / TILES / SLICES;
const int tid = int(thread_position_in_threadgroup.x);
const int own = tid / 32 * 32;  // first staged flow of this simdgroup
const int first = tile * TILE;
const int last = first + TILE < CELLS ? first + TILE : CELLS;
const int per_slice = (F + SLICES - 1) / SLICES;
const int begin = slice * per_slice;
const int end = begin + per_slice < F ? begin + per_slice : F;
const int copy = tid / 32 * TILE - first;  // this simdgroup's copy of the tile

for (int i = tid; i < SG * TILE * V; i += SG * 32) {
  sums[i] = 0.0f;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

for (int start = begin; start < end; start += SG * 32) {
  CubePlacement place = {-1, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  const int f = start + tid;
  if (f < end) {
    const size_t at = size_t(b) * F + f;
    if (alive[at]) {
      const float x = static_cast<float>(position[at * 3]);
      const float y = static_cast<float>(position[at * 3 + 1]);
      const float z = static_cast<float>(position[at * 3 + 2]);
      place = place_in_cube(x, y, z, N);
    }
    if (place.cell >= last || cube_cell(7, place.cell, N) < first) {
      place.cell = -1;
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const bool has_channel = place.cell >= 0 && channel + v < C;
      staged_value[tid * V + v] =
          has_channel ? static_cast<float>(value[at * C + channel + v]) : 0.0f;
    }
  }
  staged_cell[tid] = place.cell;
  staged_fx[tid] = place.fx;
  staged_fy[tid] = place.fy;
  staged_fz[tid] = place.fz;
  simdgroup_barrier(mem_flags::mem_threadgroup);

  uint peers = 0;
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    peers |= staged_cell[own + j] == place.cell ? 1u << j : 0u;
  }
  const bool leads = place.cell >= 0 && (peers & ((1u << (tid % 32)) - 1u)) == 0;
  float sum[8 * V];
#pragma unroll
  for (int i = 0; i < 8 * V; ++i) {
    sum[i] = 0.0f;
  }
  if (leads) {
    for (uint rest = peers; rest != 0; rest &= rest - 1u) {
      const int j = own + int(metal::ctz(rest));
      place.fx = staged_fx[j];
      place.fy = staged_fy[j];
      place.fz = staged_fz[j];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float part = cube_share(k, place);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          sum[k * V + v] += part * staged_value[j * V + v];
        }
      }
    }
  }
  // Different leaders have different cells, so each corner in turn is free of
  // conflicts.
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int cell = cube_cell(k, place.cell, N);
    if (leads && cell >= first && cell < last) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sums[(copy + cell) * V + v] += sum[k * V + v];
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

for (int i = tid; i < (last - first) * V; i += SG * 32) {
  float total = 0.0f;
  for (int s = 0; s < SG; ++s) {
    total += sums[s * TILE * V + i];
  }
  const size_t cell = (size_t(b) * SLICES + slice) * CELLS + first + i / V;
  const int c = channel + i % V;
  if (c < C) {
    field[cell * C + c] = static_cast<T>(total);
  }
}
