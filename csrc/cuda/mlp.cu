// mlp on CUDA: a block of threads takes tiles of kTile samples one after another; a thread owns hidden units, of which it
// holds a whole tile in registers, so that a weight is read once a tile. The tile of inputs and of hidden units is in
// shared memory. Parameter gradients are summed within a block and then over the blocks in order: they repeat bit for bit.
// That frames are in range is not checked: it would wait for the device.

#include "launch.h"
#include "mlp_checks.h"
#include "mlp_math.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

namespace {

using namespace manvatar;

constexpr int kTile = 32;
constexpr int kStride = kTile + 1;  // of a row of a tile in shared memory: odd, so that columns lie in different banks

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

  // The partial sums of one block: gradients of hidden_weight, hidden_bias, out_weight and out_bias, one after another.
  __host__ __device__ int64_t bias_at() const { return static_cast<int64_t>(hidden) * in; }
  __host__ __device__ int64_t out_weight_at() const { return bias_at() + frames * hidden; }
  __host__ __device__ int64_t out_bias_at() const { return out_weight_at() + static_cast<int64_t>(out) * hidden; }
  __host__ __device__ int64_t record() const { return out_bias_at() + out; }

  size_t forward_bytes() const { return sizeof(T) * kStride * (in + hidden); }
  size_t backward_bytes() const { return sizeof(T) * kStride * (in + 2 * hidden + out); }
};

__device__ inline float sine(float x) { return sinf(x); }
__device__ inline double sine(double x) { return sin(x); }
__device__ inline float cosine(float x) { return cosf(x); }
__device__ inline double cosine(double x) { return cos(x); }

// Column `k` of what the hidden layer sees of a sample.
template <class T>
__device__ T seen(const Network<T>& net, int64_t sample, int k) {
  const T value = net.inputs[sample * net.given + k % net.given];
  const int section = k / net.given;
  if (section == 0) return value;
  const T scaled = value * T(embedding_factor(section));
  return embedding_is_sine(section) ? sine(scaled) : cosine(scaled);
}

// x (in, kTile) and activated (hidden, kTile) of the samples begin..begin+count-1; the rest of the tile repeats the last.
template <class T>
__device__ void hidden_layer(const Network<T>& net, int64_t begin, int count, T* x, T* activated) {
  for (int i = threadIdx.x; i < kTile * net.in; i += kThreads) {
    const int s = i / net.in, k = i % net.in;
    x[k * kStride + s] = seen(net, begin + min(s, count - 1), k);
  }
  __syncthreads();
  for (int h = threadIdx.x; h < net.hidden; h += kThreads) {
    T sums[kTile];
#pragma unroll
    for (int s = 0; s < kTile; ++s) sums[s] = net.hidden_bias[net.frame[begin + min(s, count - 1)] * net.hidden + h];
    for (int k = 0; k < net.in; ++k) {
      const T weight = net.hidden_weight[static_cast<int64_t>(h) * net.in + k];
#pragma unroll
      for (int s = 0; s < kTile; ++s) sums[s] += weight * x[k * kStride + s];
    }
#pragma unroll
    for (int s = 0; s < kTile; ++s) activated[h * kStride + s] = leaky_relu(sums[s]);
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Network<T> net, T* __restrict__ out) {
  T* x = shared_memory<T>();
  T* activated = x + net.in * kStride;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kTile;
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile; begin < net.samples; begin += stride) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTile), net.samples - begin));
    hidden_layer(net, begin, count, x, activated);
    for (int i = threadIdx.x; i < kTile * net.out; i += kThreads) {
      const int s = i % kTile, o = i / kTile;
      T sum = net.out_bias[o];
      for (int h = 0; h < net.hidden; ++h) sum += net.out_weight[o * net.hidden + h] * activated[h * kStride + s];
      if (s < count) out[(begin + s) * net.out + o] = sum;
    }
    __syncthreads();  // before the tile is overwritten
  }
}

