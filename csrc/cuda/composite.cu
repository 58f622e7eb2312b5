// composite on CUDA: one thread a ray. Sums run in the dtype of the tensors, for double is slow on most chips.
// That offsets ascend from 0 is not checked here: it would wait for the device. Samples may be more than the last of them:
// those belong to no ray, and have weights and gradients of zero.

#include "composite_checks.h"
#include "composite_math.h"
#include "launch.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace {

using namespace manvatar;

template <class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(
    int64_t rays, int64_t samples, int64_t channels, const int64_t* __restrict__ offsets, const T* __restrict__ density_per_m,
    const T* __restrict__ length_m, const T* __restrict__ sample_rgb, const T* __restrict__ distance_m, T* __restrict__ rgb,
    T* __restrict__ opacity, T* __restrict__ depth_m, T* __restrict__ weights) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= rays) return;
  composite_ray<T, T>(
      {offsets[r], offsets[r + 1]}, channels, density_per_m, length_m, sample_rgb, distance_m, rgb + r * channels, opacity + r,
      depth_m + r, weights);
  for (int64_t i = offsets[rays] + r; i < samples; i += rays) weights[i] = 0;
}

template <class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    int64_t rays, int64_t samples, int64_t channels, const int64_t* __restrict__ offsets, const T* __restrict__ grad_rgb,
    const T* __restrict__ grad_opacity, const T* __restrict__ grad_depth_m, const T* __restrict__ grad_weights,
    const T* __restrict__ density_per_m, const T* __restrict__ length_m, const T* __restrict__ sample_rgb,
    const T* __restrict__ distance_m, const T* __restrict__ weights, T* __restrict__ grad_density_per_m,
    T* __restrict__ grad_length_m, T* __restrict__ grad_sample_rgb, T* __restrict__ grad_distance_m) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= rays) return;
  composite_ray_backward<T, T>(
      {offsets[r], offsets[r + 1]}, channels, grad_rgb + r * channels, grad_opacity[r], grad_depth_m[r], grad_weights,
      density_per_m, length_m, sample_rgb, distance_m, weights, grad_density_per_m, grad_length_m, grad_sample_rgb,
      grad_distance_m);
  for (int64_t i = offsets[rays] + r; i < samples; i += rays) {
    grad_density_per_m[i] = grad_length_m[i] = grad_distance_m[i] = 0;
    for (int64_t c = 0; c < channels; ++c) grad_sample_rgb[i * channels + c] = 0;
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> composite(
    Tensor density_per_m, Tensor length_m, Tensor rgb, Tensor distance_m, Tensor offsets) {
  const char* op = "composite";
  const CompositeInputs in = check_composite(op, density_per_m, length_m, rgb, distance_m, offsets);
  const OnDevice device(in.rgb);
  Tensor out_rgb = empty_of(in.rgb, {in.rays, in.channels}), opacity = empty_of(in.rgb, {in.rays});
  Tensor depth_m = empty_of(in.rgb, {in.rays}), weights = empty_of(in.rgb, {in.samples});
  if (in.rays == 0) return {out_rgb, opacity, depth_m, weights};
  dispatch_floating(in.rgb, [&]<class T>() {
    launch(op, device, one_thread_each(in.rays), forward_kernel<T>,
        in.rays, in.samples, in.channels, in.offsets.const_data_ptr<int64_t>(), in.density_per_m.const_data_ptr<T>(),
        in.length_m.const_data_ptr<T>(), in.rgb.const_data_ptr<T>(), in.distance_m.const_data_ptr<T>(),
        out_rgb.mutable_data_ptr<T>(), opacity.mutable_data_ptr<T>(), depth_m.mutable_data_ptr<T>(),
        weights.mutable_data_ptr<T>());
  });
  return {out_rgb, opacity, depth_m, weights};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> composite_backward(
    Tensor grad_rgb, Tensor grad_opacity, Tensor grad_depth_m, Tensor grad_weights, Tensor density_per_m, Tensor length_m,
    Tensor rgb, Tensor distance_m, Tensor offsets, Tensor weights) {
  const char* op = "composite_backward";
  const CompositeInputs in = check_composite(op, density_per_m, length_m, rgb, distance_m, offsets);
  const CompositeGradients out = check_composite_gradients(op, in, grad_rgb, grad_opacity, grad_depth_m, grad_weights, weights);
  const Tensor saved = dense(weights);
  const OnDevice device(in.rgb);
  Tensor grad_density = empty_of(in.rgb, {in.samples}), grad_length = empty_of(in.rgb, {in.samples});
  Tensor grad_colour = empty_of(in.rgb, {in.samples, in.channels}), grad_distance = empty_of(in.rgb, {in.samples});
  if (in.rays == 0) return {grad_density, grad_length, grad_colour, grad_distance};
  dispatch_floating(in.rgb, [&]<class T>() {
    launch(op, device, one_thread_each(in.rays), backward_kernel<T>,
        in.rays, in.samples, in.channels, in.offsets.const_data_ptr<int64_t>(), out.rgb.const_data_ptr<T>(),
        out.opacity.const_data_ptr<T>(), out.depth_m.const_data_ptr<T>(), out.weights.const_data_ptr<T>(),
        in.density_per_m.const_data_ptr<T>(), in.length_m.const_data_ptr<T>(), in.rgb.const_data_ptr<T>(),
        in.distance_m.const_data_ptr<T>(), saved.const_data_ptr<T>(), grad_density.mutable_data_ptr<T>(),
        grad_length.mutable_data_ptr<T>(), grad_colour.mutable_data_ptr<T>(), grad_distance.mutable_data_ptr<T>());
  });
  return {grad_density, grad_length, grad_colour, grad_distance};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, MANVATAR_CUDA_KEY, library) {
  library.impl("composite", TORCH_BOX(&composite));
  library.impl("composite_backward", TORCH_BOX(&composite_backward));
}
