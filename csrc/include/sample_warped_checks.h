// What sample_warped and sample_warped_backward ask of their arguments, on every device.
#pragma once

#include "checks.h"
#include "sample_grid_math.h"

namespace manvatar {

constexpr int64_t kMaxLevels = 8;
constexpr int64_t kMaxMotionChannels = 64;

struct SampleWarpedInputs {
  Tensor motion, unit_points, frame;  // contiguous
  std::vector<Tensor> levels;         // contiguous
  GridShape motion_shape;
  std::vector<GridShape> shapes;  // of the levels
  std::vector<double> scale;
  int64_t samples, level_channels;

  // Motion channels that displace nothing and are passed on.
  int64_t ambient() const { return motion_shape.channels - 3; }
};

inline GridShape check_grid(const char* op, const char* name, const Tensor& grid) {
  check_shape(op, name, grid, {-1, -1, -1, -1, -1});
  const GridShape shape{grid.size(0), grid.size(1), grid.size(2), grid.size(3), grid.size(4)};
  if (shape.batch < 1 || shape.z < 2 || shape.y < 2 || shape.x < 2)
    fail(op, "(): expected ", name, " of at least 1 frame and 2 nodes along z, y and x, got ", shape_text(grid));
  return shape;
}

inline SampleWarpedInputs check_sample_warped(
    const char* op, const Tensor& motion, const std::vector<Tensor>& levels, const Tensor& unit_points, const Tensor& frame,
    const std::vector<double>& scale) {
  check_floating(op, "motion", motion);
  SampleWarpedInputs in{dense(motion), dense(unit_points), dense(frame), {}, check_grid(op, "motion", motion), {}, scale,
                        0, 0};
  if (in.motion_shape.channels < 3 || in.motion_shape.channels > kMaxMotionChannels)
    fail(op, "(): expected motion of 3 to ", kMaxMotionChannels, " channels, got ", in.motion_shape.channels);
  if (levels.empty() || static_cast<int64_t>(levels.size()) > kMaxLevels)
    fail(op, "(): expected 1 to ", kMaxLevels, " levels, got ", levels.size());
  for (const Tensor& level : levels) {
    check_like(op, "levels", level, "motion", motion);
    in.shapes.push_back(check_grid(op, "levels", level));
    if (in.shapes.back().batch != 1) fail(op, "(): expected levels of 1 frame, got ", shape_text(level));
    in.levels.push_back(dense(level));
    in.level_channels += in.shapes.back().channels;
  }
  check_like(op, "unit_points", unit_points, "motion", motion);
  check_shape(op, "unit_points", unit_points, {-1, 3});
  in.samples = unit_points.size(0);
  check_same_device(op, "frame", frame, motion);
  check_int64(op, "frame", frame);
  check_shape(op, "frame", frame, {in.samples});
  if (scale.size() != 3) fail(op, "(): expected scale of 3 numbers, got ", scale.size());
  return in;
}

// Those of sample_warped_backward. The gradients of the levels are added to, so they must be dense where they are; none at
// all: they are not wanted.
inline void check_sample_warped_gradients(
    const char* op, const SampleWarpedInputs& in, const Tensor& grad, const Tensor& warped,
    const std::vector<Tensor>& grad_levels) {
  check_like(op, "grad", grad, "motion", in.motion);
  check_shape(op, "grad", grad, {in.samples, -1});
  if (grad.size(1) < in.level_channels + in.ambient())
    fail(op, "(): expected grad of at least ", in.level_channels + in.ambient(), " columns, got ", grad.size(1));
  check_like(op, "warped", warped, "motion", in.motion);
  check_shape(op, "warped", warped, {in.samples, 3});
  if (grad_levels.empty()) return;
  if (grad_levels.size() != in.levels.size())
    fail(op, "(): expected ", in.levels.size(), " grad_levels or none, got ", grad_levels.size());
  for (size_t l = 0; l < grad_levels.size(); ++l) {
    const GridShape& s = in.shapes[l];
    check_like(op, "grad_levels", grad_levels[l], "motion", in.motion);
    check_shape(op, "grad_levels", grad_levels[l], {1, s.z, s.y, s.x, s.channels});
    if (!grad_levels[l].is_contiguous()) fail(op, "(): expected grad_levels to be contiguous");
  }
}

}  // namespace manvatar