// Of hidden unit h: the gradient before its activation (tile), and what the tile adds to the sums of its parameters.
template <class T>
__device__ void hidden_unit_backward(
    const Network<T>& net, int64_t begin, int count, int h, const T* grad, const T* activated, T* to_hidden, T* sums) {
  for (int s = 0; s < count; ++s) {
    T d = 0;
    for (int o = 0; o < net.out; ++o) d += grad[o * kStride + s] * net.out_weight[o * net.hidden + h];
    to_hidden[h * kStride + s] = d * leaky_relu_slope(activated[h * kStride + s]);
  }
  for (int s = count; s < kTile; ++s) to_hidden[h * kStride + s] = 0;
  for (int o = 0; o < net.out; ++o) {
    T sum = 0;
    for (int s = 0; s < count; ++s) sum += grad[o * kStride + s] * activated[h * kStride + s];
    sums[net.out_weight_at() + o * net.hidden + h] += sum;
  }
  for (int s = 0; s < count;) {  // a run of samples of one frame at a time
    const int64_t frame = net.frame[begin + s];
    T sum = 0;
    for (; s < count && net.frame[begin + s] == frame; ++s) sum += to_hidden[h * kStride + s];
    sums[net.bias_at() + frame * net.hidden + h] += sum;
  }
}

// `partial` holds one record of sums a block, zero at first; each element is only ever changed by one thread.
template <class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    Network<T> net, const T* __restrict__ upstream, T* __restrict__ grad_inputs, T* __restrict__ partial) {
  T* x = shared_memory<T>();
  T* activated = x + net.in * kStride;
  T* to_hidden = activated + net.hidden * kStride;
  T* grad = to_hidden + net.hidden * kStride;
  T* sums = partial + blockIdx.x * net.record();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kTile;
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile; begin < net.samples; begin += stride) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTile), net.samples - begin));
    for (int i = threadIdx.x; i < count * net.out; i += kThreads)
      grad[i % net.out * kStride + i / net.out] = upstream[begin * net.out + i];
    hidden_layer(net, begin, count, x, activated);
    for (int h = threadIdx.x; h < net.hidden; h += kThreads)
      hidden_unit_backward(net, begin, count, h, grad, activated, to_hidden, sums);
    for (int o = threadIdx.x; o < net.out; o += kThreads) {
      T sum = 0;
      for (int s = 0; s < count; ++s) sum += grad[o * kStride + s];
      sums[net.out_bias_at() + o] += sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < net.hidden * net.in; i += kThreads) {
      const T *d = to_hidden + i / net.in * kStride, *input = x + i % net.in * kStride;
      T sum = 0;
#pragma unroll
      for (int s = 0; s < kTile; ++s) sum += d[s] * input[s];
      sums[i] += sum;
    }
    for (int i = threadIdx.x; i < count * net.given; i += kThreads) {
      const int s = i / net.given, k = i % net.given;
      T total = 0;
      for (int section = 0; section * net.given < net.in; ++section) {
        const int column = section * net.given + k;
        T sum = 0;
        for (int h = 0; h < net.hidden; ++h)
          sum += to_hidden[h * kStride + s] * net.hidden_weight[static_cast<int64_t>(h) * net.in + column];
        const int partner = column + (embedding_is_sine(section) ? net.given : -net.given);
        total += section == 0 ? sum : sum * embedding_slope(section, x[partner * kStride + s]);
      }
      grad_inputs[begin * net.given + i] = total;
    }
    __syncthreads();  // before the tile is overwritten
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) sum_kernel(
    int64_t elements, int blocks, int64_t record, const T* __restrict__ partial, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= elements) return;
  T sum = 0;
  for (int b = 0; b < blocks; ++b) sum += partial[b * record + i];
  out[i] = sum;
}

// A few blocks on each multiprocessor; each takes many tiles.
int block_count(const char* op, int64_t samples) {
  const int64_t tiles = (samples + kTile - 1) / kTile;
  return static_cast<int>(std::min<int64_t>(tiles, 4 * attribute(op, cudaDevAttrMultiProcessorCount)));
}

