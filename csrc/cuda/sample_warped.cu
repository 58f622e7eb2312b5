// sample_warped on CUDA: one thread a point for the motion grid, then one thread a value (point and channel) for each
// level; likewise backward, where atomic adds meet in the grids. That frames are in range is not checked: it would wait for
// the device.

#include "grid_cuda.h"
#include "sample_warped_checks.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace {

using namespace manvatar;

template <class T>
struct Grid {
  const T* nodes;
  GridShape shape;
  bool fours;

  Grid() = default;
  Grid(const T* nodes, const GridShape& shape) : nodes(nodes), shape(shape), fours(in_fours(nodes, shape.channels)) {}
};

template <class T>
struct Job {
  Grid<T> motion;
  Grid<T> levels[kMaxLevels];
  int64_t level_count, level_channels, samples, columns;
  const T* points;
  const int64_t* frame;
  T scale[3];
};

template <class T>
__global__ void __launch_bounds__(kThreads) displace_kernel(
    Job<T> job, const T* __restrict__ tail, T* __restrict__ features, T* __restrict__ warped) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= job.samples) return;
  const GridShape& shape = job.motion.shape;
  const Cell<T> cell = locate(job.points + 3 * i, job.frame[i], shape);
  T* row = features + i * job.columns + job.level_channels - 3;  // of the motion channels, the first three of which go elsewhere
  by_fours<T>(job.motion.fours, [&]<class V>() {
    constexpr int width = sizeof(V) / sizeof(T);
    for (int64_t first = 0; first < shape.channels; first += width) {
      T values[width];
      scatter(values, interpolate(channel_corners<V>(job.motion.nodes, shape, cell, first), cell.fx, cell.fy, cell.fz));
      for (int j = 0; j < width; ++j) {
        const int64_t c = first + j;
        if (c < 3) warped[3 * i + c] = job.points[3 * i + c] + job.scale[c] * values[j];
        else row[c] = values[j];
      }
    }
  });
  row += shape.channels;
  const int64_t columns = job.columns - job.level_channels - (shape.channels - 3);
  for (int64_t c = 0; c < columns; ++c) row[c] = tail[i * columns + c];
}

template <class T>
__device__ void add_gradient(const Grid<T>& grid, const T* point, int64_t frame, const T* grad, T* out) {
  const Cell<T> cell = locate(point, frame, grid.shape);
  by_fours<T>(grid.fours, [&]<class V>() { add_point_gradient<V>(grid.nodes, grid.shape, cell, grad, out); });
}

template <class T>
__global__ void __launch_bounds__(kThreads) points_kernel(
    Job<T> job, const T* __restrict__ warped, const T* __restrict__ grad, T* __restrict__ grad_motion_values,
    T* __restrict__ grad_points) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= job.samples) return;
  const T* row = grad + i * job.columns;
  T to_warped[3] = {0, 0, 0};
  for (int64_t l = 0; l < job.level_count; ++l) {
    const Grid<T>& level = job.levels[l];
    add_gradient(level, warped + 3 * i, 0, row, to_warped);
    row += level.shape.channels;
  }
  const int64_t channels = job.motion.shape.channels;
  T* to_motion = grad_motion_values + i * channels;
  for (int64_t c = 0; c < channels; ++c) to_motion[c] = c < 3 ? to_warped[c] * job.scale[c] : row[c - 3];
  if (grad_points == nullptr) return;
  add_gradient(job.motion, job.points + 3 * i, job.frame[i], to_motion, to_warped);
  for (int a = 0; a < 3; ++a) grad_points[3 * i + a] = to_warped[a];
}

template <class T>
Job<T> make_job(const SampleWarpedInputs& in, int64_t columns) {
  Job<T> job{};
  job.motion = {in.motion.const_data_ptr<T>(), in.motion_shape};
  job.level_count = static_cast<int64_t>(in.levels.size());
  for (int64_t l = 0; l < job.level_count; ++l) job.levels[l] = {in.levels[l].const_data_ptr<T>(), in.shapes[l]};
  job.level_channels = in.level_channels;
  job.samples = in.samples;
  job.columns = columns;
  job.points = in.unit_points.const_data_ptr<T>();
  job.frame = in.frame.const_data_ptr<int64_t>();
  for (int a = 0; a < 3; ++a) job.scale[a] = static_cast<T>(in.scale[a]);
  return job;
}

