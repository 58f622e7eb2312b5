// Node grids on CUDA: what sample_grid and sample_warped share. Channels are taken one by one, or four at a time where that
// is possible: V is T or Four.
#pragma once

#include "four.h"
#include "launch.h"
#include "sample_grid_math.h"

namespace manvatar {

template <class V, class T>
__device__ inline Corners<V> channel_corners(const T* grid, const GridShape& shape, const Cell<T>& cell, int64_t channel) {
  const T* corner = grid + cell.plane * shape.plane_size() + cell.offset + channel;
  const auto load = [](const T* p) { return *reinterpret_cast<const V*>(p); };
  return corners_at(corner, shape.channels, shape.x * shape.channels, shape.plane_size(), load);
}

// Adds the derivative of sum_c grad[c] * channel c by the unit coordinates to out[0..2].
template <class V, class T>
__device__ inline void add_point_gradient(
    const T* grid, const GridShape& shape, const Cell<T>& cell, const T* grad, T* out) {
  T x = 0, y = 0, z = 0;
  for (int64_t c = 0; c < shape.channels; c += sizeof(V) / sizeof(T)) {
    const V upstream = gather<V>(grad + c);
    V dx{}, dy{}, dz{};
    add_derivatives(channel_corners<V>(grid, shape, cell, c), cell.fx, cell.fy, cell.fz, upstream, dx, dy, dz);
    x = add_up(x, dx);
    y = add_up(y, dy);
    z = add_up(z, dz);
  }
  out[0] += x * cell.slope_x;
  out[1] += y * cell.slope_y;
  out[2] += z * cell.slope_z;
}

// One thread a value (point and channel, or four): the values of point i begin at out + i * out_stride.
template <class V, class T>
__global__ void __launch_bounds__(kThreads) interpolate_kernel(
    int64_t values, GridShape shape, const T* __restrict__ grid, const T* __restrict__ points,
    const int64_t* __restrict__ frame, T* __restrict__ out, int64_t out_stride) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= values) return;
  constexpr int64_t width = sizeof(V) / sizeof(T);
  const int64_t groups = shape.channels / width, i = k / groups, c = k % groups * width;
  const Cell<T> cell = locate(points + 3 * i, frame ? frame[i] : 0, shape);
  const Corners<V> corners = channel_corners<V>(grid, shape, cell, c);
  scatter(out + i * out_stride + c, interpolate(corners, cell.fx, cell.fy, cell.fz));
}

// One thread a value: adds to the gradient of the grid, in any order. That of point i begins at grad + i * grad_stride.
template <class V, class T>
__global__ void __launch_bounds__(kThreads) spread_kernel(
    int64_t values, GridShape shape, const T* __restrict__ points, const int64_t* __restrict__ frame,
    const T* __restrict__ grad, int64_t grad_stride, T* __restrict__ out) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= values) return;
  constexpr int64_t width = sizeof(V) / sizeof(T);
  const int64_t groups = shape.channels / width, i = k / groups, c = k % groups * width;
  const V upstream = gather<V>(grad + i * grad_stride + c);
  if (is_zero(upstream)) return;  // as of samples nobody sees, of which many may lie in one cell
  const Cell<T> cell = locate(points + 3 * i, frame ? frame[i] : 0, shape);
  T* corner = out + cell.plane * shape.plane_size() + cell.offset + c;
  const auto add = [&](T* p, T weight) { add_atomically(p, weight * upstream); };
  const int64_t x_step = shape.channels, y_step = shape.x * shape.channels;
  spread_in_plane(corner, x_step, y_step, cell.fx, cell.fy, 1 - cell.fz, add);
  spread_in_plane(corner + shape.plane_size(), x_step, y_step, cell.fx, cell.fy, cell.fz, add);
}

// Values of `samples` points to rows of `out`.
template <class T>
void launch_interpolate(
    const char* op, const OnDevice& device, int64_t samples, const GridShape& shape, const T* grid, const T* points,
    const int64_t* frame, T* out, int64_t out_stride) {
  by_fours<T>(in_fours(grid, shape.channels), [&]<class V>() {
    const int64_t values = samples * shape.channels * sizeof(T) / sizeof(V);
    if (values == 0) return;
    launch(op, device, one_thread_each(values), interpolate_kernel<V, T>,
        values, shape, grid, points, frame, out, out_stride);
  });
}

// Adds the gradient of the values of `samples` points to that of the grid.
template <class T>
void launch_spread(
    const char* op, const OnDevice& device, int64_t samples, const GridShape& shape, const T* points, const int64_t* frame,
    const T* grad, int64_t grad_stride, T* out) {
  by_fours<T>(in_fours(out, shape.channels), [&]<class V>() {
    const int64_t values = samples * shape.channels * sizeof(T) / sizeof(V);
    if (values == 0) return;
    launch(op, device, one_thread_each(values), spread_kernel<V, T>,
        values, shape, points, frame, grad, grad_stride, out);
  });
}

}  // namespace manvatar
