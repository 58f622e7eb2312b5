// rasterize on CUDA. A thread a triangle draws the small ones and puts the others on a list, which blocks then draw together,
// a thread a pixel. A pixel keeps the largest key (inverse depth, then the lower triangle) by atomics, so the order in which
// triangles come changes nothing. What each pixel sees is worked out last, a thread a pixel.

#include "launch.h"
#include "rasterize_checks.h"

#include <torch/csrc/stable/library.h>

namespace {

using namespace manvatar;

using Key = unsigned long long;

constexpr int32_t kAlone = 256;          // pixels around a triangle that one thread still draws
constexpr int64_t kSharedBlocks = 1024;  // of the kernel that draws the others

template <class Index>
struct Job {
  const float *points, *depth;
  const Index* triangles;
  int64_t frames, vertices, count;
  int32_t width, height;
  bool cull;
  Key* keys;         // (frames, height, width), 0 = nothing
  int64_t* waiting;  // frame * count + triangle of those that blocks draw
  Key* waiting_count;
};

struct Corners {
  Corner c[3];
  bool usable;
};

// A wrong index makes a triangle unusable.
template <class Index>
__device__ Corners load_corners(const Job<Index>& job, int64_t frame, int64_t triangle) {
  Corners corners;
  corners.usable = true;
  for (int i = 0; i < 3; ++i) {
    const int64_t vertex = job.triangles[3 * triangle + i];
    if (vertex < 0 || vertex >= job.vertices) {
      corners.c[i] = Corner{};
    } else {
      const int64_t at = frame * job.vertices + vertex;
      corners.c[i] = corner_of(job.points[2 * at], job.points[2 * at + 1], job.depth[at]);
    }
    corners.usable = corners.usable && corners.c[i].inverse_depth > 0;
  }
  return corners;
}

// W is float for int32 edge functions and double for double ones, as on the CPU.
template <class W, class E>
__device__ void draw_pixel(
    Key* keys, const Edges<E>& edges, const Corners& corners, int32_t x, int32_t y, int64_t pixel, int64_t triangle) {
  const E px = centre(x), py = centre(y);
  const E e0 = edges.value(0, px, py), e1 = edges.value(1, px, py), e2 = edges.value(2, px, py);
  if (e0 + edges.bias[0] < 0 || e1 + edges.bias[1] < 0 || e2 + edges.bias[2] < 0) return;
  const W sum = W(e0) * corners.c[0].inverse_depth + W(e1) * corners.c[1].inverse_depth + W(e2) * corners.c[2].inverse_depth;
  const float inverse_depth = static_cast<float>(sum / W(edges.area));
  const Key key = static_cast<Key>(__float_as_uint(inverse_depth)) << 32 | (0xffffffffu - static_cast<uint32_t>(triangle));
  if (inverse_depth > 0 && keys[pixel] < key) atomicMax(keys + pixel, key);
}

template <class Index>
__global__ void __launch_bounds__(kThreads) draw_kernel(Job<Index> job) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= job.frames * job.count) return;
  const int64_t frame = i / job.count, triangle = i % job.count;
  const Corners corners = load_corners(job, frame, triangle);
  if (!corners.usable) return;
  const PixelBox box = box_of(corners.c[0], corners.c[1], corners.c[2], job.width, 0, job.height);
  if (box.empty()) return;
  if (!box.small || (box.x1 - box.x0 + 1) * (box.y1 - box.y0 + 1) > kAlone) {
    job.waiting[atomicAdd(job.waiting_count, Key(1))] = i;
    return;
  }
  const Edges<int32_t> edges = edges_of<int32_t>(corners.c[0], corners.c[1], corners.c[2]);
  if (edges.area == 0 || (job.cull && edges.back)) return;
  for (int32_t y = box.y0; y <= box.y1; ++y) {
    const int64_t row = (frame * job.height + y) * job.width;
    for (int32_t x = box.x0; x <= box.x1; ++x) draw_pixel<float>(job.keys, edges, corners, x, y, row + x, triangle);
  }
}

