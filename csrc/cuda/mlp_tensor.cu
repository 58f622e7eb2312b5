// mlp on tensor cores: the factors of the hidden layer's products, forward and backward, are cut into one, two or three
// bfloat16 numbers, whose products are summed in float32 but for the smallest; all else is float32, as on the CPU's matrix
// unit. The parts of a matrix lie one behind the other, as planes.
//
// A block holds the hidden weights in shared memory and takes tiles of kRows samples. A warp computes 32 hidden units of the
// tile, of which each lane then has one: the bias of the sample's frame, the activation, and the sums of the gradients over
// samples, which stay in its registers. So do the sums of the weight gradient, in fragments, for at most kMaxChunk times 16
// columns; where there are more, further blocks (blockIdx.y) compute the hidden layer again for theirs.

#include "mlp_tensor.h"

#include <mma.h>

namespace manvatar {

namespace {

using namespace nvcuda;

using Job = TensorJob;

using Sums = wmma::fragment<wmma::accumulator, kSide, kSide, kSide, float>;
template <class Use, class Layout>
using Factor = wmma::fragment<Use, kSide, kSide, kSide, __nv_bfloat16, Layout>;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// The hidden units of this warp for the tile, before their bias, to `sums`.
__device__ void multiply_hidden(const Job& job, int first) {
  const __nv_bfloat16 *weight = at<__nv_bfloat16>(0) + first * job.x_stride, *x = at<__nv_bfloat16>(job.x);
  Sums sums[2][2];
#pragma unroll
  for (int i = 0; i < 4; ++i) wmma::fill_fragment(sums[i / 2][i % 2], 0.0f);
  for_products(job.parts, [&](int x_part, int weight_part) {
    const __nv_bfloat16 *from_x = x + x_part * job.x_plane(), *from_weight = weight + weight_part * job.weight_plane();
    for (int k = 0; k < job.width; k += kSide) {
      Factor<wmma::matrix_a, wmma::row_major> rows[2];
      Factor<wmma::matrix_b, wmma::col_major> columns[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        wmma::load_matrix_sync(rows[i], from_x + i * kSide * job.x_stride + k, job.x_stride);
        wmma::load_matrix_sync(columns[i], from_weight + i * kSide * job.x_stride + k, job.x_stride);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) wmma::mma_sync(sums[i / 2][i % 2], rows[i / 2], columns[i % 2], sums[i / 2][i % 2]);
    }
  });
  float* to = at<float>(job.sums) + first;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float* corner = to + i / 2 * kSide * job.sums_stride + i % 2 * kSide;
    wmma::store_matrix_sync(corner, sums[i / 2][i % 2], job.sums_stride, wmma::mem_row_major);
  }
  __syncwarp();  // lanes read what others wrote
}

// What the hidden units of this warp add to the outputs of the tile, to `partial`; a lane a sample.
__device__ void multiply_out(const Job& job, int64_t begin, int count, int first) {
  const Network<float>& net = job.net;
  const int lane = threadIdx.x % kUnits, kept = min(kUnits, net.hidden - first);
  const float* bias = net.hidden_bias + net.frame[begin + min(lane, count - 1)] * net.hidden + first;
  const float4* sums = at<float4>(job.sums + (lane * job.sums_stride + first) * 4);
  for (int o = 0; o < net.out; o += 4) {
    float totals[4] = {0, 0, 0, 0};
    for (int h = 0; h < kept; h += 4) {
      float4 a = sums[h / 4];
      a = {leaky_relu(a.x + bias[h]), leaky_relu(a.y + bias[h + 1]), leaky_relu(a.z + bias[h + 2]),
           leaky_relu(a.w + bias[h + 3])};
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        if (o + p >= net.out) continue;
        const float4 w = *at<float4>(job.out_weight + ((o + p) * job.units + first + h) * 4);
        totals[p] += a.x * w.x + a.y * w.y + (a.z * w.z + a.w * w.w);
      }
    }
    float* partial = at<float>(job.partial) + (first / kUnits * net.out + o) * kRows + lane;
#pragma unroll
    for (int p = 0; p < 4; ++p)
      if (o + p < net.out) partial[p * kRows] = totals[p];
  }
}

