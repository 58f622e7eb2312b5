// Node grids on the CPU: reading and adding whole nodes as vectors, and the gradient of a grid.
//
// Gradient of a grid: threads share the planes of nodes, and the points are first sorted by plane, so that no two threads
// write one node, every node adds its points in one order whatever the number of threads, and a thread's writes stay within
// a few planes at a time.
#pragma once

#include "multiversion.h"
#include "sample_grid_math.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace manvatar {

constexpr int64_t kPointsPerTask = 1024;
constexpr int64_t kAhead = 8;  // points whose memory is asked for before it is needed

// W channels of a node, W a power of two; one is a plain number. `in_memory` may stand at the address of any element. (As a
// template argument a type loses that attribute, so values are passed on as `type`.)
template <class T, int W>
struct ChannelsOf {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
  typedef T in_memory __attribute__((vector_size(W * sizeof(T)), aligned(sizeof(T))));
};
template <class T>
struct ChannelsOf<T, 1> {
  typedef T type, in_memory;
};
template <class T, int W>
using Channels = typename ChannelsOf<T, W>::type;

template <int W, class T>
MANVATAR_INLINE Channels<T, W> load_channels(const T* p) {
  return *reinterpret_cast<const typename ChannelsOf<T, W>::in_memory*>(p);
}
template <int W, class T>
MANVATAR_INLINE void store_channels(T* p, const Channels<T, W>& value) {
  *reinterpret_cast<typename ChannelsOf<T, W>::in_memory*>(p) = value;
}

template <int W, class T>
MANVATAR_INLINE T sum_channels(const Channels<T, W>& v) {
  if constexpr (W == 1) {
    return v;
  } else {
    T total = 0;
    for (int c = 0; c < W; ++c) total += v[c];
    return total;
  }
}

// Calls f<W>(...) with the widest vector of which `channels` is a multiple.
#define MANVATAR_BY_WIDTH(channels, f, ...)              \
  do {                                                   \
    if ((channels) % 8 == 0) f<8>(__VA_ARGS__);          \
    else if ((channels) % 4 == 0) f<4>(__VA_ARGS__);     \
    else if ((channels) % 2 == 0) f<2>(__VA_ARGS__);     \
    else f<1>(__VA_ARGS__);                              \
  } while (false)

template <class T>
MANVATAR_INLINE void prefetch_corners(const T* grid, const GridShape& shape, const Cell<T>& cell) {
  const T* corner = grid + cell.plane * shape.plane_size() + cell.offset;
  const int64_t y_step = shape.x * shape.channels, z_step = shape.plane_size();
  const int64_t last = 2 * shape.channels - 1;  // a row of two nodes may lie across two cache lines
  for (const T* row : {corner, corner + y_step, corner + z_step, corner + z_step + y_step}) {
    __builtin_prefetch(row);
    __builtin_prefetch(row + last);
  }
}

// Writes the channels of a grid at a point to out[0..channels).
template <int W, class T>
MANVATAR_INLINE void interpolate_channels(const T* grid, const GridShape& shape, const Cell<T>& cell, T* out) {
  const int64_t channels = shape.channels, y_step = shape.x * channels, z_step = shape.plane_size();
  const T* corner = grid + cell.plane * z_step + cell.offset;
  for (int64_t c = 0; c < channels; c += W) {
    const auto corners = corners_at(corner + c, channels, y_step, z_step, [](const T* p) __attribute__((always_inline)) {
      return load_channels<W>(p);
    });
    store_channels<W>(out + c, interpolate(corners, cell.fx, cell.fy, cell.fz));
  }
}

// Adds the derivative of sum_c grad[c] * channel c by the unit coordinates to out[0..2].
template <int W, class T>
MANVATAR_INLINE void add_point_gradient(
    const T* grid, const GridShape& shape, const Cell<T>& cell, const T* grad, T* out) {
  const int64_t channels = shape.channels, y_step = shape.x * channels, z_step = shape.plane_size();
  const T* corner = grid + cell.plane * z_step + cell.offset;
  Channels<T, W> dx = {}, dy = {}, dz = {};
  for (int64_t c = 0; c < channels; c += W) {
    const auto corners = corners_at(corner + c, channels, y_step, z_step, [](const T* p) __attribute__((always_inline)) {
      return load_channels<W>(p);
    });
    add_derivatives(corners, cell.fx, cell.fy, cell.fz, load_channels<W>(grad + c), dx, dy, dz);
  }
  out[0] += sum_channels<W, T>(dx) * cell.slope_x;
  out[1] += sum_channels<W, T>(dy) * cell.slope_y;
  out[2] += sum_channels<W, T>(dz) * cell.slope_z;
}

// ------------------------------------------------------------------------------------------------ gradient of the grid

template <class T>
struct GridGradient {
  T* out;  // the grid's gradient
  GridShape shape;
  const T* points;
  const int64_t* frame;  // null: all 0
  const T* grad;         // that of point i begins at grad + i * grad_stride
  int64_t grad_stride;
  int64_t samples;
  bool clear;  // otherwise it is added to what is there

  MANVATAR_INLINE Cell<T> cell(int64_t i) const { return locate(points + 3 * i, frame ? frame[i] : 0, shape); }
};

