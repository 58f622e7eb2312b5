// sample_grid on the CPU. Forward and the gradient of the points: threads share the points. Gradient of the grid: threads
// share the planes of nodes, and the points are first sorted by plane, so that no two threads write one node, every node
// adds its points in one order whatever the number of threads, and a thread's writes stay within a few planes at a time.

#include "multiversion.h"
#include "sample_grid_checks.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

namespace {

using namespace manvatar;

constexpr int64_t kPointsPerTask = 1024;
constexpr int64_t kAhead = 8;  // points whose corners are asked for before they are needed

template <class T>
struct Job {
  const T* grid;
  const T* points;
  const int64_t* frame;  // null: all 0
  const T* grad;         // backward only
  T* out;                // values, gradient of the points, or gradient of the grid
  GridShape shape;

  MANVATAR_INLINE Cell<T> cell(int64_t i) const { return locate(points + 3 * i, frame ? frame[i] : 0, shape); }
};

// ------------------------------------------------------------------------------------------------------------- forward

template <class T>
MANVATAR_INLINE void prefetch(const Job<T>& job, const Cell<T>& cell) {
  const T* corner = job.grid + cell.plane * job.shape.plane_size() + cell.offset;
  const int64_t y_step = job.shape.x * job.shape.channels, z_step = job.shape.plane_size();
  const int64_t last = 2 * job.shape.channels - 1;  // a row of two nodes may lie across two cache lines
  for (const T* row : {corner, corner + y_step, corner + z_step, corner + z_step + y_step}) {
    __builtin_prefetch(row);
    __builtin_prefetch(row + last);
  }
}

// Calls use(i, cell) for begin..end-1, kAhead points after their corners were prefetched.
template <class T, class Use>
MANVATAR_INLINE void for_points(const Job<T>& job, int64_t begin, int64_t end, const Use& use) {
  Cell<T> ring[kAhead];
  for (int64_t i = begin; i < std::min(end, begin + kAhead); ++i) prefetch(job, ring[(i - begin) % kAhead] = job.cell(i));
  for (int64_t i = begin; i < end; ++i) {
    Cell<T>& slot = ring[(i - begin) % kAhead];
    const Cell<T> cell = slot;
    if (i + kAhead < end) prefetch(job, slot = job.cell(i + kAhead));
    use(i, cell);
  }
}

template <int N, class T>
MANVATAR_INLINE void forward(const Job<T>& job, int64_t begin, int64_t end) {
  const int64_t channels = N ? N : job.shape.channels;
  const int64_t y_step = job.shape.x * channels, z_step = job.shape.plane_size();
  for_points(job, begin, end, [&](int64_t i, const Cell<T>& cell) __attribute__((always_inline)) {
    const T* corner = job.grid + cell.plane * z_step + cell.offset;
    T* out = job.out + i * channels;
    for (int64_t c = 0; c < channels; ++c)
      out[c] = interpolate(corner + c, channels, y_step, z_step, cell.fx, cell.fy, cell.fz);
  });
}

template <int N, class T>
MANVATAR_INLINE void backward_points(const Job<T>& job, int64_t begin, int64_t end) {
  const int64_t channels = N ? N : job.shape.channels;
  const int64_t y_step = job.shape.x * channels, z_step = job.shape.plane_size();
  for_points(job, begin, end, [&](int64_t i, const Cell<T>& cell) __attribute__((always_inline)) {
    const T* corner = job.grid + cell.plane * z_step + cell.offset;
    const T* grad = job.grad + i * channels;
    T dx = 0, dy = 0, dz = 0;
    for (int64_t c = 0; c < channels; ++c)
      add_derivatives(corner + c, channels, y_step, z_step, cell.fx, cell.fy, cell.fz, grad[c], dx, dy, dz);
    T* out = job.out + 3 * i;
    out[0] = dx * cell.slope_x, out[1] = dy * cell.slope_y, out[2] = dz * cell.slope_z;
  });
}

// ----------------------------------------------------------------------------------------------- gradient of the grid

// Points sorted by the plane of their lowest corner, in their own order within a plane.
struct ByPlane {
  std::vector<int64_t> first;   // (planes + 1,): the points of plane p are order[first[p]..first[p + 1])
  std::vector<int32_t> order;
};

template <int N, class T>
MANVATAR_INLINE void add_to_plane(const Job<T>& job, const Cell<T>& cell, const T* grad, int64_t plane, T fz) {
  const int64_t channels = N ? N : job.shape.channels;
  const int64_t y_step = job.shape.x * channels;
  T* near = job.out + plane * job.shape.plane_size() + cell.offset;
  T* far = near + y_step;
  const T w1 = cell.fx * (1 - cell.fy) * fz, w0 = (1 - cell.fx) * (1 - cell.fy) * fz;
  const T w3 = cell.fx * cell.fy * fz, w2 = (1 - cell.fx) * cell.fy * fz;
  for (int64_t c = 0; c < channels; ++c) near[c] += w0 * grad[c];
  for (int64_t c = 0; c < channels; ++c) near[channels + c] += w1 * grad[c];
  for (int64_t c = 0; c < channels; ++c) far[c] += w2 * grad[c];
  for (int64_t c = 0; c < channels; ++c) far[channels + c] += w3 * grad[c];
}

// The planes begin..end-1: the upper corners of the points before them, then plane after plane. A plane is cleared just
// before it is first added to, so that it is still in the cache.
template <int N, class T>
MANVATAR_INLINE void backward_grid(const Job<T>& job, const ByPlane& sorted, int64_t begin, int64_t end) {
  const int64_t channels = N ? N : job.shape.channels, size = job.shape.plane_size();
  const int64_t last = static_cast<int64_t>(sorted.order.size()) - 1;
  std::memset(job.out + begin * size, 0, size * sizeof(T));
  for (int64_t plane = std::max<int64_t>(begin - 1, 0); plane < end; ++plane) {
    const bool lower = plane >= begin, upper = plane + 1 < end;
    if (lower && upper) std::memset(job.out + (plane + 1) * size, 0, size * sizeof(T));
    for (int64_t k = sorted.first[plane]; k < sorted.first[plane + 1]; ++k) {
      const int64_t i = sorted.order[k], later = sorted.order[std::min(k + kAhead, last)];
      __builtin_prefetch(job.points + 3 * later);
      __builtin_prefetch(job.grad + channels * later);
      const Cell<T> cell = job.cell(i);
      const T* grad = job.grad + i * channels;
      if (lower) add_to_plane<N>(job, cell, grad, plane, 1 - cell.fz);
      if (upper) add_to_plane<N>(job, cell, grad, plane + 1, cell.fz);
    }
  }
}

// ------------------------------------------------------------------- one function a dtype, for each instruction set

#define MANVATAR_DTYPE(T)                                                                                               \
  MANVATAR_MULTIVERSION void run_forward(const Job<T>& job, int64_t begin, int64_t end) {                              \
    MANVATAR_BY_CHANNELS(job.shape.channels, forward, job, begin, end)                                                 \
  }                                                                                                                    \
  MANVATAR_MULTIVERSION void run_backward_points(const Job<T>& job, int64_t begin, int64_t end) {                      \
    MANVATAR_BY_CHANNELS(job.shape.channels, backward_points, job, begin, end)                                         \
  }                                                                                                                    \
  MANVATAR_MULTIVERSION void run_backward_grid(const Job<T>& job, const ByPlane& sorted, int64_t begin, int64_t end) { \
    MANVATAR_BY_CHANNELS(job.shape.channels, backward_grid, job, sorted, begin, end)                                   \
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

template <class T>
ByPlane sort_by_plane(const Job<T>& job, int64_t samples) {
  ByPlane sorted{std::vector<int64_t>(job.shape.planes() + 1, 0), std::vector<int32_t>(samples)};
  std::vector<int32_t> plane(samples);
  torch::stable::parallel_for(0, samples, 4 * kPointsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) plane[i] = static_cast<int32_t>(job.cell(i).plane);
  });
  for (int64_t i = 0; i < samples; ++i) ++sorted.first[plane[i] + 1];
  for (int64_t p = 0; p < job.shape.planes(); ++p) sorted.first[p + 1] += sorted.first[p];
  std::vector<int64_t> next(sorted.first.begin(), sorted.first.end() - 1);
  for (int64_t i = 0; i < samples; ++i) sorted.order[next[plane[i]]++] = static_cast<int32_t>(i);
  return sorted;
}

