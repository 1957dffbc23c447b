// Lattice scatter, backward: every flow gathers from its cells.
//   genergy = weight * sum_c share(c) * gsurface[c]
//   gweight = energy * sum_c share(c) * gsurface[c]
//   gposition = weight * energy * sum_c d(share(c))/d(position) * gsurface[c]
// Dropped flows get zeros; with nearest every gposition is zero.
//
// in   gsurface [B, HEIGHT * WIDTH]    position [B, F, P]    energy [B, F]
//      weight [B, F]; any float types
// out  gposition [B, F, P] TP    genergy [B, F] TE    gweight [B, F] TW
// grid x: B * F threads (below 2^32), one a flow
// template TP; TE; TW; HEIGHT; WIDTH; BILINEAR

constexpr int CORNERS = BILINEAR ? 4 : 1;
const int F = energy_shape[1];
const int P = position_shape[2];
const unsigned int flow = blockIdx.x * blockDim.x + threadIdx.x;
if (flow >= static_cast<unsigned int>(energy_shape[0]) * F) {
  return;
}
const size_t f = flow;
const float x = static_cast<float>(position[f * P]);
const float y = static_cast<float>(position[f * P + 1]);
const Placement place = place_flow(x, y, HEIGHT, WIDTH, BILINEAR);
float gshare = 0.0f, gfx = 0.0f, gfy = 0.0f;
float ge = 0.0f, gw = 0.0f;
if (place.cell >= 0) {
  const size_t row = static_cast<size_t>(flow / F) * (HEIGHT * WIDTH);
#pragma unroll
  for (int k = 0; k < CORNERS; ++k) {
    const int cell = corner_cell(k, place.cell, HEIGHT, WIDTH);
    const float g = static_cast<float>(gsurface[row + cell]);
    gshare += BILINEAR ? corner_share(k, place.fx, place.fy) * g : g;
    gfx += (k & 1 ? g : -g) * (k & 2 ? place.fy : 1.0f - place.fy);
    gfy += (k & 2 ? g : -g) * (k & 1 ? place.fx : 1.0f - place.fx);
  }
  const float e = static_cast<float>(energy[f]);
  const float w = static_cast<float>(weight[f]);
  ge = gshare * w;
  gw = gshare * e;
  gfx *= e * w * place.slope_x;
  gfy *= e * w * place.slope_y;
}
genergy[f] = static_cast<TE>(ge);
gweight[f] = static_cast<TW>(gw);
for (int a = 0; a < P; ++a) {
  const float g = a == 0 ? gfx : (a == 1 ? gfy : 0.0f);
  gposition[f * P + a] = static_cast<TP>(BILINEAR ? g : 0.0f);
}