std::tuple<Tensor, Tensor> sample_warped(
    Tensor motion, std::vector<Tensor> levels, Tensor unit_points, Tensor frame, Tensor tail, std::vector<double> scale,
    bool /* in_place: a matter of the gradient */) {
  const char* op = "sample_warped";
  const SampleWarpedInputs in = check_sample_warped(op, motion, levels, unit_points, frame, scale);
  check_like(op, "tail", tail, "motion", motion);
  check_shape(op, "tail", tail, {in.samples, -1});
  const OnDevice device(in.motion);
  const Tensor end = dense(tail);
  const int64_t columns = in.level_channels + in.ambient() + end.size(1);
  Tensor features = empty_of(in.motion, {in.samples, columns}), warped = empty_of(in.motion, {in.samples, 3});
  if (in.samples == 0) return {features, warped};
  dispatch_floating(in.motion, [&]<class T>() {
    const Job<T> job = make_job<T>(in, columns);
    T *rows = features.mutable_data_ptr<T>(), *where = warped.mutable_data_ptr<T>();
    launch(op, device, one_thread_each(in.samples), displace_kernel<T>,
        job, end.const_data_ptr<T>(), rows, where);
    for (int64_t l = 0; l < job.level_count; ++l) {
      const Grid<T>& level = job.levels[l];
      launch_interpolate<T>(op, device, in.samples, level.shape, level.nodes, where, nullptr, rows, columns);
      rows += level.shape.channels;
    }
  });
  return {features, warped};
}

std::tuple<Tensor, Tensor> sample_warped_backward(
    Tensor grad, Tensor motion, std::vector<Tensor> levels, Tensor unit_points, Tensor frame, Tensor warped,
    std::vector<double> scale, std::vector<Tensor> grad_levels, bool for_motion, bool for_points) {
  const char* op = "sample_warped_backward";
  const SampleWarpedInputs in = check_sample_warped(op, motion, levels, unit_points, frame, scale);
  check_sample_warped_gradients(op, in, grad, warped, grad_levels);
  const OnDevice device(in.motion);
  const Tensor upstream = dense(grad), where = dense(warped);
  const GridShape& s = in.motion_shape;
  Tensor grad_motion = for_motion ? empty_of(in.motion, {s.batch, s.z, s.y, s.x, s.channels}) : empty_of(in.motion, {0});
  Tensor grad_points = for_points ? empty_of(in.motion, {in.samples, 3}) : empty_of(in.motion, {0});
  if (for_motion) torch::stable::zero_(grad_motion);
  if (in.samples == 0) return {grad_motion, grad_points};
  const bool any = for_motion || for_points;
  Tensor values = empty_of(in.motion, {any ? in.samples : 0, s.channels});
  dispatch_floating(in.motion, [&]<class T>() {
    const Job<T> job = make_job<T>(in, upstream.size(1));
    const T *at = where.const_data_ptr<T>(), *rows = upstream.const_data_ptr<T>();
    T* of_motion = values.mutable_data_ptr<T>();
    if (any) {
      launch(op, device, one_thread_each(in.samples), points_kernel<T>,
          job, at, rows, of_motion, for_points ? grad_points.mutable_data_ptr<T>() : nullptr);
    }
    for (size_t l = 0; l < grad_levels.size(); ++l) {
      T* to_level = grad_levels[l].mutable_data_ptr<T>();
      launch_spread<T>(op, device, in.samples, in.shapes[l], at, nullptr, rows, job.columns, to_level);
      rows += in.shapes[l].channels;
    }
    if (for_motion) {
      launch_spread<T>(
          op, device, in.samples, s, job.points, job.frame, of_motion, s.channels, grad_motion.mutable_data_ptr<T>());
    }
  });
  return {grad_motion, grad_points};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, MANVATAR_CUDA_KEY, library) {
  library.impl("sample_warped", TORCH_BOX(&sample_warped));
  library.impl("sample_warped_backward", TORCH_BOX(&sample_warped_backward));
}
