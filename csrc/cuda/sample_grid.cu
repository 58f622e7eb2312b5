// sample_grid on CUDA: one thread a value (point and channel, or four of them) forward and for the gradient of the grid, where atomic adds
// meet; one thread a point for the gradient of the points. That frames are in range is not checked: it would wait for the
// device. Atomic adds come in any order, so the gradient of the grid repeats only up to rounding.

#include "grid_cuda.h"
#include "sample_grid_checks.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace {

using namespace manvatar;

template <class V, class T>
__global__ void __launch_bounds__(kThreads) points_kernel(
    int64_t samples, GridShape shape, const T* __restrict__ grid, const T* __restrict__ points,
    const int64_t* __restrict__ frame, const T* __restrict__ grad, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= samples) return;
  const Cell<T> cell = locate(points + 3 * i, frame ? frame[i] : 0, shape);
  out[3 * i] = out[3 * i + 1] = out[3 * i + 2] = 0;
  add_point_gradient<V>(grid, shape, cell, grad + i * shape.channels, out + 3 * i);
}

Tensor sample_grid(Tensor grid, Tensor unit_points, std::optional<Tensor> frame) {
  const char* op = "sample_grid";
  const SampleGridInputs in = check_sample_grid(op, grid, unit_points, frame);
  const OnDevice device(in.grid);
  Tensor values = empty_of(in.grid, {in.samples, in.shape.channels});
  dispatch_floating(in.grid, [&]<class T>() {
    launch_interpolate(
        op, device, in.samples, in.shape, in.grid.const_data_ptr<T>(), in.unit_points.const_data_ptr<T>(), in.frames(),
        values.mutable_data_ptr<T>(), in.shape.channels);
  });
  return values;
}

std::tuple<Tensor, Tensor> sample_grid_backward(
    Tensor grad, Tensor grid, Tensor unit_points, std::optional<Tensor> frame, bool for_grid, bool for_points) {
  const char* op = "sample_grid_backward";
  const SampleGridInputs in = check_sample_grid(op, grid, unit_points, frame);
  const Tensor upstream = check_sample_grid_gradient(op, in, grad);
  const OnDevice device(in.grid);
  const GridShape& s = in.shape;
  Tensor grad_grid = for_grid ? empty_of(in.grid, {s.batch, s.z, s.y, s.x, s.channels}) : empty_of(in.grid, {0});
  Tensor grad_points = for_points ? empty_of(in.grid, {in.samples, 3}) : empty_of(in.grid, {0});
  if (for_grid) torch::stable::zero_(grad_grid);
  dispatch_floating(in.grid, [&]<class T>() {
    const T *grid = in.grid.const_data_ptr<T>(), *points = in.unit_points.const_data_ptr<T>();
    const T* rows = upstream.const_data_ptr<T>();
    if (for_grid) {
      launch_spread(
          op, device, in.samples, in.shape, points, in.frames(), rows, in.shape.channels, grad_grid.mutable_data_ptr<T>());
    }
    if (for_points && in.samples > 0) {
      by_fours<T>(in_fours(grid, in.shape.channels), [&]<class V>() {
        launch(op, device, one_thread_each(in.samples), points_kernel<V, T>,
            in.samples, in.shape, grid, points, in.frames(), rows, grad_points.mutable_data_ptr<T>());
      });
    }
  });
  return {grad_grid, grad_points};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, MANVATAR_CUDA_KEY, library) {
  library.impl("sample_grid", TORCH_BOX(&sample_grid));
  library.impl("sample_grid_backward", TORCH_BOX(&sample_grid_backward));
}