// grad_inputs of the tile from the gradients of what the hidden layer saw, which lie in `sums`.
__device__ void write_input_gradients(const Job& job, int64_t begin, int count, float* __restrict__ grad_inputs) {
  const Network<float>& net = job.net;
  for (int i = threadIdx.x; i < count * net.given; i += blockDim.x) {
    const int s = i / net.given, k = i % net.given;
    const float* to_x = at<float>(job.sums) + s * job.sums_stride + k;
    float total = *to_x;
    if (net.in > net.given) {
      const float value = net.inputs[begin * net.given + i];
      for (int section = 1; section * net.given < net.in; section += 2) {
        float sine, cosine;
        sincosf(value * static_cast<float>(embedding_factor(section)), &sine, &cosine);
        total += to_x[section * net.given] * embedding_slope(section, cosine);
        total += to_x[(section + 1) * net.given] * embedding_slope(section + 1, sine);
      }
    }
    grad_inputs[begin * net.given + i] = total;
  }
}

// What a lane sums up about its hidden unit h over all samples of its block.
template <int kOut>
struct UnitSums {
  float out_weight[kOut] = {};
  int64_t frame = -1;  // of the run of samples that adds to hidden_bias
  float hidden_bias = 0;

  __device__ void end_run(const Job& job, int h, float* to_bias) {
    if (frame >= 0 && to_bias != nullptr) to_bias[frame * job.net.hidden + h] += hidden_bias;
  }

  // Of the tile, from `sums` and `grad`: the gradient before the activation, to `to_hidden`.
  __device__ void add_tile(const Job& job, int64_t begin, int count, int h, float* to_bias) {
    const Network<float>& net = job.net;
    const float* sums = at<float>(job.sums) + h;
    __nv_bfloat16* to_hidden = at<__nv_bfloat16>(job.to_hidden) + h;
    float weight[kOut];
#pragma unroll
    for (int o = 0; o < kOut; ++o) weight[o] = o < net.out ? at<float>(job.out_weight)[o * job.units + h] : 0.0f;
#pragma unroll 4
    for (int s = 0; s < kRows; ++s) {
      float d = 0;
      if (s < count && h < net.hidden) {
        const int64_t now = net.frame[begin + s];
        const float activated = leaky_relu(sums[s * job.sums_stride] + net.hidden_bias[now * net.hidden + h]);
        const float4* grad = at<float4>(job.grad + s * job.grad_stride * 4);
#pragma unroll
        for (int o = 0; o < kOut; o += 4) {
          if (o >= net.out) continue;
          const float4 g = grad[o / 4];
          d += g.x * weight[o] + g.y * weight[o + 1] + (g.z * weight[o + 2] + g.w * weight[o + 3]);
          out_weight[o] += g.x * activated;
          out_weight[o + 1] += g.y * activated;
          out_weight[o + 2] += g.z * activated;
          out_weight[o + 3] += g.w * activated;
        }
        d *= leaky_relu_slope(activated);
        if (now != frame) {
          end_run(job, h, to_bias);
          frame = now;
          hidden_bias = 0;
        }
        hidden_bias += d;
      }
      store_parts(to_hidden + s * job.hidden_stride, job.hidden_plane(), job.parts, d);
    }
  }
};

