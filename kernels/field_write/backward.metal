// Field write, backward: every flow gathers from its cells.
//   gvalue = sum_c share(c) * gfield[c]
//   gposition = sum_c d(share(c))/d(position) * (value . gfield[c])
// Dropped flows get zeros.
//
// in   gfield [B, N, N, N, C]    position [B, F, 3]    value [B, F, C]; any float
//      types    alive [B, F] bool
// out  gposition [B, F, 3] TP    gvalue [B, F, C] TV
// grid x: B * F threads (below 2^32), one a flow
// template TP; TV; N cells an axis

const int F = value_shape[1];
const int C = value_shape[2];
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
float gshare[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
for (int c = 0; c < C; ++c) {
  float gv = 0.0f;
  if (place.cell >= 0) {
    const float v = static_cast<float>(value[f * C + c]);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const size_t cell = row + cube_cell(k, place.cell, N);
      const float g = static_cast<float>(gfield[cell * C + c]);
      gv += cube_share(k, place) * g;
      gshare[k] += v * g;
    }
  }
  gvalue[f * C + c] = static_cast<TV>(gv);
}
#pragma unroll
for (int a = 0; a < 3; ++a) {
  float g = 0.0f;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    g += cube_slope(k, a, place) * gshare[k];
  }
  gposition[f * 3 + a] = static_cast<TP>(g);
}
