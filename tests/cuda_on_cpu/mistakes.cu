// Kernels with mistakes that must not pass unnoticed, and the same without. Each hands the numbers of its threads round the
// block: out[i] is the number of the next thread.

#include "launch.h"

#include <torch/csrc/stable/library.h>

#include <mma.h>

namespace {

using namespace manvatar;

__global__ void without_mistake(float* out) {
  float* shared = shared_memory<float>();
  shared[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

__global__ void without_barrier(float* out) {
  float* shared = shared_memory<float>();
  shared[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

// The second round overwrites what others have not read yet.
__global__ void overwritten(float* out) {
  float* shared = shared_memory<float>();
  for (int round = 0; round < 2; ++round) {
    shared[threadIdx.x] = round ? -1.0f : threadIdx.x;
    __syncthreads();
    if (round == 0) out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
  }
}

__global__ void only_within_warps(float* out) {
  float* shared = shared_memory<float>();
  shared[threadIdx.x] = threadIdx.x;
  __syncwarp();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

__global__ void barrier_for_some(float* out) {
  if (threadIdx.x != 5) __syncthreads();
  out[threadIdx.x] = (threadIdx.x + 1) % blockDim.x;
}

__global__ void behind_the_end(float* out) {
  shared_memory<float>()[threadIdx.x + 1] = 0;
  out[threadIdx.x] = (threadIdx.x + 1) % blockDim.x;
}

__global__ void never_set(float* out) {
  float* shared = shared_memory<float>();
  if (threadIdx.x != 5) shared[threadIdx.x] = (threadIdx.x + 1) % blockDim.x;
  out[threadIdx.x] = shared[threadIdx.x];
}

__global__ void left_out(float* out) {
  if (threadIdx.x != 5) out[threadIdx.x] = (threadIdx.x + 1) % blockDim.x;
}

// Uninteresting sums, of matrices that lie askew.
__global__ void askew(float* out) {
  using namespace nvcuda::wmma;
  fragment<accumulator, 16, 16, 16, float> sums;
  fill_fragment(sums, 0.0f);
  store_matrix_sync(shared_memory<float>() + 4, sums, 16, mem_row_major);
  out[threadIdx.x] = 0;
}

constexpr struct {
  const char* name;
  void (*kernel)(float*);
} kKernels[] = {
    {"without_mistake", without_mistake},
    {"without_barrier", without_barrier},
    {"overwritten", overwritten},
    {"only_within_warps", only_within_warps},
    {"barrier_for_some", barrier_for_some},
    {"behind_the_end", behind_the_end},
    {"never_set", never_set},
    {"left_out", left_out},
    {"askew", askew},
};

// What one block of `threads` writes with the memory it needs, or with `bytes`.
Tensor run_mistake(Tensor like, std::string name, int64_t threads, int64_t bytes) {
  const OnDevice device(like);
  Tensor out = empty_of(like, {threads});
  for (const auto& [known, kernel] : kKernels) {
    if (name != known) continue;
    const Blocks block{1, static_cast<int>(threads), bytes < 0 ? sizeof(float) * threads : bytes};
    launch("run_mistake", device, block, kernel, out.mutable_data_ptr<float>());
    return out;
  }
  fail("run_mistake(): there is no kernel ", name);
}

}  // namespace

STABLE_TORCH_LIBRARY(manvatar_mistakes, library) {
  library.def("run_mistake(Tensor like, str name, int threads, int bytes=-1) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(manvatar_mistakes, CPU, library) { library.impl("run_mistake", TORCH_BOX(&run_mistake)); }