template <class Index>
__global__ void __launch_bounds__(kThreads) draw_waiting_kernel(Job<Index> job) {
  const int64_t waiting = static_cast<int64_t>(*job.waiting_count);
  for (int64_t w = blockIdx.x; w < waiting; w += gridDim.x) {
    const int64_t frame = job.waiting[w] / job.count, triangle = job.waiting[w] % job.count;
    const Corners corners = load_corners(job, frame, triangle);
    const PixelBox box = box_of(corners.c[0], corners.c[1], corners.c[2], job.width, 0, job.height);
    const Edges<double> edges = edges_of<double>(corners.c[0], corners.c[1], corners.c[2]);
    if (edges.area == 0 || (job.cull && edges.back)) continue;
    const int32_t wide = box.x1 - box.x0 + 1, pixels = wide * (box.y1 - box.y0 + 1);
    for (int32_t p = threadIdx.x; p < pixels; p += kThreads) {
      const int32_t x = box.x0 + p % wide, y = box.y0 + p / wide;
      draw_pixel<double>(job.keys, edges, corners, x, y, (frame * job.height + y) * job.width + x, triangle);
    }
  }
}

template <class Index>
__global__ void __launch_bounds__(kThreads) resolve_kernel(
    Job<Index> job, int32_t* __restrict__ triangle, float* __restrict__ barycentric, float* __restrict__ depth_m) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t pixels = static_cast<int64_t>(job.width) * job.height;
  if (i >= job.frames * pixels) return;
  const Key key = job.keys[i];
  if (key == 0) {
    triangle[i] = -1;
    barycentric[3 * i] = barycentric[3 * i + 1] = barycentric[3 * i + 2] = depth_m[i] = 0;
    return;
  }
  const int32_t t = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
  const int64_t frame = i / pixels, place = i % pixels;
  const Corners corners = load_corners(job, frame, t);
  triangle[i] = t;
  fragment(corners.c[0], corners.c[1], corners.c[2], static_cast<int32_t>(place % job.width),
           static_cast<int32_t>(place / job.width), barycentric + 3 * i, depth_m[i]);
}

// Uninitialised, 8 bytes each, on the device of `like`.
Tensor words(const Tensor& like, int64_t size) { return torch::stable::new_empty(like, {&size, 1}, ScalarType::Long); }

void clear(Key* words, int64_t count, cudaStream_t stream) {
  check_cuda("rasterize", cudaMemsetAsync(words, 0, sizeof(Key) * count, stream));
}

template <class Index>
void run(const RasterizeInputs& in, int32_t* triangle, float* barycentric, float* depth_m, const OnDevice& device) {
  const int64_t drawn = in.frames * in.count, pixels = in.frames * in.height * in.width;
  Tensor keys = words(in.depth_m, pixels), waiting = words(in.depth_m, drawn + 1);  // their number last
  int64_t* list = waiting.mutable_data_ptr<int64_t>();
  const Job<Index> job{
      in.points_px.const_data_ptr<float>(), in.depth_m.const_data_ptr<float>(), in.triangles.const_data_ptr<Index>(),
      in.frames, in.vertices, in.count, in.width, in.height, in.cull,
      reinterpret_cast<Key*>(keys.mutable_data_ptr<int64_t>()), list, reinterpret_cast<Key*>(list + drawn)};
  clear(job.keys, pixels, device.stream());
  clear(job.waiting_count, 1, device.stream());
  if (drawn > 0) {
    launch("rasterize", device, one_thread_each(drawn), draw_kernel<Index>, job);
    launch("rasterize", device, {kSharedBlocks}, draw_waiting_kernel<Index>, job);
  }
  launch("rasterize", device, one_thread_each(pixels), resolve_kernel<Index>,
      job, triangle, barycentric, depth_m);
}

std::tuple<Tensor, Tensor, Tensor> rasterize(
    Tensor points_px, Tensor depth_m, Tensor triangles, int64_t width, int64_t height, bool cull_back_faces) {
  const RasterizeInputs in = check_rasterize(points_px, depth_m, triangles, width, height, cull_back_faces);
  auto [triangle, barycentric, distance] = in.outputs();
  if (in.frames == 0) return {triangle, barycentric, distance};
  const OnDevice device(in.points_px);
  int32_t* seen = triangle.mutable_data_ptr<int32_t>();
  float *weights = barycentric.mutable_data_ptr<float>(), *away = distance.mutable_data_ptr<float>();
  if (in.triangles.scalar_type() == ScalarType::Int) run<int32_t>(in, seen, weights, away, device);
  else run<int64_t>(in, seen, weights, away, device);
  return {triangle, barycentric, distance};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, MANVATAR_CUDA_KEY, library) {
  library.impl("rasterize", TORCH_BOX(&rasterize));
}
