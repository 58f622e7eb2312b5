// Node grids on CUDA: what sample_grid and sample_warped share.
#pragma once

#include "launch.h"
#include "sample_grid_math.h"

namespace manvatar {

template <class T>
__device__ inline Corners<T> channel_corners(const T* grid, const GridShape& shape, const Cell<T>& cell, int64_t channel) {
  const T* corner = grid + cell.plane * shape.plane_size() + cell.offset + channel;
  const auto load = [](const T* p) { return *p; };
  return corners_at(corner, shape.channels, shape.x * shape.channels, shape.plane_size(), load);
}

// Adds the derivative of sum_c grad[c] * channel c by the unit coordinates to out[0..2].
template <class T>
__device__ inline void add_point_gradient(
    const T* grid, const GridShape& shape, const Cell<T>& cell, const T* grad, T* out) {
  T dx = 0, dy = 0, dz = 0;
  for (int64_t c = 0; c < shape.channels; ++c)
    add_derivatives(channel_corners(grid, shape, cell, c), cell.fx, cell.fy, cell.fz, grad[c], dx, dy, dz);
  out[0] += dx * cell.slope_x;
  out[1] += dy * cell.slope_y;
  out[2] += dz * cell.slope_z;
}

// One thread a value (point and channel): the values of point i begin at out + i * out_stride.
template <class T>
__global__ void __launch_bounds__(kThreads) interpolate_kernel(
    int64_t values, GridShape shape, const T* __restrict__ grid, const T* __restrict__ points,
    const int64_t* __restrict__ frame, T* __restrict__ out, int64_t out_stride) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= values) return;
  const int64_t i = k / shape.channels, c = k % shape.channels;
  const Cell<T> cell = locate(points + 3 * i, frame ? frame[i] : 0, shape);
  out[i * out_stride + c] = interpolate(channel_corners(grid, shape, cell, c), cell.fx, cell.fy, cell.fz);
}

// One thread a value: adds to the gradient of the grid, in any order. That of point i begins at grad + i * grad_stride.
template <class T>
__global__ void __launch_bounds__(kThreads) spread_kernel(
    int64_t values, GridShape shape, const T* __restrict__ points, const int64_t* __restrict__ frame,
    const T* __restrict__ grad, int64_t grad_stride, T* __restrict__ out) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= values) return;
  const int64_t i = k / shape.channels, c = k % shape.channels;
  const Cell<T> cell = locate(points + 3 * i, frame ? frame[i] : 0, shape);
  const T upstream = grad[i * grad_stride + c];
  if (upstream == 0) return;  // as of samples nobody sees, of which many may lie in one cell
  T* corner = out + cell.plane * shape.plane_size() + cell.offset + c;
  const auto add = [&](T* p, T weight) { atomicAdd(p, weight * upstream); };
  const int64_t x_step = shape.channels, y_step = shape.x * shape.channels;
  spread_in_plane(corner, x_step, y_step, cell.fx, cell.fy, 1 - cell.fz, add);
  spread_in_plane(corner + shape.plane_size(), x_step, y_step, cell.fx, cell.fy, cell.fz, add);
}

}  // namespace manvatar
