// Emission-absorption volume rendering of one ray, host and device (Max 1995, eq. 18 with piecewise constant density).
//
//   tau_i = density_i length_i          optical depth of an interval
//   T_i   = exp(-sum_{j<i} tau_j)       transmittance in front of it
//   w_i   = T_i (1 - exp(-tau_i))       its weight; sum_i w_i = opacity
//
// The optical depth is summed, not the transmittance multiplied, and 1 - exp is expm1: thin samples keep all their digits
// and opaque rays cannot leave a residue. `accum_t` is the type of the running sums.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>

namespace manvatar {

// The samples begin..end-1 of one ray, in the packed arrays.
struct RaySpan {
  int64_t begin, end;
};

// Writes rgb[0..channels), *opacity, *depth_m and weights[begin..end).
template <class scalar_t, class accum_t>
C10_HOST_DEVICE inline void composite_ray(
    RaySpan span, int64_t channels, const scalar_t* density_per_m, const scalar_t* length_m, const scalar_t* sample_rgb,
    const scalar_t* distance_m, scalar_t* rgb, scalar_t* opacity, scalar_t* depth_m, scalar_t* weights) {
  using std::exp, std::expm1;
  for (int64_t c = 0; c < channels; ++c) rgb[c] = 0;
  accum_t optical_depth = 0, depth = 0;
  for (int64_t i = span.begin; i < span.end; ++i) {
    const accum_t tau = static_cast<accum_t>(density_per_m[i]) * length_m[i];
    const accum_t weight = -exp(-optical_depth) * expm1(-tau);
    optical_depth += tau;
    depth += weight * distance_m[i];
    weights[i] = static_cast<scalar_t>(weight);
    for (int64_t c = 0; c < channels; ++c) rgb[c] += static_cast<scalar_t>(weight) * sample_rgb[i * channels + c];
  }
  *opacity = static_cast<scalar_t>(-expm1(-optical_depth));
  *depth_m = static_cast<scalar_t>(depth);
}

// Gradients of one ray. With g_i = dL/dw_i gathered over all four outputs,
//   dL/dtau_i = g_i T_{i+1} - sum_{j>i} g_j w_j.
// T_{i+1} is parked in grad_density_per_m on the way there and replaced by the gradient on the way back.
template <class scalar_t, class accum_t>
C10_HOST_DEVICE inline void composite_ray_backward(
    RaySpan span, int64_t channels, const scalar_t* grad_rgb, scalar_t grad_opacity, scalar_t grad_depth_m,
    const scalar_t* grad_weights, const scalar_t* density_per_m, const scalar_t* length_m, const scalar_t* sample_rgb,
    const scalar_t* distance_m, const scalar_t* weights, scalar_t* grad_density_per_m, scalar_t* grad_length_m,
    scalar_t* grad_sample_rgb, scalar_t* grad_distance_m) {
  using std::exp;
  accum_t optical_depth = 0;
  for (int64_t i = span.begin; i < span.end; ++i) {
    optical_depth += static_cast<accum_t>(density_per_m[i]) * length_m[i];
    grad_density_per_m[i] = static_cast<scalar_t>(exp(-optical_depth));
  }
  accum_t behind = 0;  // sum of g_j w_j over the samples behind this one
  for (int64_t i = span.end - 1; i >= span.begin; --i) {
    accum_t g = static_cast<accum_t>(grad_weights[i]) + grad_opacity + static_cast<accum_t>(grad_depth_m) * distance_m[i];
    for (int64_t c = 0; c < channels; ++c) {
      g += static_cast<accum_t>(grad_rgb[c]) * sample_rgb[i * channels + c];
      grad_sample_rgb[i * channels + c] = weights[i] * grad_rgb[c];
    }
    const accum_t grad_tau = g * grad_density_per_m[i] - behind;
    behind += g * weights[i];
    grad_density_per_m[i] = static_cast<scalar_t>(grad_tau * length_m[i]);
    grad_length_m[i] = static_cast<scalar_t>(grad_tau * density_per_m[i]);
    grad_distance_m[i] = weights[i] * grad_depth_m;
  }
}

}  // namespace manvatar
