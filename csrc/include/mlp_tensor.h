// mlp on tensor cores: the tile of samples and the weights in shared memory, and how they are filled.
#pragma once

#include "mlp_cuda.h"

#include <cuda_bf16.h>

namespace manvatar {

constexpr int kSide = 16;  // of the matrices that are multiplied at a time
constexpr int kRows = 2 * kSide;
constexpr int kUnits = 32;  // hidden units of a warp: two matrices wide, one a lane
constexpr int kMaxChunk = 8;
constexpr int kMostUnits = 256, kMostInputs = 256, kMostOut = 16;

constexpr int rounded_up(int n, int to) { return (n + to - 1) / to * to; }

// A network and what is in shared memory, as offsets in bytes. Rows are 16 bytes longer than they need be, so that eight of
// them begin in different banks.
struct TensorJob {
  Network<float> net;
  int parts;
  int width, units;                          // inputs and hidden units, rounded up; what is behind them is zero
  int x_stride, hidden_stride, sums_stride;  // elements of a row
  int x, to_hidden, sums, out_weight;        // behind the weights, whose rows are as long as those of x
  int grad;     // backward: of the outputs, in rows of grad_stride
  int partial;  // forward: what each warp adds to the outputs, (warps, out, kRows)
  int grad_stride, bytes;
  int chunk;  // matrices side by side in the weight gradient of a block

  TensorJob(const Network<float>& net, int64_t parts, bool backward) : net(net), parts(static_cast<int>(parts)) {
    width = rounded_up(net.in, kSide);
    units = rounded_up(net.hidden, kUnits);
    x_stride = width + 8;
    hidden_stride = units + 8;
    sums_stride = std::max(units, backward ? width : 0) + 4;
    x = weight_plane() * this->parts * 2;
    to_hidden = x + x_plane() * this->parts * 2;
    sums = to_hidden + (backward ? hidden_plane() * this->parts * 2 : 0);
    out_weight = sums + kRows * sums_stride * 4;
    grad = partial = out_weight + net.out * units * 4;
    grad_stride = rounded_up(net.out, 4);
    bytes = grad + 4 * kRows * (backward ? grad_stride : units / kUnits * net.out);
    const int across = width / kSide, chunks = (across + kMaxChunk - 1) / kMaxChunk;
    chunk = (across + chunks - 1) / chunks;
  }

  __host__ __device__ int weight_plane() const { return units * x_stride; }
  __host__ __device__ int x_plane() const { return kRows * x_stride; }
  __host__ __device__ int hidden_plane() const { return kRows * hidden_stride; }

  Blocks blocks(const char* op) const {
    return {blocks_for_tiles(op, net.samples, kRows, std::max(4, 512 / units)), units, static_cast<size_t>(bytes)};
  }
};

// Tensor cores know bfloat16 from compute capability 8.0 on; for older chips the kernels are empty, and never launched.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <class T>
__device__ T* at(int offset) {
  return reinterpret_cast<T*>(shared_memory<unsigned char>() + offset);
}

// Calls f(i, j) for the parts of two factors whose products count, the smallest first.
template <class F>
__device__ void for_products(int parts, const F& f) {
  for (int total = parts - 1; total >= 0; --total)
    for (int i = 0; i <= total; ++i) f(i, total - i);
}

__device__ inline void store_parts(__nv_bfloat16* to, int plane, int parts, float value) {
  for (int p = 0; p < parts; ++p) {
    const __nv_bfloat16 part = __float2bfloat16(value);
    to[p * plane] = part;
    value -= __bfloat162float(part);
  }
}

// The weights, and zeros where they and x are rounded up.
__device__ inline void fill_weights(const TensorJob& job) {
  const Network<float>& net = job.net;
  __nv_bfloat16 *weight = at<__nv_bfloat16>(0), *x = at<__nv_bfloat16>(job.x);
  for (int i = threadIdx.x; i < job.units * job.width; i += blockDim.x) {
    const int h = i / job.width, k = i % job.width;
    const bool there = h < net.hidden && k < net.in;
    const float value = there ? net.hidden_weight[h * net.in + k] : 0.0f;
    store_parts(weight + h * job.x_stride + k, job.weight_plane(), job.parts, value);
  }
  for (int s = threadIdx.x; s < kRows; s += blockDim.x)
    for (int k = net.in; k < job.width; ++k) store_parts(x + s * job.x_stride + k, job.x_plane(), job.parts, 0.0f);
  float* out_weight = at<float>(job.out_weight);
  for (int i = threadIdx.x; i < net.out * job.units; i += blockDim.x) {
    const int o = i / job.units, h = i % job.units;
    out_weight[i] = h < net.hidden ? net.out_weight[o * net.hidden + h] : 0.0f;
  }
}

// What the hidden layer sees of the samples begin..begin+count-1; rows behind them are those of a sample of zeros.
__device__ inline void fill_rows(const TensorJob& job, int64_t begin, int count) {
  const Network<float>& net = job.net;
  for (int i = threadIdx.x; i < kRows * net.given; i += blockDim.x) {
    const int s = i / net.given, k = i % net.given;
    const float value = s < count ? net.inputs[begin * net.given + i] : 0.0f;
    __nv_bfloat16* to = at<__nv_bfloat16>(job.x) + s * job.x_stride + k;
    store_parts(to, job.x_plane(), job.parts, value);
    for (int section = 1; section * net.given < net.in; section += 2) {
      float sine, cosine;
      sincosf(value * static_cast<float>(embedding_factor(section)), &sine, &cosine);
      store_parts(to + section * net.given, job.x_plane(), job.parts, sine);
      store_parts(to + (section + 1) * net.given, job.x_plane(), job.parts, cosine);
    }
  }
}

#endif

}  // namespace manvatar
