// march on the CPU: threads share the rays in small groups; each group gathers its samples, which are then put in order.

#include "march_checks.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

namespace {

using namespace manvatar;

constexpr int64_t kRaysPerGroup = 64;

template <class T>
void mark_blocks(const MarchGrid<T>& grid, uint8_t* any) {
  for (int64_t z = 0; z < grid.blocks[2]; ++z)
    for (int64_t y = 0; y < grid.blocks[1]; ++y)
      for (int64_t x = 0; x < grid.blocks[0]; ++x) any[grid.block(x, y, z)] = any_in_block(grid, x, y, z);
}

template <class T>
struct Job {
  MarchGrid<T> grid;
  MarchSteps<T> steps;
  const T *origins, *directions, *shift;
  int64_t* counts;  // samples of each ray
};

template <class T>
void gather(const Job<T>& job, int64_t begin, int64_t end, std::vector<T>& samples) {
  for (int64_t r = begin; r < end; ++r) {
    const size_t before = samples.size();
    march_ray(job.grid, job.steps, job.origins + 3 * r, job.directions + 3 * r, job.shift[r],
              [&](T distance) { samples.push_back(distance); });
    job.counts[r] = static_cast<int64_t>(samples.size() - before);
  }
}

std::tuple<Tensor, Tensor, Tensor> march(
    Tensor origins_m, Tensor directions, Tensor shift, Tensor occupied, Tensor lowest_per_m, std::vector<double> lower_m,
    std::vector<double> upper_m, double step_m, double stop_depth, int64_t margin_steps, int64_t capacity) {
  if (capacity >= 0) fail("march(): expected no capacity on the CPU, where nobody has to wait for the number of samples");
  const MarchInputs in = check_march(
      origins_m, directions, shift, occupied, lowest_per_m, lower_m, upper_m, step_m, stop_depth, margin_steps);
  Tensor any = empty_of_type(in.origins_m, in.blocks, ScalarType::Byte);
  Tensor offsets = empty_of_type(in.origins_m, in.rays + 1, ScalarType::Long), distance_m, ray;
  int64_t* ends = offsets.mutable_data_ptr<int64_t>();
  dispatch_floating(in.origins_m, [&]<class T>() {
    Job<T> job{in.grid<T>(any), in.steps<T>(), in.origins_m.const_data_ptr<T>(), in.directions.const_data_ptr<T>(),
               in.shift.const_data_ptr<T>(), ends + 1};
    mark_blocks(job.grid, any.mutable_data_ptr<uint8_t>());
    const int64_t groups = (in.rays + kRaysPerGroup - 1) / kRaysPerGroup;
    std::vector<std::vector<T>> samples(groups);
    torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g)
        gather(job, g * kRaysPerGroup, std::min(in.rays, (g + 1) * kRaysPerGroup), samples[g]);
    });
    ends[0] = 0;
    for (int64_t r = 0; r < in.rays; ++r) ends[r + 1] += ends[r];
    distance_m = empty_of(in.origins_m, {ends[in.rays]});
    ray = empty_of_type(in.origins_m, ends[in.rays], ScalarType::Long);
    T* out = distance_m.mutable_data_ptr<T>();
    int64_t* owner = ray.mutable_data_ptr<int64_t>();
    torch::stable::parallel_for(0, groups, 16, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) std::copy(samples[g].begin(), samples[g].end(), out + ends[g * kRaysPerGroup]);
      for (int64_t r = begin * kRaysPerGroup; r < std::min(in.rays, end * kRaysPerGroup); ++r)
        std::fill(owner + ends[r], owner + ends[r + 1], r);
    });
  });
  return {distance_m, ray, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("march", TORCH_BOX(&march));
}
