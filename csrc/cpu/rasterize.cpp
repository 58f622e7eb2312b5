// rasterize on the CPU: threads share the frames, or bands of rows where there are fewer frames than threads. Triangle after
// triangle is drawn into a depth buffer of the band, eight pixels of a row at once; what each pixel sees is worked out
// afterwards, once a pixel.

#include "multiversion.h"
#include "rasterize_checks.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // how vectors would be passed does not matter, since they never are
#endif

namespace {

using namespace manvatar;

constexpr int32_t kLanes = 8;

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef double Doubles __attribute__((vector_size(8 * kLanes)));
typedef Floats FloatsAt __attribute__((aligned(4), may_alias));  // anywhere in memory
typedef Ints IntsAt __attribute__((aligned(4), may_alias));

constexpr Ints kLane = {0, 1, 2, 3, 4, 5, 6, 7};

struct Job {
  const float *points, *depth;
  const int32_t* triangles;
  int64_t frames, vertices, count;
  int32_t width, height;
  bool cull;
  int32_t* triangle;
  float *barycentric, *depth_m;
};

// Buffers of a thread. Rows are kLanes longer than the picture: lanes behind its last column go there.
struct Scratch {
  std::vector<Corner> corners;
  std::vector<float> nearest;  // inverse depth, 0 = nothing yet
  std::vector<int32_t> seen;   // triangle
  int64_t stride;

