// One ray through a grid of cells, host and device.
//
// The ray is cut into steps from where it enters the box; step k has its middle at near + (k + shift) step. A step is kept
// when its middle lies in an occupied cell and less than `stop_depth` of optical depth, of the lowest density of the cells,
// lies more than `margin` steps before it. Blocks of cells that are all empty are jumped over: the steps in them would be
// dropped one by one.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>

namespace manvatar {

constexpr int64_t kBlockCells = 8;  // cells along one side of a block

template <class T>
struct MarchGrid {
  int64_t cells[3];   // along x, y, z
  int64_t blocks[3];
  T lower[3], upper[3];
  const bool* occupied;       // (z, y, x)
  const T* lowest_per_m;      // (z, y, x)
  const uint8_t* any;         // (block z, y, x): whether any cell of the block is occupied

  C10_HOST_DEVICE int64_t cell(int64_t x, int64_t y, int64_t z) const { return (z * cells[1] + y) * cells[0] + x; }
  C10_HOST_DEVICE int64_t block(int64_t x, int64_t y, int64_t z) const { return (z * blocks[1] + y) * blocks[0] + x; }
};

template <class T>
struct MarchSteps {
  T length, stop_depth;
  int64_t margin;
};

// Whether any cell of the block (bx, by, bz) is occupied.
template <class T>
C10_HOST_DEVICE inline uint8_t any_in_block(const MarchGrid<T>& grid, int64_t bx, int64_t by, int64_t bz) {
  const int64_t first[3] = {bx * kBlockCells, by * kBlockCells, bz * kBlockCells};
  int64_t end[3];
  for (int a = 0; a < 3; ++a) end[a] = first[a] + kBlockCells < grid.cells[a] ? first[a] + kBlockCells : grid.cells[a];
  for (int64_t z = first[2]; z < end[2]; ++z) {
    for (int64_t y = first[1]; y < end[1]; ++y) {
      bool any = false;
      for (int64_t x = first[0]; x < end[0]; ++x) any |= grid.occupied[grid.cell(x, y, z)];
      if (any) return 1;
    }
  }
  return 0;
}

// Where a ray enters and leaves the box (slabs; Kay and Kajiya 1986), not behind its origin; false: it misses.
template <class T>
C10_HOST_DEVICE inline bool intersect_box(const MarchGrid<T>& grid, const T* origin, const T* direction, T& near, T& far) {
  near = 0;
  far = INFINITY;
  T square = 0;
  for (int a = 0; a < 3; ++a) {
    square += direction[a] * direction[a];
    // A component of zero would make 0 / 0 for a ray that runs within a face.
    const T safe = direction[a] < T(1e-9) && direction[a] > T(-1e-9) ? T(1e-9) : direction[a];
    const T s = (grid.lower[a] - origin[a]) / safe, t = (grid.upper[a] - origin[a]) / safe;
    const T first = s < t ? s : t, last = s < t ? t : s;
    near = first > near ? first : near;
    far = last < far ? last : far;
  }
  return near < far && square > T(1e-12);  // a ray without direction would never leave
}

// The first step that may lie behind the block around `cell`; at least k + 1. Rounded down: looking twice does no harm.
template <class T>
C10_HOST_DEVICE inline int64_t step_behind_block(
    const int64_t* cell, const T* start, const T* inverse_rate, T near, T shift, T length, int64_t k, int64_t steps) {
  T leave = INFINITY;
  for (int a = 0; a < 3; ++a) {
    const int64_t block = cell[a] / kBlockCells;
    const T face = static_cast<T>((inverse_rate[a] > 0 ? block + 1 : block) * kBlockCells);
    const T t = (face - start[a]) * inverse_rate[a];
    leave = t < leave ? t : leave;  // an infinite rate gives infinity or not-a-number, which is not less
  }
  const T next = (leave - near) / length - shift;
  if (!(next > static_cast<T>(k + 1))) return k + 1;
  return next < static_cast<T>(steps) ? static_cast<int64_t>(next) : steps;
}

// Calls emit(distance) for every step that is kept, from near to far.
template <class T, class Emit>
C10_HOST_DEVICE inline void march_ray(
    const MarchGrid<T>& grid, const MarchSteps<T>& march, const T* origin, const T* direction, T shift, const Emit& emit) {
  T near, far;
  if (!intersect_box(grid, origin, direction, near, far)) return;
  T start[3], rate[3], inverse_rate[3];  // in cells: at distance t the ray is at start + t rate
  for (int a = 0; a < 3; ++a) {
    const T scale = static_cast<T>(grid.cells[a]) / (grid.upper[a] - grid.lower[a]);
    start[a] = (origin[a] - grid.lower[a]) * scale;
    rate[a] = direction[a] * scale;
    inverse_rate[a] = 1 / rate[a];
  }
  int64_t steps = static_cast<int64_t>((far - near) / march.length) + 2;  // it has left the box before the last of them
  bool dark = false;
  T depth = 0;
  for (int64_t k = 0; k < steps;) {
    const T distance = near + (static_cast<T>(k) + shift) * march.length;
    T at[3];
    bool inside = true;
    for (int a = 0; a < 3; ++a) {
      at[a] = start[a] + distance * rate[a];
      inside = inside && at[a] >= 0 && at[a] < static_cast<T>(grid.cells[a]);
    }
    if (!inside) {
      ++k;
      continue;
    }
    const int64_t cell[3] = {static_cast<int64_t>(at[0]), static_cast<int64_t>(at[1]), static_cast<int64_t>(at[2])};
    if (!grid.any[grid.block(cell[0] / kBlockCells, cell[1] / kBlockCells, cell[2] / kBlockCells)]) {
      k = step_behind_block(cell, start, inverse_rate, near, shift, march.length, k, steps);
      continue;
    }
    const int64_t index = grid.cell(cell[0], cell[1], cell[2]);
    if (grid.occupied[index]) {
      emit(distance);
      depth += grid.lowest_per_m[index];
      if (!dark && depth * march.length >= march.stop_depth) {
        dark = true;
        if (march.margin < steps - k) steps = k + march.margin;
      }
    }
    ++k;
  }
}

}  // namespace manvatar
