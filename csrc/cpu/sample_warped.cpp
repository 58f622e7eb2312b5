// sample_warped on the CPU: threads share the points. Gradients of the grids: grid_cpu.h.

#include "grid_cpu.h"
#include "sample_warped_checks.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace {

using namespace manvatar;

template <class T>
struct Grid {
  const T* nodes;
  GridShape shape;
};

template <class T>
struct Job {
  Grid<T> motion;
  Grid<T> levels[kMaxLevels];
  int64_t level_count, samples, columns;  // columns: of a row of features, which ends with the tail
  const T *points, *tail;
  const int64_t* frame;
  T scale[3];
  T *features, *warped;                     // forward writes them, backward reads the latter
  const T* grad;                            // backward: of the features
  T *grad_motion_values, *grad_points;      // backward: of the motion channels at the points; null: not wanted

  int64_t tail_columns() const {
    int64_t used = motion.shape.channels - 3;
    for (int64_t l = 0; l < level_count; ++l) used += levels[l].shape.channels;
    return columns - used;
  }
};

template <class T>
MANVATAR_INLINE void interpolate(const Grid<T>& grid, const Cell<T>& cell, T* out) {
  MANVATAR_BY_WIDTH(grid.shape.channels, interpolate_channels, grid.nodes, grid.shape, cell, out);
}

template <class T>
MANVATAR_INLINE void add_point_gradient(const Grid<T>& grid, const Cell<T>& cell, const T* grad, T* out) {
  MANVATAR_BY_WIDTH(grid.shape.channels, add_point_gradient, grid.nodes, grid.shape, cell, grad, out);
}

// Where the points are that were asked for and not yet used: a ring of kAhead points.
template <class T>
struct Ahead {
  Cell<T> motion[kAhead];
  Cell<T> levels[kAhead][kMaxLevels];

  MANVATAR_INLINE void ask_motion(const Job<T>& job, int64_t i) {
    Cell<T>& cell = motion[i % kAhead];
    cell = locate(job.points + 3 * i, job.frame[i], job.motion.shape);
    prefetch_corners(job.motion.nodes, job.motion.shape, cell);
  }

  // Point i must have been displaced.
  MANVATAR_INLINE void ask_levels(const Job<T>& job, int64_t i) {
    for (int64_t l = 0; l < job.level_count; ++l) {
      Cell<T>& cell = levels[i % kAhead][l];
      cell = locate(job.warped + 3 * i, 0, job.levels[l].shape);
      prefetch_corners(job.levels[l].nodes, job.levels[l].shape, cell);
    }
  }
};

// Displaces point i; what else stands in the motion grid, and the tail, end its row of features.
template <class T>
MANVATAR_INLINE void displace(const Job<T>& job, const Cell<T>& cell, int64_t i, int64_t tail) {
  T motion[kMaxMotionChannels];
  const int64_t ambient = job.motion.shape.channels - 3;
  interpolate(job.motion, cell, motion);
  for (int a = 0; a < 3; ++a) job.warped[3 * i + a] = job.points[3 * i + a] + job.scale[a] * motion[a];
  T* row = job.features + (i + 1) * job.columns - tail - ambient;
  for (int64_t c = 0; c < ambient; ++c) row[c] = motion[3 + c];
  for (int64_t c = 0; c < tail; ++c) row[ambient + c] = job.tail[i * tail + c];
}

// Three stages, each kAhead points behind the one before: ask for the motion grid, displace and ask for the levels, read
// the levels. Memory answers in the meantime.
template <class T>
MANVATAR_INLINE void forward(const Job<T>& job, int64_t first, int64_t last) {
  Ahead<T> ahead;
  const int64_t tail = job.tail_columns();
  for (int64_t i = first - 2 * kAhead; i < last; ++i) {
    if (i >= first) {
      T* row = job.features + i * job.columns;
      for (int64_t l = 0; l < job.level_count; ++l) {
        interpolate(job.levels[l], ahead.levels[i % kAhead][l], row);
        row += job.levels[l].shape.channels;
      }
    }
    const int64_t next = i + kAhead;
    if (next >= first && next < last) {
      displace(job, ahead.motion[next % kAhead], next, tail);
      ahead.ask_levels(job, next);
    }
    if (next + kAhead < last) ahead.ask_motion(job, next + kAhead);
  }
}

// The gradient of what was read from the motion grid, and of the points where it is wanted.
template <class T>
MANVATAR_INLINE void backward_points(const Job<T>& job, int64_t first, int64_t last) {
  Ahead<T> ahead;
  const int64_t channels = job.motion.shape.channels;
  for (int64_t i = first - kAhead; i < last; ++i) {
    if (i >= first) {
      const T* row = job.grad + i * job.columns;
      T to_warped[3] = {0, 0, 0};
      for (int64_t l = 0; l < job.level_count; ++l) {
        add_point_gradient(job.levels[l], ahead.levels[i % kAhead][l], row, to_warped);
        row += job.levels[l].shape.channels;
      }
      T* to_motion = job.grad_motion_values + i * channels;
      for (int a = 0; a < 3; ++a) to_motion[a] = to_warped[a] * job.scale[a];
      for (int64_t c = 3; c < channels; ++c) to_motion[c] = row[c - 3];
      if (job.grad_points) {
        add_point_gradient(job.motion, ahead.motion[i % kAhead], to_motion, to_warped);
        for (int a = 0; a < 3; ++a) job.grad_points[3 * i + a] = to_warped[a];
      }
    }
    if (i + kAhead >= last) continue;
    ahead.ask_levels(job, i + kAhead);
    if (job.grad_points) ahead.ask_motion(job, i + kAhead);
  }
}