  Scratch(const Job& job, int32_t rows)
      : corners(job.vertices), nearest((job.width + kLanes) * rows), seen(nearest.size()), stride(job.width + kLanes) {}
};

// The nearer of what was there and triangle t; where both are equally near the one that came first, which is the lower.
MANVATAR_INLINE void keep_nearer(float* nearest, int32_t* seen, const Ints& covered, const Floats& inverse_depth, int32_t t) {
  FloatsAt& near = *reinterpret_cast<FloatsAt*>(nearest);
  IntsAt& who = *reinterpret_cast<IntsAt*>(seen);
  const Ints better = covered & (inverse_depth > near);
  near = better ? inverse_depth : near;
  who = better ? Ints{} + t : who;
}

// A small triangle: edge functions in int32, from row to row by addition.
MANVATAR_INLINE void draw_small(
    Scratch& scratch, const Edges<int32_t>& edges, const Corner* const* corner, const PixelBox& box, int32_t row0, int32_t t) {
  const float scale = 1 / static_cast<float>(edges.area);
  Ints value[3];
  float weight[3];
  for (int i = 0; i < 3; ++i) {
    value[i] = edges.value(i, centre(box.x0), centre(box.y0)) + edges.a[i] * kUnits * kLane;
    weight[i] = corner[i]->inverse_depth * scale;
  }
  for (int32_t y = box.y0; y <= box.y1; ++y) {
    const int64_t row = (y - row0) * scratch.stride;
    Ints e0 = value[0], e1 = value[1], e2 = value[2];
    for (int32_t x = box.x0; x <= box.x1; x += kLanes) {
      const Ints covered = ((e0 + edges.bias[0]) | (e1 + edges.bias[1]) | (e2 + edges.bias[2])) >= 0;
      const Floats inverse_depth = __builtin_convertvector(e0, Floats) * weight[0] +
                                   __builtin_convertvector(e1, Floats) * weight[1] +
                                   __builtin_convertvector(e2, Floats) * weight[2];
      keep_nearer(&scratch.nearest[row + x], &scratch.seen[row + x], covered, inverse_depth, t);
      e0 += edges.a[0] * kUnits * kLanes;
      e1 += edges.a[1] * kUnits * kLanes;
      e2 += edges.a[2] * kUnits * kLanes;
    }
    for (int i = 0; i < 3; ++i) value[i] += edges.b[i] * kUnits;
  }
}

// Narrows first..last to where an edge function, `start` at column 0 and growing by `step` a column, may reach 0; a column
// is left at either end for rounding.
MANVATAR_INLINE void narrow(double start, double step, double& first, double& last) {
  if (step > 0) first = std::max(first, -start / step - 1);
  else if (step < 0) last = std::min(last, -start / step + 1);
  else if (start < 0) last = -1;
}

// Any triangle: edge functions in float64, over the part of each row that lies within all edges.
MANVATAR_INLINE void draw_large(
    Scratch& scratch, const Edges<double>& edges, const Corner* const* corner, const PixelBox& box, int32_t row0, int32_t t) {
  const Doubles offset = __builtin_convertvector(kLane, Doubles) * double(kUnits);
  for (int32_t y = box.y0; y <= box.y1; ++y) {
    const int64_t row = (y - row0) * scratch.stride;
    double across[3], first = box.x0, last = box.x1;
    for (int i = 0; i < 3; ++i) {
      across[i] = edges.b[i] * (centre(y) - edges.at_y[i]);
      narrow(edges.a[i] * (centre(0) - edges.at_x[i]) + across[i] + edges.bias[i], edges.a[i] * kUnits, first, last);
    }
    if (!(first <= last)) continue;
    const int32_t end = static_cast<int32_t>(last);
    for (int32_t x = static_cast<int32_t>(first); x <= end; x += kLanes) {
      const Doubles at = offset + double(centre(x));
      const Doubles e0 = edges.a[0] * (at - edges.at_x[0]) + across[0];
      const Doubles e1 = edges.a[1] * (at - edges.at_x[1]) + across[1];
      const Doubles e2 = edges.a[2] * (at - edges.at_x[2]) + across[2];
      const auto covered = (e0 + edges.bias[0] >= 0) & (e1 + edges.bias[1] >= 0) & (e2 + edges.bias[2] >= 0);
      const Doubles inverse_depth =
          (e0 * corner[0]->inverse_depth + e1 * corner[1]->inverse_depth + e2 * corner[2]->inverse_depth) / edges.area;
      keep_nearer(&scratch.nearest[row + x], &scratch.seen[row + x], __builtin_convertvector(covered, Ints),
                  __builtin_convertvector(inverse_depth, Floats), t);
    }
  }
}

MANVATAR_INLINE void draw(const Job& job, Scratch& scratch, int32_t t, int32_t row0, int32_t row1) {
  const int32_t* index = job.triangles + 3 * static_cast<int64_t>(t);
  const Corner* const corner[3] = {&scratch.corners[index[0]], &scratch.corners[index[1]], &scratch.corners[index[2]]};
  const Corner &a = *corner[0], &b = *corner[1], &c = *corner[2];
  const PixelBox box = box_of(a, b, c, job.width, row0, row1);
  if (box.empty() || a.inverse_depth == 0 || b.inverse_depth == 0 || c.inverse_depth == 0) return;
  if (box.small) {
    const Edges<int32_t> edges = edges_of<int32_t>(a, b, c);
    if (edges.area != 0 && !(job.cull && edges.back)) draw_small(scratch, edges, corner, box, row0, t);
  } else {
    const Edges<double> edges = edges_of<double>(a, b, c);
    if (edges.area != 0 && !(job.cull && edges.back)) draw_large(scratch, edges, corner, box, row0, t);
  }
}

MANVATAR_INLINE void resolve(const Job& job, const Scratch& scratch, int64_t frame, int32_t row0, int32_t row1) {
  for (int32_t y = row0; y < row1; ++y) {
    const int64_t out = (frame * job.height + y) * job.width, row = (y - row0) * scratch.stride;
    for (int32_t x = 0; x < job.width; ++x) {
      const int32_t t = scratch.nearest[row + x] > 0 ? scratch.seen[row + x] : -1;
      job.triangle[out + x] = t;
      float* barycentric = job.barycentric + 3 * (out + x);
      if (t < 0) {
        barycentric[0] = barycentric[1] = barycentric[2] = job.depth_m[out + x] = 0;
        continue;
      }
      const int32_t* index = job.triangles + 3 * static_cast<int64_t>(t);
      fragment(scratch.corners[index[0]], scratch.corners[index[1]], scratch.corners[index[2]], x, y, barycentric,
               job.depth_m[out + x]);
    }
  }
}

// Rows row0..row1-1 of a frame.
MANVATAR_MULTIVERSION void run_band(const Job& job, Scratch& scratch, int64_t frame, int32_t row0, int32_t row1) {
  const float* points = job.points + 2 * frame * job.vertices;
  const float* depth = job.depth + frame * job.vertices;
  Corner* corners = scratch.corners.data();
  for (int64_t v = 0; v < job.vertices; ++v) corners[v] = corner_of(points[2 * v], points[2 * v + 1], depth[v]);
  std::fill_n(scratch.nearest.begin(), (row1 - row0) * scratch.stride, 0.0f);
  for (int64_t t = 0; t < job.count; ++t) draw(job, scratch, static_cast<int32_t>(t), row0, row1);
  resolve(job, scratch, frame, row0, row1);
}

// A wrong index would read outside the vertices.
template <class Index>
std::vector<int32_t> checked_triangles(const RasterizeInputs& in) {
  const Index* index = in.triangles.const_data_ptr<Index>();
  std::vector<int32_t> triangles(3 * in.count);
  bool right = true;
  for (int64_t i = 0; i < 3 * in.count; ++i) {
    right &= index[i] >= 0 && index[i] < in.vertices;
    triangles[i] = static_cast<int32_t>(index[i]);
  }
  for (int64_t i = 0; !right && i < 3 * in.count; ++i) {
    if (index[i] < 0 || index[i] >= in.vertices)
      fail("rasterize(): expected triangles to hold 0 to ", in.vertices - 1, ", got ", index[i], " in triangle ", i / 3);
  }
  return triangles;
}

std::tuple<Tensor, Tensor, Tensor> rasterize(
    Tensor points_px, Tensor depth_m, Tensor triangles, int64_t width, int64_t height, bool cull_back_faces) {
  const RasterizeInputs in = check_rasterize(points_px, depth_m, triangles, width, height, cull_back_faces);
  const std::vector<int32_t> index =
      in.triangles.scalar_type() == ScalarType::Int ? checked_triangles<int32_t>(in) : checked_triangles<int64_t>(in);
  auto [triangle, barycentric, distance] = in.outputs();
  const Job job{in.points_px.const_data_ptr<float>(), in.depth_m.const_data_ptr<float>(), index.data(),
                in.frames, in.vertices, in.count, in.width, in.height, in.cull,
                triangle.mutable_data_ptr<int32_t>(), barycentric.mutable_data_ptr<float>(),
                distance.mutable_data_ptr<float>()};
  if (in.frames == 0) return {triangle, barycentric, distance};
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t bands = std::min<int64_t>((threads + in.frames - 1) / in.frames, in.height);
  torch::stable::parallel_for(0, in.frames * bands, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch(job, static_cast<int32_t>((in.height + bands - 1) / bands));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t band = task % bands;
      run_band(job, scratch, task / bands, static_cast<int32_t>(in.height * band / bands),
               static_cast<int32_t>(in.height * (band + 1) / bands));
    }
  });
  return {triangle, barycentric, distance};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("rasterize", TORCH_BOX(&rasterize));
}
