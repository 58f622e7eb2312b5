// sample_grid on the CPU. Forward and the gradient of the points: threads share the points. Gradient of the grid: see
// grid_cpu.h.

#include "grid_cpu.h"
#include "sample_grid_checks.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace {

using namespace manvatar;

template <class T>
struct Job {
  const T* grid;
  const T* points;
  const int64_t* frame;  // null: all 0
  const T* grad;         // gradient of the points only
  T* out;                // values, or gradient of the points
  GridShape shape;

  MANVATAR_INLINE Cell<T> cell(int64_t i) const { return locate(points + 3 * i, frame ? frame[i] : 0, shape); }
};

// Calls use(i, cell) for begin..end-1, kAhead points after their corners were prefetched.
template <class T, class Use>
MANVATAR_INLINE void for_points(const Job<T>& job, int64_t begin, int64_t end, const Use& use) {
  Cell<T> ring[kAhead];
  const auto ask = [&](int64_t i) __attribute__((always_inline)) {
    prefetch_corners(job.grid, job.shape, ring[(i - begin) % kAhead] = job.cell(i));
  };
  for (int64_t i = begin; i < std::min(end, begin + kAhead); ++i) ask(i);
  for (int64_t i = begin; i < end; ++i) {
    const Cell<T> cell = ring[(i - begin) % kAhead];
    if (i + kAhead < end) ask(i + kAhead);
    use(i, cell);
  }
}

template <int W, class T>
MANVATAR_INLINE void forward(const Job<T>& job, int64_t begin, int64_t end) {
  for_points(job, begin, end, [&](int64_t i, const Cell<T>& cell) __attribute__((always_inline)) {
    interpolate_channels<W>(job.grid, job.shape, cell, job.out + i * job.shape.channels);
  });
}

template <int W, class T>
MANVATAR_INLINE void backward_points(const Job<T>& job, int64_t begin, int64_t end) {
  for_points(job, begin, end, [&](int64_t i, const Cell<T>& cell) __attribute__((always_inline)) {
    T* out = job.out + 3 * i;
    out[0] = out[1] = out[2] = 0;
    add_point_gradient<W>(job.grid, job.shape, cell, job.grad + i * job.shape.channels, out);
  });
}

// ------------------------------------------------------------------- one function a dtype, for each instruction set

#define MANVATAR_DTYPE(T)                                                                                 \
  MANVATAR_MULTIVERSION void run_forward(const Job<T>& job, int64_t begin, int64_t end) {                \
    MANVATAR_BY_WIDTH(job.shape.channels, forward, job, begin, end);                                     \
  }                                                                                                      \
  MANVATAR_MULTIVERSION void run_backward_points(const Job<T>& job, int64_t begin, int64_t end) {        \
    MANVATAR_BY_WIDTH(job.shape.channels, backward_points, job, begin, end);                             \
  }                                                                                                      \
  MANVATAR_MULTIVERSION void run_backward_grid(                                                          \
      const GridGradient<T>& job, const ByPlane& sorted, int64_t begin, int64_t end) {                   \
    add_to_planes_by_width(job, sorted, begin, end);                                                     \
  }

MANVATAR_DTYPE(float)
MANVATAR_DTYPE(double)

// --------------------------------------------------------------------------------------------------------------- the op

// A wrong frame would read and write outside the grid.
void check_frames(const char* op, const SampleGridInputs& in) {
  const int64_t* frame = in.frames();
  if (frame == nullptr) return;
  for (int64_t i = 0; i < in.samples; ++i) {
    if (frame[i] < 0 || frame[i] >= in.shape.batch)
      fail(op, "(): expected frame to be 0 to ", in.shape.batch - 1, ", got ", frame[i], " at sample ", i);
  }
}

Tensor sample_grid(Tensor grid, Tensor unit_points, std::optional<Tensor> frame) {
  const SampleGridInputs in = check_sample_grid("sample_grid", grid, unit_points, frame);
  check_frames("sample_grid", in);
  Tensor values = empty_of(in.grid, {in.samples, in.shape.channels});
  dispatch_floating(in.grid, [&]<class T>() {
    const Job<T> job{in.grid.const_data_ptr<T>(), in.unit_points.const_data_ptr<T>(), in.frames(), nullptr,
                     values.mutable_data_ptr<T>(), in.shape};
    torch::stable::parallel_for(
        0, in.samples, kPointsPerTask, [&](int64_t begin, int64_t end) { run_forward(job, begin, end); });
  });
  return values;
}

std::tuple<Tensor, Tensor> sample_grid_backward(
    Tensor grad, Tensor grid, Tensor unit_points, std::optional<Tensor> frame, bool for_grid, bool for_points) {
  const char* op = "sample_grid_backward";
  const SampleGridInputs in = check_sample_grid(op, grid, unit_points, frame);
  check_frames(op, in);
  if (in.samples > 2147483647) fail(op, "(): expected fewer than 2^31 points, got ", in.samples);
  const Tensor upstream = check_sample_grid_gradient(op, in, grad);
  const GridShape& s = in.shape;
  Tensor grad_grid = for_grid ? empty_of(in.grid, {s.batch, s.z, s.y, s.x, s.channels}) : empty_of(in.grid, {0});
  Tensor grad_points = for_points ? empty_of(in.grid, {in.samples, 3}) : empty_of(in.grid, {0});
  dispatch_floating(in.grid, [&]<class T>() {
    Job<T> job{in.grid.const_data_ptr<T>(), in.unit_points.const_data_ptr<T>(), in.frames(), upstream.const_data_ptr<T>(),
               nullptr, in.shape};
    if (for_points) {
      job.out = grad_points.mutable_data_ptr<T>();
      torch::stable::parallel_for(
          0, in.samples, kPointsPerTask, [&](int64_t begin, int64_t end) { run_backward_points(job, begin, end); });
    }
    if (for_grid) {
      const GridGradient<T> grid{grad_grid.mutable_data_ptr<T>(), s, job.points, job.frame, job.grad, s.channels,
                                 in.samples, true};
      fill_grid_gradient(grid, [](const auto&... arguments) { run_backward_grid(arguments...); });
    }
  });
  return {grad_grid, grad_points};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("sample_grid", TORCH_BOX(&sample_grid));
  library.impl("sample_grid_backward", TORCH_BOX(&sample_grid_backward));
}
