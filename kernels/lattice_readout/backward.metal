// Lattice readout, backward: every flow gathers from its cells. With share s and top,
// rate, mean and slope of cell c from the forward pass, p = exp(min(score - top, 0)):
//   genergy = sum_c gsurface * rate * s * p
//   gscore  = sum_c gsurface * rate * s * p * (energy - mean)
//   gshare  = gsurface * (rate * p * (energy - mean) + slope), which the bilinear
//   shares carry on to gposition
// Dropped flows get zeros; with nearest every gposition is zero.
//
// in   gsurface [B, HEIGHT * WIDTH]    stats [B, HEIGHT * WIDTH, 4] float32
//      position [B, F, P]    energy [B, F]    score [B, F]; any float types
// out  gposition [B, F, P] TP    genergy [B, F] TE    gscore [B, F] TW
// grid x: B * F threads (below 2^32), one a flow
// template TP; TE; TW; HEIGHT; WIDTH; BILINEAR

constexpr int CORNERS = BILINEAR ? 4 : 1;
const int F = energy_shape[1];
const int P = position_shape[2];
const uint flow = thread_position_in_grid.x;
const size_t f = flow;
const float x = static_cast<float>(position[f * P]);
const float y = static_cast<float>(position[f * P + 1]);
const float q = static_cast<float>(score[f]);
const Placement place = place_flow(x, y, HEIGHT, WIDTH, BILINEAR);
float ge = 0.0f, gq = 0.0f;
float gfx = 0.0f, gfy = 0.0f;
if (place.cell >= 0 && q != minus_infinity()) {
  const float e = static_cast<float>(energy[f]);
  const size_t row = size_t(flow / uint(F)) * (HEIGHT * WIDTH);
#pragma unroll
  for (int k = 0; k < CORNERS; ++k) {
    const size_t cell = row + corner_cell(k, place.cell, HEIGHT, WIDTH);
    const float part = BILINEAR ? corner_share(k, place.fx, place.fy) : 1.0f;
    const float highest = stats[cell * 4];
    const float p = q < highest ? metal::exp(q - highest) : 1.0f;
    const float g = static_cast<float>(gsurface[cell]);
    const float by_energy = g * stats[cell * 4 + 1] * p;
    const float by_mean = by_energy * (e - stats[cell * 4 + 2]);
    ge += part * by_energy;
    gq += part * by_mean;
    const float gpart = by_mean + g * stats[cell * 4 + 3];
    gfx += (k & 1 ? gpart : -gpart) * (k & 2 ? place.fy : 1.0f - place.fy);
    gfy += (k & 2 ? gpart : -gpart) * (k & 1 ? place.fx : 1.0f - place.fx);
  }
  gfx *= place.slope_x;
  gfy *= place.slope_y;
}
genergy[f] = static_cast<TE>(ge);
gscore[f] = static_cast<TW>(gq);
for (int a = 0; a < P; ++a) {
  const float g = a == 0 ? gfx : (a == 1 ? gfy : 0.0f);
  gposition[f * P + a] = static_cast<TP>(BILINEAR ? g : 0.0f);
}
