// What sample_grid and sample_grid_backward ask of their arguments, on every device.
#pragma once

#include "checks.h"
#include "sample_grid_math.h"

#include <optional>

namespace manvatar {

struct SampleGridInputs {
  Tensor grid, unit_points;  // contiguous
  std::optional<Tensor> frame;
  GridShape shape;
  int64_t samples;

  const int64_t* frames() const { return frame ? frame->const_data_ptr<int64_t>() : nullptr; }
};

inline SampleGridInputs check_sample_grid(
    const char* op, const Tensor& grid, const Tensor& unit_points, const std::optional<Tensor>& frame) {
  check_floating(op, "grid", grid);
  check_shape(op, "grid", grid, {-1, -1, -1, -1, -1});
  const GridShape shape{grid.size(0), grid.size(1), grid.size(2), grid.size(3), grid.size(4)};
  if (shape.batch < 1 || shape.z < 2 || shape.y < 2 || shape.x < 2)
    fail(op, "(): expected grid of at least 1 frame and 2 nodes along z, y and x, got ", shape_text(grid));
  check_like(op, "unit_points", unit_points, "grid", grid);
  check_shape(op, "unit_points", unit_points, {-1, 3});
  const int64_t samples = unit_points.size(0);
  if (frame) {
    check_same_device(op, "frame", *frame, grid);
    check_int64(op, "frame", *frame);
    check_shape(op, "frame", *frame, {samples});
  }
  return {dense(grid), dense(unit_points), frame ? std::optional<Tensor>(dense(*frame)) : std::nullopt, shape, samples};
}

inline Tensor check_sample_grid_gradient(const char* op, const SampleGridInputs& in, const Tensor& grad) {
  check_like(op, "grad", grad, "grid", in.grid);
  check_shape(op, "grad", grad, {in.samples, in.shape.channels});
  return dense(grad);
}

}  // namespace manvatar
