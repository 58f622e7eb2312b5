// composite on the CPU: threads share the rays, each ray in order.

#include "composite_checks.h"
#include "composite_math.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace {

using namespace manvatar;

constexpr int64_t kRaysPerTask = 64;

// A wrong offset would read and write outside the arrays. Samples no ray owns would be left unwritten, so they are refused.
void check_offsets(const char* op, const CompositeInputs& in) {
  const int64_t* offsets = in.offsets.const_data_ptr<int64_t>();
  if (offsets[0] != 0) fail(op, "(): expected offsets to begin with 0, got ", offsets[0]);
  for (int64_t r = 0; r < in.rays; ++r) {
    if (offsets[r + 1] < offsets[r])
      fail(op, "(): expected offsets not to decrease, got ", offsets[r], " then ", offsets[r + 1], " at ray ", r);
  }
  if (offsets[in.rays] != in.samples)
    fail(op, "(): expected offsets to end with the number of samples, ", in.samples, ", got ", offsets[in.rays]);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> composite(
    Tensor density_per_m, Tensor length_m, Tensor rgb, Tensor distance_m, Tensor offsets) {
  const CompositeInputs in = check_composite("composite", density_per_m, length_m, rgb, distance_m, offsets);
  check_offsets("composite", in);
  Tensor out_rgb = empty_of(in.rgb, {in.rays, in.channels}), opacity = empty_of(in.rgb, {in.rays});
  Tensor depth_m = empty_of(in.rgb, {in.rays}), weights = empty_of(in.rgb, {in.samples});
  dispatch_floating(in.rgb, [&]<class T>() {
    const int64_t* first = in.offsets.const_data_ptr<int64_t>();
    const T *density = in.density_per_m.const_data_ptr<T>(), *length = in.length_m.const_data_ptr<T>();
    const T *colour = in.rgb.const_data_ptr<T>(), *distance = in.distance_m.const_data_ptr<T>();
    T *c = out_rgb.mutable_data_ptr<T>(), *o = opacity.mutable_data_ptr<T>();
    T *d = depth_m.mutable_data_ptr<T>(), *w = weights.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, in.rays, kRaysPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        composite_ray<T, double>(
            {first[r], first[r + 1]}, in.channels, density, length, colour, distance, c + r * in.channels, o + r, d + r, w);
    });
  });
  return {out_rgb, opacity, depth_m, weights};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> composite_backward(
    Tensor grad_rgb, Tensor grad_opacity, Tensor grad_depth_m, Tensor grad_weights, Tensor density_per_m, Tensor length_m,
    Tensor rgb, Tensor distance_m, Tensor offsets, Tensor weights) {
  const char* op = "composite_backward";
  const CompositeInputs in = check_composite(op, density_per_m, length_m, rgb, distance_m, offsets);
  check_offsets(op, in);
  const CompositeGradients out = check_composite_gradients(op, in, grad_rgb, grad_opacity, grad_depth_m, grad_weights, weights);
  const Tensor saved = dense(weights);
  Tensor grad_density = empty_of(in.rgb, {in.samples}), grad_length = empty_of(in.rgb, {in.samples});
  Tensor grad_colour = empty_of(in.rgb, {in.samples, in.channels}), grad_distance = empty_of(in.rgb, {in.samples});
  dispatch_floating(in.rgb, [&]<class T>() {
    const int64_t* first = in.offsets.const_data_ptr<int64_t>();
    const T *density = in.density_per_m.const_data_ptr<T>(), *length = in.length_m.const_data_ptr<T>();
    const T *colour = in.rgb.const_data_ptr<T>(), *distance = in.distance_m.const_data_ptr<T>();
    const T *gc = out.rgb.const_data_ptr<T>(), *go = out.opacity.const_data_ptr<T>();
    const T *gd = out.depth_m.const_data_ptr<T>(), *gw = out.weights.const_data_ptr<T>(), *w = saved.const_data_ptr<T>();
    T *to_density = grad_density.mutable_data_ptr<T>(), *to_length = grad_length.mutable_data_ptr<T>();
    T *to_colour = grad_colour.mutable_data_ptr<T>(), *to_distance = grad_distance.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, in.rays, kRaysPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        composite_ray_backward<T, double>(
            {first[r], first[r + 1]}, in.channels, gc + r * in.channels, go[r], gd[r], gw, density, length, colour, distance,
            w, to_density, to_length, to_colour, to_distance);
    });
  });
  return {grad_density, grad_length, grad_colour, grad_distance};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("composite", TORCH_BOX(&composite));
  library.impl("composite_backward", TORCH_BOX(&composite_backward));
}