#define MANVATAR_DTYPE(T)                                                                                                \
  MANVATAR_MULTIVERSION void run_forward(const Job<T>& job, int64_t begin, int64_t end) { forward(job, begin, end); }   \
  MANVATAR_MULTIVERSION void run_backward_points(const Job<T>& job, int64_t begin, int64_t end) {                       \
    backward_points(job, begin, end);                                                                                   \
  }                                                                                                                     \
  MANVATAR_MULTIVERSION void run_backward_grid(                                                                         \
      const GridGradient<T>& job, const ByPlane& sorted, int64_t begin, int64_t end) {                                  \
    add_to_planes_by_width(job, sorted, begin, end);                                                                    \
  }

MANVATAR_DTYPE(float)
MANVATAR_DTYPE(double)

// A wrong frame would read and write outside the motion grids.
void check_frames(const char* op, const SampleWarpedInputs& in) {
  const int64_t* frame = in.frame.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < in.samples; ++i) {
    if (frame[i] < 0 || frame[i] >= in.motion_shape.batch)
      fail(op, "(): expected frame to be 0 to ", in.motion_shape.batch - 1, ", got ", frame[i], " at sample ", i);
  }
}

template <class T>
Job<T> make_job(const SampleWarpedInputs& in, int64_t columns) {
  Job<T> job{};
  job.motion = {in.motion.const_data_ptr<T>(), in.motion_shape};
  job.level_count = static_cast<int64_t>(in.levels.size());
  for (int64_t l = 0; l < job.level_count; ++l) job.levels[l] = {in.levels[l].const_data_ptr<T>(), in.shapes[l]};
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
  check_frames(op, in);
  const Tensor end = dense(tail);
  const int64_t columns = in.level_channels + in.ambient() + end.size(1);
  Tensor features = empty_of(in.motion, {in.samples, columns}), warped = empty_of(in.motion, {in.samples, 3});
  dispatch_floating(in.motion, [&]<class T>() {
    Job<T> job = make_job<T>(in, columns);
    job.tail = end.const_data_ptr<T>();
    job.features = features.mutable_data_ptr<T>();
    job.warped = warped.mutable_data_ptr<T>();
    torch::stable::parallel_for(
        0, in.samples, kPointsPerTask, [&](int64_t begin, int64_t last) { run_forward(job, begin, last); });
  });
  return {features, warped};
}

template <class T>
void add_level_gradients(const Job<T>& job, const std::vector<Tensor>& grad_levels) {
  int64_t column = 0;
  for (size_t l = 0; l < grad_levels.size(); ++l) {
    const GridShape& shape = job.levels[l].shape;
    const GridGradient<T> gradient{grad_levels[l].mutable_data_ptr<T>(), shape, job.warped, nullptr,
                                   job.grad + column, job.columns, job.samples, false};
    fill_grid_gradient(gradient, [](const auto&... arguments) { run_backward_grid(arguments...); });
    column += shape.channels;
  }
}

std::tuple<Tensor, Tensor> sample_warped_backward(
    Tensor grad, Tensor motion, std::vector<Tensor> levels, Tensor unit_points, Tensor frame, Tensor warped,
    std::vector<double> scale, std::vector<Tensor> grad_levels, bool for_motion, bool for_points) {
  const char* op = "sample_warped_backward";
  const SampleWarpedInputs in = check_sample_warped(op, motion, levels, unit_points, frame, scale);
  check_frames(op, in);
  if (in.samples > 2147483647) fail(op, "(): expected fewer than 2^31 points, got ", in.samples);
  check_sample_warped_gradients(op, in, grad, warped, grad_levels);
  const Tensor upstream = dense(grad), where = dense(warped);
  const GridShape& s = in.motion_shape;
  Tensor grad_motion = for_motion ? empty_of(in.motion, {s.batch, s.z, s.y, s.x, s.channels}) : empty_of(in.motion, {0});
  Tensor grad_points = for_points ? empty_of(in.motion, {in.samples, 3}) : empty_of(in.motion, {0});
  const bool any = for_motion || for_points;
  Tensor values = empty_of(in.motion, {any ? in.samples : 0, s.channels});
  dispatch_floating(in.motion, [&]<class T>() {
    Job<T> job = make_job<T>(in, upstream.size(1));
    job.warped = where.mutable_data_ptr<T>();
    job.grad = upstream.const_data_ptr<T>();
    job.grad_motion_values = values.mutable_data_ptr<T>();
    job.grad_points = for_points ? grad_points.mutable_data_ptr<T>() : nullptr;
    if (any) {
      torch::stable::parallel_for(
          0, in.samples, kPointsPerTask, [&](int64_t begin, int64_t last) { run_backward_points(job, begin, last); });
    }
    add_level_gradients(job, grad_levels);
    if (!for_motion) return;
    const GridGradient<T> gradient{grad_motion.mutable_data_ptr<T>(), s, job.points, job.frame, job.grad_motion_values,
                                   s.channels, in.samples, true};
    fill_grid_gradient(gradient, [](const auto&... arguments) { run_backward_grid(arguments...); });
  });
  return {grad_motion, grad_points};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("sample_warped", TORCH_BOX(&sample_warped));
  library.impl("sample_warped_backward", TORCH_BOX(&sample_warped_backward));
}
