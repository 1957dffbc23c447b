// Field read, backward, of the position; the field's gradient is a field write.
//   gposition = sum_c d(share(c))/d(position) * (gvalue . field[c])
// Dropped flows get zeros.
//
// in   gvalue [B, F, C]    field [B, N, N, N, C]    position [B, F, 3]; any float
//      types    alive [B, F] bool
// out  gposition [B, F, 3] T
// grid x: B * F threads (below 2^32), one a flow
// template T; N cells an axis

const int F = position_shape[1];
const int C = field_shape[4];
const unsigned int flow = blockIdx.x * blockDim.x + threadIdx.x;
if (flow >= static_cast<unsigned int>(position_shape[0]) * F) {
  return;
}
const size_t f = flow;
CubePlacement place = {-1, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
if (alive[f]) {
  const float x = static_cast<float>(position[f * 3]);
  const float y = static_cast<float>(position[f * 3 + 1]);
  const float z = static_cast<float>(position[f * 3 + 2]);
  place = place_in_cube(x, y, z, N);
}
const size_t row = static_cast<size_t>(flow / F) * (N * N * N);
float gshare[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
if (place.cell >= 0) {
  for (int c = 0; c < C; ++c) {
    const float g = static_cast<float>(gvalue[f * C + c]);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const size_t cell = row + cube_cell(k, place.cell, N);
      gshare[k] += g * static_cast<float>(field[cell * C + c]);
    }
  }
}
#pragma unroll
for (int a = 0; a < 3; ++a) {
  float g = 0.0f;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    g += cube_slope(k, a, place) * gshare[k];
  }
  gposition[f * 3 + a] = static_cast<T>(g);
}