// Gradients of what the hidden layer saw, to `sums`: to_hidden (kRows, units) times the weights.
__device__ void multiply_back(const Job& job, int warp, int warps) {
  const __nv_bfloat16 *weight = at<__nv_bfloat16>(0), *to_hidden = at<__nv_bfloat16>(job.to_hidden);
  for (int tile = warp; tile < 2 * job.width / kSide; tile += warps) {
    const int row = tile % 2 * kSide, column = tile / 2 * kSide;
    Sums sums;
    wmma::fill_fragment(sums, 0.0f);
    for_products(job.parts, [&](int hidden_part, int weight_part) {
      const __nv_bfloat16* from_hidden = to_hidden + hidden_part * job.hidden_plane() + row * job.hidden_stride;
      const __nv_bfloat16* from_weight = weight + weight_part * job.weight_plane() + column;
      for (int h = 0; h < job.units; h += kSide) {
        Factor<wmma::matrix_a, wmma::row_major> left;
        Factor<wmma::matrix_b, wmma::row_major> right;
        wmma::load_matrix_sync(left, from_hidden + h, job.hidden_stride);
        wmma::load_matrix_sync(right, from_weight + h * job.x_stride, job.x_stride);
        wmma::mma_sync(sums, left, right, sums);
      }
    });
    float* corner = at<float>(job.sums) + row * job.sums_stride + column;
    wmma::store_matrix_sync(corner, sums, job.sums_stride, wmma::mem_row_major);
  }
}

// Adds to_hidden^T x for the hidden units from `first` and `tiles` matrices of columns from `column`.
template <int kTiles>
__device__ void multiply_weights(const Job& job, int first, int column, int tiles, Sums (&sums)[2][kTiles]) {
  const __nv_bfloat16 *to_hidden = at<__nv_bfloat16>(job.to_hidden) + first, *x = at<__nv_bfloat16>(job.x) + column;
  for_products(job.parts, [&](int hidden_part, int x_part) {
#pragma unroll
    for (int s = 0; s < kRows; s += kSide) {
      const __nv_bfloat16* from_hidden = to_hidden + hidden_part * job.hidden_plane() + s * job.hidden_stride;
      Factor<wmma::matrix_a, wmma::col_major> left[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) wmma::load_matrix_sync(left[i], from_hidden + i * kSide, job.hidden_stride);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        if (t >= tiles) continue;
        Factor<wmma::matrix_b, wmma::row_major> right;
        wmma::load_matrix_sync(right, x + x_part * job.x_plane() + s * job.x_stride + t * kSide, job.x_stride);
#pragma unroll
        for (int i = 0; i < 2; ++i) wmma::mma_sync(sums[i][t], left[i], right, sums[i][t]);
      }
    }
  });
}

#endif

__global__ void __launch_bounds__(kMostUnits) forward_kernel(Job job, float* __restrict__ out) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  const Network<float>& net = job.net;
  const int first = threadIdx.x / kUnits * kUnits;
  fill_weights(job);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kRows;
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * kRows; begin < net.samples; begin += stride) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kRows), net.samples - begin));
    fill_rows(job, begin, count);
    __syncthreads();
    multiply_hidden(job, first);
    multiply_out(job, begin, count, first);
    __syncthreads();
    for (int i = threadIdx.x; i < count * net.out; i += blockDim.x) {
      const float* partial = at<float>(job.partial) + i % net.out * kRows + i / net.out;
      float total = net.out_bias[i % net.out];
      for (int u = 0; u < job.units; u += kUnits) total += partial[u / kUnits * net.out * kRows];
      out[begin * net.out + i] = total;
    }
  }
#endif
}

