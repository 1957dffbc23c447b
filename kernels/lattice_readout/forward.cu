// Lattice readout, forward: softmax average of the flows that share a cell.
//   p        = exp(min(score - top[c], 0)),  top[c] = max of the scores that reach c
//   weighted = sum share * p * energy,  total = sum share * p,  mass = sum share
//   cover    = mass * (2 - mass) + 2 * EPSILON  if mass < 1, else 1
//   surface  = weighted * cover / (total + EPSILON)
// Flows with a NaN coordinate or a score of minus infinity are dropped.
//
// in   position [B, F, P] floats, x and y first    energy [B, F]    score [B, F]
// out  surface [B, HEIGHT * WIDTH] T; sums in float32
//      stats [B, HEIGHT * WIDTH, 4] float32, for the backward pass:
//      top, rate = cover / (total + EPSILON), mean = weighted / (total + EPSILON),
//      slope = mean * d(cover)/d(mass); top is minus infinity where no flow came
// grid x: groups * SG * 32 threads; one group of SG * 32 threads per
//      (sample, tile of TILE cells), tile fastest.
// The maximum is order-free. The sums are made as in the scatter: every warp
// has its own copy of the tile, and of flows that share a cell the first lane adds
// all, in lane order.
// template T; HEIGHT; WIDTH; BILINEAR; SG warps; TILE cells

constexpr float EPSILON = 1e-12f;
constexpr int CORNERS = BILINEAR ? 4 : 1;
constexpr int CELLS = HEIGHT * WIDTH;
constexpr int TILES = (CELLS + TILE - 1) / TILE;
constexpr int COPY = SG * TILE;
__shared__ unsigned int top[TILE];
__shared__ float weighted[COPY];
__shared__ float total[COPY];
__shared__ float mass[BILINEAR ? COPY : 1];  // a nearest flow always fills its cell
__shared__ int staged_cell[SG * 32];
__shared__ float staged_score[SG * 32];
__shared__ float staged_energy[SG * 32];
__shared__ float staged_fx[SG * 32];
__shared__ float staged_fy[SG * 32];

const int F = energy_shape[1];
const int P = position_shape[2];
const int tile = static_cast<int>(blockIdx.x) % TILES;
const int b = static_cast<int>(blockIdx.x) / TILES;
const int tid = static_cast<int>(threadIdx.x);
const int own = tid / 32 * 32;  // first staged flow of this warp
const int first = tile * TILE;
const int last = first + TILE < CELLS ? first + TILE : CELLS;
const int copy = tid / 32 * TILE - first;  // this warp's copy of the tile

for (int i = tid; i < TILE; i += SG * 32) {
  top[i] = 0u;
}
for (int i = tid; i < COPY; i += SG * 32) {
  weighted[i] = 0.0f;
  total[i] = 0.0f;
  if (BILINEAR) {
    mass[i] = 0.0f;
  }
}
__syncthreads();

for (int i = tid; i < F; i += SG * 32) {
  const size_t at = static_cast<size_t>(b) * F + i;
  const float x = static_cast<float>(position[at * P]);
  const float y = static_cast<float>(position[at * P + 1]);
  const float q = static_cast<float>(score[at]);
  const Placement place = place_flow(x, y, HEIGHT, WIDTH, BILINEAR);
  if (place.cell < 0 || q == minus_infinity()) {
    continue;
  }
#pragma unroll
  for (int k = 0; k < CORNERS; ++k) {
    const int cell = corner_cell(k, place.cell, HEIGHT, WIDTH);
    const float part = BILINEAR ? corner_share(k, place.fx, place.fy) : 1.0f;
    if (part > 0.0f && cell >= first && cell < last) {
      atomicMax(&top[cell - first], ordered_bits(q));
    }
  }
}
__syncthreads();

// The next round's flow is asked for while this round's is being added.
int f = tid;
float x = 0.0f, y = 0.0f, q = 0.0f, e = 0.0f;
if (f < F) {
  const size_t at = static_cast<size_t>(b) * F + f;
  x = static_cast<float>(position[at * P]);
  y = static_cast<float>(position[at * P + 1]);
  q = static_cast<float>(score[at]);
  e = static_cast<float>(energy[at]);
}
for (int start = 0; start < F; start += SG * 32) {
  Placement place = {-1, 0.0f, 0.0f, 0.0f, 0.0f};
  if (f < F) {
    place = place_flow(x, y, HEIGHT, WIDTH, BILINEAR);
    const int furthest = corner_cell(CORNERS - 1, place.cell, HEIGHT, WIDTH);
    if (place.cell >= last || furthest < first || q == minus_infinity()) {
      place.cell = -1;
    }
  }
  staged_cell[tid] = place.cell;
  staged_score[tid] = q;
  staged_energy[tid] = e;
  staged_fx[tid] = place.fx;
  staged_fy[tid] = place.fy;
  f += SG * 32;
  if (f < F) {
    const size_t at = static_cast<size_t>(b) * F + f;
    x = static_cast<float>(position[at * P]);
    y = static_cast<float>(position[at * P + 1]);
    q = static_cast<float>(score[at]);
    e = static_cast<float>(energy[at]);
  }
  __syncwarp();

  unsigned int peers = 0;
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    peers |= staged_cell[own + j] == place.cell ? 1u << j : 0u;
  }
  const bool leads = place.cell >= 0 && (peers & ((1u << (tid % 32)) - 1u)) == 0;
  // Different leaders have different cells, so each corner in turn is free of
  // conflicts.
#pragma unroll
  for (int k = 0; k < CORNERS; ++k) {
    const int cell = corner_cell(k, place.cell, HEIGHT, WIDTH);
    if (leads && cell >= first && cell < last) {
      const float highest = from_ordered_bits(top[cell - first]);
      float sum_weighted = 0.0f, sum_total = 0.0f, sum_mass = 0.0f;
      for (unsigned int rest = peers; rest != 0; rest &= rest - 1u) {
        const int j = own + __ffs(static_cast<int>(rest)) - 1;
        const float part =
            BILINEAR ? corner_share(k, staged_fx[j], staged_fy[j]) : 1.0f;
        if (part > 0.0f) {
          const float p = part * expf(staged_score[j] - highest);
          sum_weighted += p * staged_energy[j];
          sum_total += p;
          sum_mass += part;
        }
      }
      weighted[copy + cell] += sum_weighted;
      total[copy + cell] += sum_total;
      if (BILINEAR) {
        mass[copy + cell] += sum_mass;
      }
    }
    __syncwarp();
  }
}
__syncthreads();

for (int i = tid; i < last - first; i += SG * 32) {
  float sum_weighted = 0.0f, sum_total = 0.0f, sum_mass = 0.0f;
  for (int s = 0; s < SG; ++s) {
    sum_weighted += weighted[s * TILE + i];
    sum_total += total[s * TILE + i];
    sum_mass += BILINEAR ? mass[s * TILE + i] : 1.0f;
  }
  const bool partly = sum_mass < 1.0f;
  const float cover = partly ? sum_mass * (2.0f - sum_mass) + 2.0f * EPSILON : 1.0f;
  const float mean = sum_weighted / (sum_total + EPSILON);
  const size_t at = static_cast<size_t>(b) * CELLS + first + i;
  surface[at] = static_cast<T>(mean * cover);
  stats[at * 4] = top[i] == 0u ? minus_infinity() : from_ordered_bits(top[i]);
  stats[at * 4 + 1] = cover / (sum_total + EPSILON);
  stats[at * 4 + 2] = mean;
  stats[at * 4 + 3] = partly ? mean * (2.0f - 2.0f * sum_mass) : 0.0f;
}
