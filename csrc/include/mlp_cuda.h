// mlp on CUDA: what its kernels on ordinary cores (cuda/mlp.cu) and on tensor cores (cuda/mlp_tensor.cu) share. Blocks of
// threads take tiles of samples one after another. Parameter gradients are summed within a block and then over the blocks in
// order: they repeat bit for bit.
#pragma once

#include "launch.h"
#include "mlp_checks.h"
#include "mlp_math.h"

#include <algorithm>

namespace manvatar {

template <class T>
struct Network {
  const T *inputs, *hidden_weight, *hidden_bias, *out_weight, *out_bias;
  const int64_t* frame;
  int64_t samples;
  int given, in, hidden, out;
  int64_t frames;

  Network(const MlpInputs& arguments, const T* bias)
      : inputs(arguments.inputs.const_data_ptr<T>()),
        hidden_weight(arguments.hidden_weight.const_data_ptr<T>()),
        hidden_bias(arguments.hidden_bias.const_data_ptr<T>()),
        out_weight(arguments.out_weight.const_data_ptr<T>()),
        out_bias(bias),
        frame(arguments.frame.const_data_ptr<int64_t>()),
        samples(arguments.samples),
        given(static_cast<int>(arguments.given)),
        in(static_cast<int>(arguments.in)),
        hidden(static_cast<int>(arguments.hidden)),
        out(static_cast<int>(arguments.out)),
        frames(arguments.frames) {}
};

// Where the gradients of the parameters are.
template <class T>
struct ParameterGradients {
  T *hidden_weight, *hidden_bias, *out_weight, *out_bias;
};

// The partial sums of one block: gradients of hidden_weight in rows of `stride`, of hidden_bias, out_weight and out_bias,
// one after another.
struct Record {
  int64_t stride, hidden_bias, out_weight, out_bias, size;

  template <class T>
  Record(const Network<T>& net, int64_t stride, int64_t rows)
      : stride(stride),
        hidden_bias(rows * stride),
        out_weight(hidden_bias + net.frames * net.hidden),
        out_bias(out_weight + static_cast<int64_t>(net.out) * net.hidden),
        size((out_bias + net.out + 7) / 8 * 8) {}  // tensor cores write to addresses divisible by 32
};

constexpr int kSumColumns = 32;  // elements that a block of sum_kernel adds up; its rows of threads share the records
constexpr int kSumRows = kThreads / kSumColumns;

// out (rows, columns) = the sum over the records of what lies there in rows of `stride`.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_kernel(
    int64_t elements, int64_t columns, int64_t stride, int64_t records, int64_t record, const T* __restrict__ partial,
    T* __restrict__ out) {
  T* sums = shared_memory<T>();
  const int column = threadIdx.x % kSumColumns, row = threadIdx.x / kSumColumns;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSumColumns + column;
  const T* at = partial + i / columns * stride + i % columns;
  T sum = 0;
  if (i < elements) {
#pragma unroll 8
    for (int64_t r = row; r < records; r += kSumRows) sum += at[r * record];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (row != 0 || i >= elements) return;
  for (int r = 1; r < kSumRows; ++r) sum += sums[r * kSumColumns + column];
  out[i] = sum;
}

// Sums up the records of all blocks.
template <class T>
void sum_records(
    const char* op, const OnDevice& device, const Network<T>& net, const Record& record, int64_t records, const T* partial,
    const ParameterGradients<T>& out) {
  const auto sum_up = [&](T* to, int64_t at, int64_t rows, int64_t columns, int64_t stride) {
    const int64_t elements = rows * columns;
    if (elements == 0) return;
    const Blocks blocks{(elements + kSumColumns - 1) / kSumColumns, kThreads, kThreads * sizeof(T)};
    launch(op, device, blocks, sum_kernel<T>, elements, columns, stride, records, record.size, partial + at, to);
  };
  sum_up(out.hidden_weight, 0, net.hidden, net.in, record.stride);
  sum_up(out.hidden_bias, record.hidden_bias, net.frames, net.hidden, net.hidden);
  sum_up(out.out_weight, record.out_weight, net.out, net.hidden, net.hidden);
  sum_up(out.out_bias, record.out_bias, 1, net.out, net.out);
}

// A few blocks on each multiprocessor; each takes many tiles.
inline int64_t blocks_for_tiles(const char* op, int64_t samples, int64_t tile, int on_each) {
  const int64_t tiles = (samples + tile - 1) / tile;
  return std::min<int64_t>(tiles, static_cast<int64_t>(on_each) * attribute(op, cudaDevAttrMultiProcessorCount));
}

// With products of bfloat16 on tensor cores, factors being sums of `parts` of them. There is at least one sample.
bool has_tensor_cores(const char* op);
void check_tensor_cores(const char* op, const MlpInputs& in, int64_t parts);
void forward_on_tensor_cores(const char* op, const OnDevice& device, const Network<float>& net, int64_t parts, float* out);
void backward_on_tensor_cores(
    const char* op, const OnDevice& device, const Network<float>& net, int64_t parts, const Tensor& like,
    const float* upstream, float* grad_inputs, const ParameterGradients<float>& out);

}  // namespace manvatar