// kTiles: most matrices side by side in the weight gradient of a block; kOut: most outputs.
template <int kTiles, int kOut>
__global__ void __launch_bounds__(kMostUnits) backward_kernel(
    Job job, Record record, const float* __restrict__ upstream, float* __restrict__ grad_inputs,
    float* __restrict__ partial) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  const Network<float>& net = job.net;
  const int h = threadIdx.x, warp = threadIdx.x / kUnits, first = warp * kUnits;
  const int chunk = blockIdx.y * job.chunk, tiles = min(job.chunk, job.width / kSide - chunk);
  const bool is_first = blockIdx.y == 0;  // of those of the same samples: it alone sums up what they all could
  float *to_block = partial + blockIdx.x * record.size, *to_bias = is_first ? to_block + record.hidden_bias : nullptr;
  Sums to_weight[2][kTiles];
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i) wmma::fill_fragment(to_weight[i / kTiles][i % kTiles], 0.0f);
  UnitSums<kOut> unit;
  float to_out_bias = 0;
  fill_weights(job);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kRows;
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * kRows; begin < net.samples; begin += stride) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kRows), net.samples - begin));
    fill_rows(job, begin, count);
    float* grad = at<float>(job.grad);
    for (int i = threadIdx.x; i < count * job.grad_stride; i += blockDim.x) {
      const int s = i / job.grad_stride, o = i % job.grad_stride;
      grad[i] = o < net.out ? upstream[(begin + s) * net.out + o] : 0.0f;
    }
    __syncthreads();
    multiply_hidden(job, first);
    unit.add_tile(job, begin, count, h, to_bias);
    if (h < net.out)
      for (int s = 0; s < count; ++s) to_out_bias += grad[s * job.grad_stride + h];
    __syncthreads();
    if (is_first) multiply_back(job, warp, blockDim.x / kUnits);
    multiply_weights<kTiles>(job, first, chunk * kSide, tiles, to_weight);
    __syncthreads();
    if (is_first) write_input_gradients(job, begin, count, grad_inputs);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      float* corner = to_block + (first + i * kSide) * record.stride + (chunk + t) * kSide;
      if (t < tiles) wmma::store_matrix_sync(corner, to_weight[i][t], record.stride, wmma::mem_row_major);
    }
  }
  if (!is_first) return;
  if (h < net.hidden) {
    unit.end_run(job, h, to_bias);
#pragma unroll  // an array that is indexed would not be in registers
    for (int o = 0; o < kOut; ++o)
      if (o < net.out) to_block[record.out_weight + o * net.hidden + h] = unit.out_weight[o];
  }
  if (h < net.out) to_block[record.out_bias + h] = to_out_bias;
#endif
}

template <int kTiles>
auto* backward_kernel_for(int out) {
  return out <= 4 ? backward_kernel<kTiles, 4> : backward_kernel<kTiles, kMostOut>;
}

}  // namespace

bool has_tensor_cores(const char* op) { return attribute(op, cudaDevAttrComputeCapabilityMajor) >= 8; }

void check_tensor_cores(const char* op, const MlpInputs& in, int64_t parts) {
  if (parts < 1 || parts > 3) fail(op, "(): expected bfloat16_parts to be 0 to 3, got ", parts);
  if (!has_tensor_cores(op)) fail(op, "(): bfloat16 needs a GPU of compute capability 8.0 or newer; use float32");
  if (in.inputs.scalar_type() != ScalarType::Float)
    fail(op, "(): expected inputs to be float32 for bfloat16 products");
  if (in.in > kMostInputs || in.hidden > kMostUnits || in.out > kMostOut)
    fail(op, "(): expected at most ", kMostInputs, " inputs, ", kMostUnits, " hidden units and ", kMostOut,
         " outputs for bfloat16 products, got ", in.in, ", ", in.hidden, " and ", in.out);
}

void forward_on_tensor_cores(const char* op, const OnDevice& device, const Network<float>& net, int64_t parts, float* out) {
  const Job job(net, parts, false);
  ask_for_shared_memory(op, forward_kernel, job.bytes);
  launch(op, device, job.blocks(op), forward_kernel, job, out);
}

void backward_on_tensor_cores(
    const char* op, const OnDevice& device, const Network<float>& net, int64_t parts, const Tensor& like,
    const float* upstream, float* grad_inputs, const ParameterGradients<float>& out) {
  const Job job(net, parts, true);
  const Record record(net, job.width, job.units);
  Blocks blocks = job.blocks(op);
  blocks.rows = (job.width / kSide + job.chunk - 1) / job.chunk;
  Tensor partial = empty_of(like, {blocks.count, record.size});
  torch::stable::zero_(partial);
  auto* kernel = job.chunk <= 2   ? backward_kernel_for<2>(net.out)
                 : job.chunk <= 4 ? backward_kernel_for<4>(net.out)
                                  : backward_kernel_for<kMaxChunk>(net.out);
  ask_for_shared_memory(op, kernel, job.bytes);
  float* sums = partial.mutable_data_ptr<float>();
  launch(op, device, blocks, kernel, job, record, upstream, grad_inputs, sums);
  sum_records(op, device, net, record, blocks.count, static_cast<const float*>(sums), out);
}

}  // namespace manvatar