// Cuts the planes where the points before them, and with a smaller weight the nodes to clear, are shared evenly.
std::vector<int64_t> share_planes(const ByPlane& sorted, int64_t planes, int64_t tasks, double plane_cost) {
  std::vector<int64_t> cuts{0};
  const double total = static_cast<double>(sorted.first[planes]) + plane_cost * planes;
  for (int64_t p = 1; p < planes && static_cast<int64_t>(cuts.size()) < tasks; ++p) {
    if (static_cast<double>(sorted.first[p]) + plane_cost * p >= total * cuts.size() / tasks) cuts.push_back(p);
  }
  cuts.push_back(planes);
  return cuts;
}

template <class T>
void fill_grad_grid(const Job<T>& job, int64_t samples) {
  const ByPlane sorted = sort_by_plane(job, samples);
  const int64_t planes = job.shape.planes();
  // Clearing a node costs about 1/100 of adding a point to eight of them.
  const double plane_cost = static_cast<double>(job.shape.y * job.shape.x) / 100;
  const auto cuts = share_planes(sorted, planes, torch::stable::get_num_threads(), plane_cost);
  torch::stable::parallel_for(0, static_cast<int64_t>(cuts.size()) - 1, 1, [&](int64_t begin, int64_t end) {
    run_backward_grid(job, sorted, cuts[begin], cuts[end]);
  });
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
      job.out = grad_grid.mutable_data_ptr<T>();
      fill_grad_grid(job, in.samples);
    }
  });
  return {grad_grid, grad_points};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("sample_grid", TORCH_BOX(&sample_grid));
  library.impl("sample_grid_backward", TORCH_BOX(&sample_grid_backward));
}
