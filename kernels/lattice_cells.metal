// Where a flow falls on a surface: one rule for the lattice's scatter and readout.

// Cell and shares of one flow. `cell` is the flow's cell (nearest) or the upper left
// of its four cells (bilinear), -1 for a dropped flow; `fx`, `fy` are the shares of the
// right and the lower neighbours; `slope_x`, `slope_y` are d(fx)/dx and d(fy)/dy.
struct Placement {
  int cell;
  float fx, fy;
  float slope_x, slope_y;
};

// Coordinate brought into [-1, 1]; `slope` becomes its derivative.
inline float
into_box(float u, thread float& slope) {
  slope = 1.0f;
  if (u > 1.0f || u < -1.0f) {
    u = u > 1.0f ? 1.0f : -1.0f;
    slope = 0.0f;
  }
  return u;
}

// Share of the next cell along one axis of n cells; `index` becomes the lower cell.
inline float
share(float grid, int n, thread int& index) {
  const float highest = n > 1 ? float(n - 2) : 0.0f;
  float low = metal::floor(grid);
  low = low > highest ? highest : low;
  index = int(low);
  const float part = grid - low;
  return part < 0.0f ? 0.0f : (part > 1.0f ? 1.0f : part);
}

inline Placement
place_flow(float x, float y, int height, int width, bool bilinear) {
  Placement place = {-1, 0.0f, 0.0f, 0.0f, 0.0f};
  if (!(x == x) || !(y == y)) {
    return place;
  }
  float slope_x, slope_y;
  // This order of operations leaves the compiler no multiply-add that could move a
  // tie to another cell.
  const float to_column = float(width - 1);
  const float to_row = float(height - 1);
  const float gx = (into_box(x, slope_x) + 1.0f) * 0.5f * to_column;
  const float gy = (into_box(y, slope_y) + 1.0f) * 0.5f * to_row;
  if (!bilinear) {
    place.cell = int(metal::rint(gy)) * width + int(metal::rint(gx));
    return place;
  }
  int ix, iy;
  place.fx = share(gx, width, ix);
  place.fy = share(gy, height, iy);
  place.cell = iy * width + ix;
  place.slope_x = slope_x * 0.5f * to_column;
  place.slope_y = slope_y * 0.5f * to_row;
  return place;
}

// Share of corner k = 0..3 (left/right in bit 0, up/down in bit 1).
inline float
corner_share(int k, float fx, float fy) {
  return (k & 1 ? fx : 1.0f - fx) * (k & 2 ? fy : 1.0f - fy);
}

// Cell of corner k; on a surface one cell wide or high the neighbour is the cell.
inline int
corner_cell(int k, int cell, int height, int width) {
  return cell + (k & 1 && width > 1 ? 1 : 0) + (k & 2 && height > 1 ? width : 0);
}