Tensor mlp(
    Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight, Tensor out_bias,
    int64_t octaves, int64_t bfloat16_parts) {
  if (bfloat16_parts != 0) fail("mlp", "(): bfloat16 products are not there on CUDA; use float32");
  const char* op = "mlp";
  const MlpInputs in = check_mlp(op, inputs, frame, hidden_weight, hidden_bias, out_weight, octaves);
  check_like(op, "out_bias", out_bias, "inputs", inputs);
  check_shape(op, "out_bias", out_bias, {in.out});
  const OnDevice device(in.inputs);
  const Tensor bias = dense(out_bias);
  Tensor out = empty_of(in.inputs, {in.samples, in.out});
  if (in.samples == 0) return out;
  dispatch_floating(in.inputs, [&]<class T>() {
    const Network<T> net(in, bias.const_data_ptr<T>());
    ask_for_shared_memory(op, forward_kernel<T>, net.forward_bytes());
    const Blocks blocks{block_count(op, in.samples), kThreads, net.forward_bytes()};
    launch(op, device, blocks, forward_kernel<T>, net, out.mutable_data_ptr<T>());
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_backward(
    Tensor grad, Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight,
    int64_t octaves, int64_t bfloat16_parts) {
  if (bfloat16_parts != 0) fail("mlp", "(): bfloat16 products are not there on CUDA; use float32");
  const char* op = "mlp_backward";
  const MlpInputs in = check_mlp(op, inputs, frame, hidden_weight, hidden_bias, out_weight, octaves);
  check_like(op, "grad", grad, "inputs", inputs);
  check_shape(op, "grad", grad, {in.samples, in.out});
  const OnDevice device(in.inputs);
  const Tensor upstream = dense(grad);
  Tensor grad_inputs = empty_of(in.inputs, {in.samples, in.given}), grad_weight = empty_of(in.inputs, {in.hidden, in.in});
  Tensor grad_bias = empty_of(in.inputs, {in.frames, in.hidden}), grad_out = empty_of(in.inputs, {in.out, in.hidden});
  Tensor grad_out_bias = empty_of(in.inputs, {in.out});
  dispatch_floating(in.inputs, [&]<class T>() {
    const Network<T> net(in, nullptr);
    const int blocks = in.samples > 0 ? block_count(op, in.samples) : 0;
    Tensor partial = empty_of(in.inputs, {blocks, net.record()});
    torch::stable::zero_(partial);
    const T* sums = partial.const_data_ptr<T>();
    if (blocks > 0) {
      ask_for_shared_memory(op, backward_kernel<T>, net.backward_bytes());
      launch(op, device, {blocks, kThreads, net.backward_bytes()}, backward_kernel<T>,
          net, upstream.const_data_ptr<T>(), grad_inputs.mutable_data_ptr<T>(), partial.mutable_data_ptr<T>());
    }
    const auto sum_up = [&](Tensor& out, int64_t at) {
      if (out.numel() == 0) return;
      launch(op, device, one_thread_each(out.numel()), sum_kernel<T>,
          out.numel(), blocks, net.record(), sums + at, out.mutable_data_ptr<T>());
    };
    sum_up(grad_weight, 0);
    sum_up(grad_bias, net.bias_at());
    sum_up(grad_out, net.out_weight_at());
    sum_up(grad_out_bias, net.out_bias_at());
  });
  return {grad_inputs, grad_weight, grad_bias, grad_out, grad_out_bias};
}

bool mlp_has_bfloat16(Tensor) { return false; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, MANVATAR_CUDA_KEY, library) {
  library.impl("mlp", TORCH_BOX(&mlp));
  library.impl("mlp_backward", TORCH_BOX(&mlp_backward));
  library.impl("mlp_has_bfloat16", TORCH_BOX(&mlp_has_bfloat16));
}
