// Where a flow falls: on a surface, one rule for the lattice's scatter and readout, and
// in a field that fills the cube, one rule for its write and read.

// Cell and shares of one flow. `cell` is the flow's cell (nearest) or the upper left
// of its four cells (bilinear), -1 for a dropped flow; `fx`, `fy` are the shares of the
// right and the lower neighbours; `slope_x`, `slope_y` are d(fx)/dx and d(fy)/dy.
struct Placement {
  int cell;
  float fx, fy;
  float slope_x, slope_y;
};

// Coordinate brought into [-1, 1]; `slope` becomes its derivative.
__device__ inline float
into_box(float u, float& slope) {
  slope = 1.0f;
  if (u > 1.0f || u < -1.0f) {
    u = u > 1.0f ? 1.0f : -1.0f;
    slope = 0.0f;
  }
  return u;
}

// Share of the next cell along one axis of n cells; `index` becomes the lower cell.
__device__ inline float
share(float grid, int n, int& index) {
  const float highest = n > 1 ? static_cast<float>(n - 2) : 0.0f;
  float low = floorf(grid);
  low = low > highest ? highest : low;
  index = static_cast<int>(low);
  const float part = grid - low;
  return part < 0.0f ? 0.0f : (part > 1.0f ? 1.0f : part);
}

__device__ inline Placement
place_flow(float x, float y, int height, int width, bool bilinear) {
  Placement place = {-1, 0.0f, 0.0f, 0.0f, 0.0f};
  if (!(x == x) || !(y == y)) {
    return place;
  }
  float slope_x, slope_y;
  // This order of operations leaves the compiler no multiply-add that could move a
  // tie to another cell.
  const float to_column = static_cast<float>(width - 1);
  const float to_row = static_cast<float>(height - 1);
  const float gx = (into_box(x, slope_x) + 1.0f) * 0.5f * to_column;
  const float gy = (into_box(y, slope_y) + 1.0f) * 0.5f * to_row;
  if (!bilinear) {
    place.cell = static_cast<int>(rintf(gy)) * width + static_cast<int>(rintf(gx));
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
__device__ inline float
corner_share(int k, float fx, float fy) {
  return (k & 1 ? fx : 1.0f - fx) * (k & 2 ? fy : 1.0f - fy);
}

// Cell of corner k; on a surface one cell wide or high the neighbour is the cell.
__device__ inline int
corner_cell(int k, int cell, int height, int width) {
  return cell + (k & 1 && width > 1 ? 1 : 0) + (k & 2 && height > 1 ? width : 0);
}

// Cell and shares of one flow in a field of n x n x n cells, numbered with z fastest.
// `cell` is the lowest of its eight cells, -1 for a dropped flow; `fx`, `fy`, `fz` are
// the shares of the next cells; `slope_x` and so on are d(fx)/dx and the like.
struct CubePlacement {
  int cell;
  float fx, fy, fz;
  float slope_x, slope_y, slope_z;
};

__device__ inline CubePlacement
place_in_cube(float x, float y, float z, int n) {
  CubePlacement place = {-1, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  if (!(x == x) || !(y == y) || !(z == z)) {
    return place;
  }
  float slope_x, slope_y, slope_z;
  const float to_cell = static_cast<float>(n - 1);
  const float gx = (into_box(x, slope_x) + 1.0f) * 0.5f * to_cell;
  const float gy = (into_box(y, slope_y) + 1.0f) * 0.5f * to_cell;
  const float gz = (into_box(z, slope_z) + 1.0f) * 0.5f * to_cell;
  int ix, iy, iz;
  place.fx = share(gx, n, ix);
  place.fy = share(gy, n, iy);
  place.fz = share(gz, n, iz);
  place.cell = (ix * n + iy) * n + iz;
  place.slope_x = slope_x * 0.5f * to_cell;
  place.slope_y = slope_y * 0.5f * to_cell;
  place.slope_z = slope_z * 0.5f * to_cell;
  return place;
}

// Cell of corner k = 0..7 (x in bit 2, y in bit 1, z in bit 0).
__device__ inline int
cube_cell(int k, int cell, int n) {
  return cell + (k & 4 ? n * n : 0) + (k & 2 ? n : 0) + (k & 1);
}

// Share of corner k.
__device__ inline float
cube_share(int k, CubePlacement place) {
  return (k & 4 ? place.fx : 1.0f - place.fx) * (k & 2 ? place.fy : 1.0f - place.fy) *
      (k & 1 ? place.fz : 1.0f - place.fz);
}

// Derivative of corner k's share with respect to the coordinate of an axis, 0 for x.
__device__ inline float
cube_slope(int k, int axis, CubePlacement place) {
  const float x = k & 4 ? place.fx : 1.0f - place.fx;
  const float y = k & 2 ? place.fy : 1.0f - place.fy;
  const float z = k & 1 ? place.fz : 1.0f - place.fz;
  if (axis == 0) {
    return (k & 4 ? place.slope_x : -place.slope_x) * y * z;
  }
  if (axis == 1) {
    return (k & 2 ? place.slope_y : -place.slope_y) * x * z;
  }
  return (k & 1 ? place.slope_z : -place.slope_z) * x * y;
}
