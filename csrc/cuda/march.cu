// march on CUDA: one thread a ray, twice: first to count its samples, then, when their places are known, to write them.
// How many there are has to come back to the host, which waits for it, unless it has said how much room there is.

#include "launch.h"
#include "march_checks.h"

#include <torch/csrc/stable/library.h>

#include <cub/device/device_scan.cuh>

#include <tuple>

namespace {

using namespace manvatar;

template <class T>
__global__ void __launch_bounds__(kThreads) blocks_kernel(int64_t blocks, MarchGrid<T> grid, uint8_t* __restrict__ any) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= blocks) return;
  const int64_t rows = b / grid.blocks[0];
  any[b] = any_in_block(grid, b % grid.blocks[0], rows % grid.blocks[1], rows / grid.blocks[1]);
}

template <class T>
__global__ void __launch_bounds__(kThreads) count_kernel(
    int64_t rays, MarchGrid<T> grid, MarchSteps<T> steps, const T* __restrict__ origins, const T* __restrict__ directions,
    const T* __restrict__ shift, int64_t* __restrict__ counts) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= rays) return;
  int64_t count = 0;
  march_ray(grid, steps, origins + 3 * r, directions + 3 * r, shift[r], [&](T) { ++count; });
  counts[r] = count;
}

template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(
    int64_t rays, MarchGrid<T> grid, MarchSteps<T> steps, const T* __restrict__ origins, const T* __restrict__ directions,
    const T* __restrict__ shift, const int64_t* __restrict__ ends, int64_t room, int64_t* __restrict__ offsets,
    T* __restrict__ distance_m, int64_t* __restrict__ ray) {
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= rays) return;
  int64_t place = r == 0 ? 0 : min(ends[r - 1], room);
  const int64_t end = min(ends[r], room);
  if (r == 0) offsets[0] = 0;
  offsets[r + 1] = end;
  T last = 0;
  march_ray(grid, steps, origins + 3 * r, directions + 3 * r, shift[r], [&](T distance) {
    last = distance;
    if (place >= end) return;
    distance_m[place] = distance;
    ray[place++] = r;
  });
  // Should the two kernels round differently, nothing is written beside its place and nothing is left unwritten.
  for (; place < end; ++place) {
    distance_m[place] = last;
    ray[place] = r;
  }
  for (int64_t spare = min(ends[rays - 1], room) + r; spare < room; spare += rays) {  // rows that belong to no ray
    distance_m[spare] = 0;
    ray[spare] = rays - 1;
  }
}

void check(cudaError_t error) { check_cuda("march", error); }

// Samples of each ray, of which there are some, become their running sum.
void sum_up(const Tensor& like, int64_t* counts, int64_t rays, cudaStream_t stream) {
  size_t bytes = 0;
  check(cub::DeviceScan::InclusiveSum(nullptr, bytes, counts, counts, rays, stream));
  Tensor scratch = empty_of_type(like, static_cast<int64_t>(bytes), ScalarType::Byte);
  check(cub::DeviceScan::InclusiveSum(scratch.mutable_data_ptr<uint8_t>(), bytes, counts, counts, rays, stream));
}

int64_t read_back(const int64_t* number, cudaStream_t stream) {
  int64_t value = 0;
  check(cudaMemcpyAsync(&value, number, sizeof(int64_t), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  return value;
}

std::tuple<Tensor, Tensor, Tensor> march(
    Tensor origins_m, Tensor directions, Tensor shift, Tensor occupied, Tensor lowest_per_m, std::vector<double> lower_m,
    std::vector<double> upper_m, double step_m, double stop_depth, int64_t margin_steps, int64_t capacity) {
  const MarchInputs in = check_march(
      origins_m, directions, shift, occupied, lowest_per_m, lower_m, upper_m, step_m, stop_depth, margin_steps);
  const OnDevice device(in.origins_m);
  const cudaStream_t stream = device.stream();
  Tensor any = empty_of_type(in.origins_m, in.blocks, ScalarType::Byte);
  Tensor counts = empty_of_type(in.origins_m, in.rays, ScalarType::Long);
  Tensor offsets = empty_of_type(in.origins_m, in.rays + 1, ScalarType::Long), distance_m, ray;
  int64_t *ends = counts.mutable_data_ptr<int64_t>(), *bounds = offsets.mutable_data_ptr<int64_t>();
  if (in.rays == 0) check(cudaMemsetAsync(bounds, 0, sizeof(int64_t), stream));
  dispatch_floating(in.origins_m, [&]<class T>() {
    const MarchGrid<T> grid = in.grid<T>(any);
    const MarchSteps<T> steps = in.steps<T>();
    const T *origins = in.origins_m.const_data_ptr<T>(), *along = in.directions.const_data_ptr<T>();
    const T* shifts = in.shift.const_data_ptr<T>();
    int64_t room = in.rays > 0 && capacity >= 0 ? capacity : 0;
    if (in.rays > 0) {
      launch("march", device, one_thread_each(in.blocks), blocks_kernel<T>,
          in.blocks, grid, any.mutable_data_ptr<uint8_t>());
      launch("march", device, one_thread_each(in.rays), count_kernel<T>,
          in.rays, grid, steps, origins, along, shifts, ends);
      sum_up(in.origins_m, ends, in.rays, stream);
      if (capacity < 0) room = read_back(ends + in.rays - 1, stream);
    }
    distance_m = empty_of(in.origins_m, {room});
    ray = empty_of_type(in.origins_m, room, ScalarType::Long);
    if (in.rays > 0) {
      launch("march", device, one_thread_each(in.rays), fill_kernel<T>,
          in.rays, grid, steps, origins, along, shifts, ends, room, bounds, distance_m.mutable_data_ptr<T>(),
          ray.mutable_data_ptr<int64_t>());
    }
  });
  return {distance_m, ray, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, MANVATAR_CUDA_KEY, library) {
  library.impl("march", TORCH_BOX(&march));
}
