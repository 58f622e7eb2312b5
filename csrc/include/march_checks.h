// What march asks of its arguments, on every device.
#pragma once

#include "checks.h"
#include "march_math.h"

#include <cmath>

namespace manvatar {

struct MarchInputs {
  Tensor origins_m, directions, shift, occupied, lowest_per_m;  // contiguous
  int64_t rays, blocks;
  std::vector<double> lower_m, upper_m;
  double step_m, stop_depth;
  int64_t margin;

  template <class T>
  MarchGrid<T> grid(const Tensor& any) const {
    MarchGrid<T> grid;
    for (int a = 0; a < 3; ++a) {
      grid.cells[a] = occupied.size(2 - a);
      grid.blocks[a] = (grid.cells[a] + kBlockCells - 1) / kBlockCells;
      grid.lower[a] = static_cast<T>(lower_m[a]);
      grid.upper[a] = static_cast<T>(upper_m[a]);
    }
    grid.occupied = occupied.const_data_ptr<bool>();
    grid.lowest_per_m = lowest_per_m.const_data_ptr<T>();
    grid.any = any.const_data_ptr<uint8_t>();
    return grid;
  }

  template <class T>
  MarchSteps<T> steps() const {
    return {static_cast<T>(step_m), static_cast<T>(stop_depth), margin};
  }
};

inline MarchInputs check_march(
    const Tensor& origins_m, const Tensor& directions, const Tensor& shift, const Tensor& occupied,
    const Tensor& lowest_per_m, const std::vector<double>& lower_m, const std::vector<double>& upper_m, double step_m,
    double stop_depth, int64_t margin) {
  const char* op = "march";
  check_floating(op, "origins_m", origins_m);
  check_shape(op, "origins_m", origins_m, {-1, 3});
  const int64_t rays = origins_m.size(0);
  check_like(op, "directions", directions, "origins_m", origins_m);
  check_shape(op, "directions", directions, {rays, 3});
  check_like(op, "shift", shift, "origins_m", origins_m);
  check_shape(op, "shift", shift, {rays});
  check_same_device(op, "occupied", occupied, origins_m);
  check_shape(op, "occupied", occupied, {-1, -1, -1});
  if (occupied.scalar_type() != ScalarType::Bool)
    fail(op, "(): expected occupied to be bool, got ", torch::headeronly::toString(occupied.scalar_type()));
  if (occupied.numel() == 0) fail(op, "(): expected occupied to have cells, got shape ", shape_text(occupied));
  check_like(op, "lowest_per_m", lowest_per_m, "origins_m", origins_m);
  check_shape(op, "lowest_per_m", lowest_per_m, {occupied.size(0), occupied.size(1), occupied.size(2)});
  if (lower_m.size() != 3 || upper_m.size() != 3)
    fail(op, "(): expected lower_m and upper_m of 3 numbers, got ", lower_m.size(), " and ", upper_m.size());
  for (int a = 0; a < 3; ++a) {
    if (!(lower_m[a] < upper_m[a]))
      fail(op, "(): expected upper_m to exceed lower_m, got ", upper_m[a], " and ", lower_m[a], " on axis ", a);
  }
  if (!(step_m > 0 && std::isfinite(step_m))) fail(op, "(): expected a positive step_m, got ", step_m);
  if (margin < 1) fail(op, "(): expected margin_steps of at least 1, got ", margin);
  int64_t blocks = 1;
  for (int a = 0; a < 3; ++a) blocks *= (occupied.size(a) + kBlockCells - 1) / kBlockCells;
  return {dense(origins_m), dense(directions), dense(shift), dense(occupied), dense(lowest_per_m),
          rays, blocks, lower_m, upper_m, step_m, stop_depth, margin};
}

// Uninitialised, on the device of `like`.
inline Tensor empty_of_type(const Tensor& like, int64_t size, ScalarType type) {
  return torch::stable::new_empty(like, {&size, 1}, type);
}

}  // namespace manvatar
