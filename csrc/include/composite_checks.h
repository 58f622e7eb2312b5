// What composite and composite_backward ask of their arguments, on every device.
#pragma once

#include "checks.h"

namespace manvatar {

struct CompositeInputs {
  Tensor density_per_m, length_m, rgb, distance_m, offsets;  // contiguous
  int64_t rays, samples, channels;
};

inline CompositeInputs check_composite(
    const char* op, const Tensor& density_per_m, const Tensor& length_m, const Tensor& rgb, const Tensor& distance_m,
    const Tensor& offsets) {
  check_floating(op, "density_per_m", density_per_m);
  check_shape(op, "density_per_m", density_per_m, {-1});
  const int64_t samples = density_per_m.size(0);
  check_like(op, "length_m", length_m, "density_per_m", density_per_m);
  check_shape(op, "length_m", length_m, {samples});
  check_like(op, "rgb", rgb, "density_per_m", density_per_m);
  check_shape(op, "rgb", rgb, {samples, -1});
  check_like(op, "distance_m", distance_m, "density_per_m", density_per_m);
  check_shape(op, "distance_m", distance_m, {samples});
  check_same_device(op, "offsets", offsets, density_per_m);
  check_int64(op, "offsets", offsets);
  check_shape(op, "offsets", offsets, {-1});
  if (offsets.size(0) < 1) fail(op, "(): expected offsets of shape (rays + 1,), got (0,)");
  return {dense(density_per_m), dense(length_m), dense(rgb), dense(distance_m), dense(offsets),
          offsets.size(0) - 1, samples, rgb.size(1)};
}

struct CompositeGradients {
  Tensor rgb, opacity, depth_m, weights;  // contiguous
};

inline CompositeGradients check_composite_gradients(
    const char* op, const CompositeInputs& in, const Tensor& grad_rgb, const Tensor& grad_opacity, const Tensor& grad_depth_m,
    const Tensor& grad_weights, const Tensor& weights) {
  check_like(op, "grad_rgb", grad_rgb, "density_per_m", in.density_per_m);
  check_shape(op, "grad_rgb", grad_rgb, {in.rays, in.channels});
  check_like(op, "grad_opacity", grad_opacity, "density_per_m", in.density_per_m);
  check_shape(op, "grad_opacity", grad_opacity, {in.rays});
  check_like(op, "grad_depth_m", grad_depth_m, "density_per_m", in.density_per_m);
  check_shape(op, "grad_depth_m", grad_depth_m, {in.rays});
  check_like(op, "grad_weights", grad_weights, "density_per_m", in.density_per_m);
  check_shape(op, "grad_weights", grad_weights, {in.samples});
  check_like(op, "weights", weights, "density_per_m", in.density_per_m);
  check_shape(op, "weights", weights, {in.samples});
  return {dense(grad_rgb), dense(grad_opacity), dense(grad_depth_m), dense(grad_weights)};
}

}  // namespace manvatar