// Points sorted by the plane of their lowest corner, in their own order within a plane.
struct ByPlane {
  std::vector<int64_t> first;   // (planes + 1,): the points of plane p are order[first[p]..first[p + 1])
  std::vector<int32_t> order;
};

template <class T>
inline ByPlane sort_by_plane(const GridGradient<T>& job) {
  ByPlane sorted{std::vector<int64_t>(job.shape.planes() + 1, 0), std::vector<int32_t>(job.samples)};
  std::vector<int32_t> plane(job.samples);
  torch::stable::parallel_for(0, job.samples, 4 * kPointsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) plane[i] = static_cast<int32_t>(job.cell(i).plane);
  });
  for (int64_t i = 0; i < job.samples; ++i) ++sorted.first[plane[i] + 1];
  for (int64_t p = 0; p < job.shape.planes(); ++p) sorted.first[p + 1] += sorted.first[p];
  std::vector<int64_t> next(sorted.first.begin(), sorted.first.end() - 1);
  for (int64_t i = 0; i < job.samples; ++i) sorted.order[next[plane[i]]++] = static_cast<int32_t>(i);
  return sorted;
}

// Cuts the planes where the points before them, and with a smaller weight the nodes to clear, are shared evenly.
inline std::vector<int64_t> share_planes(const ByPlane& sorted, int64_t planes, int64_t tasks, double plane_cost) {
  std::vector<int64_t> cuts{0};
  const double total = static_cast<double>(sorted.first[planes]) + plane_cost * planes;
  for (int64_t p = 1; p < planes && static_cast<int64_t>(cuts.size()) < tasks; ++p) {
    if (static_cast<double>(sorted.first[p]) + plane_cost * p >= total * cuts.size() / tasks) cuts.push_back(p);
  }
  cuts.push_back(planes);
  return cuts;
}

template <int W, class T>
MANVATAR_INLINE void add_to_plane(const GridGradient<T>& job, const Cell<T>& cell, const T* grad, int64_t plane, T fz) {
  const int64_t channels = job.shape.channels;
  T* corner = job.out + plane * job.shape.plane_size() + cell.offset;
  for (int64_t c = 0; c < channels; c += W) {
    const Channels<T, W> g = load_channels<W>(grad + c);
    spread_in_plane(
        corner + c, channels, job.shape.x * channels, cell.fx, cell.fy, fz,
        [&](T* p, T weight) __attribute__((always_inline)) { store_channels<W, T>(p, load_channels<W>(p) + weight * g); });
  }
}

// The planes begin..end-1: the upper corners of the points before them, then plane after plane. A plane is cleared just
// before it is first added to, so that it is still in the cache.
template <int W, class T>
MANVATAR_INLINE void add_to_planes(const GridGradient<T>& job, const ByPlane& sorted, int64_t begin, int64_t end) {
  const int64_t size = job.shape.plane_size();
  if (job.clear) std::memset(job.out + begin * size, 0, size * sizeof(T));
  Cell<T> ring[kAhead];
  for (int64_t plane = std::max<int64_t>(begin - 1, 0); plane < end; ++plane) {
    const bool lower = plane >= begin, upper = plane + 1 < end;
    if (job.clear && lower && upper) std::memset(job.out + (plane + 1) * size, 0, size * sizeof(T));
    const int64_t first = sorted.first[plane], last = sorted.first[plane + 1];
    for (int64_t k = first - kAhead; k < last; ++k) {
      Cell<T>& slot = ring[(k - first + kAhead) % kAhead];
      const Cell<T> cell = slot;
      if (k + kAhead < last) {
        const int64_t later = sorted.order[k + kAhead];
        const int64_t after = sorted.order[std::min(k + 3 * kAhead, last - 1)];
        __builtin_prefetch(job.points + 3 * after);
        __builtin_prefetch(job.grad + job.grad_stride * after);
        prefetch_corners(job.out, job.shape, slot = job.cell(later));
      }
      if (k < first) continue;
      const T* grad = job.grad + job.grad_stride * sorted.order[k];
      if (lower) add_to_plane<W>(job, cell, grad, plane, 1 - cell.fz);
      if (upper) add_to_plane<W>(job, cell, grad, plane + 1, cell.fz);
    }
  }
}

template <class T>
MANVATAR_INLINE void add_to_planes_by_width(const GridGradient<T>& job, const ByPlane& sorted, int64_t begin, int64_t end) {
  MANVATAR_BY_WIDTH(job.shape.channels, add_to_planes, job, sorted, begin, end);
}

// `run` is add_to_planes_by_width, compiled for several instruction sets where it is used.
template <class T, class Run>
inline void fill_grid_gradient(const GridGradient<T>& job, const Run& run) {
  const ByPlane sorted = sort_by_plane(job);
  // Clearing a node costs about 1/100 of adding a point to eight of them.
  const double plane_cost = job.clear ? static_cast<double>(job.shape.y * job.shape.x) / 100 : 0.0;
  const auto cuts = share_planes(sorted, job.shape.planes(), torch::stable::get_num_threads(), plane_cost);
  torch::stable::parallel_for(0, static_cast<int64_t>(cuts.size()) - 1, 1, [&](int64_t begin, int64_t end) {
    run(job, sorted, cuts[begin], cuts[end]);
  });
}

}  // namespace manvatar
