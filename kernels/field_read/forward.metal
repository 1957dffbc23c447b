// Field read, forward: every flow gathers from its cells.
//   value = sum_c share(c) * field[c]
// `share` is a flow's share of the eight cells around it. Flows that are not alive or
// have a NaN coordinate read zeros.
//
// in   field [B, N, N, N, C]    position [B, F, 3]; any float types
//      alive [B, F] bool
// out  value [B, F, C] T; sums in float32
// grid x: B * F threads (below 2^32), one a flow
// template T; N cells an axis

const int F = position_shape[1];
const int C = field_shape[4];
const uint flow = thread_position_in_grid.x;
const size_t f = flow;
CubePlacement place = {-1, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
if (alive[f]) {
  const float x = static_cast<float>(position[f * 3]);
  const float y = static_cast<float>(position[f * 3 + 1]);
  const float z = static_cast<float>(position[f * 3 + 2]);
  place = place_in_cube(x, y, z, N);
}
const size_t row = size_t(flow / uint(F)) * (N * N * N);
for (int c = 0; c < C; ++c) {
  float sum = 0.0f;
  if (place.cell >= 0) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const size_t cell = row + cube_cell(k, place.cell, N);
      sum += cube_share(k, place) * static_cast<float>(field[cell * C + c]);
    }
  }
  value[f * C + c] = static_cast<T>(sum);
}
