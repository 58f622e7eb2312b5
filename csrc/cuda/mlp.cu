// mlp on CUDA: a block of threads takes tiles of kTile samples one after another; a thread owns hidden units, of which it
// holds a whole tile in registers, so that a weight is read once a tile. The tile of inputs and of hidden units is in
// shared memory. That frames are in range is not checked: it would wait for the device.

#include "mlp_cuda.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace {

using namespace manvatar;

constexpr int kTile = 32;
constexpr int kStride = kTile + 1;  // of a row of a tile in shared memory: odd, so that columns lie in different banks

template <class T>
size_t forward_bytes(const Network<T>& net) {
  return sizeof(T) * kStride * (net.in + net.hidden);
}

template <class T>
size_t backward_bytes(const Network<T>& net) {
  return sizeof(T) * kStride * (net.in + 2 * net.hidden + net.out);
}

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
    // The next tile overwrites `activated` behind a barrier of its own, and nobody reads `x` any more.
  }
}

// Of hidden unit h: the gradient before its activation (tile), and what the tile adds to the sums of its parameters.
template <class T>
__device__ void hidden_unit_backward(
    const Network<T>& net, const Record& record, int64_t begin, int count, int h, const T* grad, const T* activated,
    T* to_hidden, T* sums) {
  for (int s = 0; s < count; ++s) {
    T d = 0;
    for (int o = 0; o < net.out; ++o) d += grad[o * kStride + s] * net.out_weight[o * net.hidden + h];
    to_hidden[h * kStride + s] = d * leaky_relu_slope(activated[h * kStride + s]);
  }
  for (int s = count; s < kTile; ++s) to_hidden[h * kStride + s] = 0;
  for (int o = 0; o < net.out; ++o) {
    T sum = 0;
    for (int s = 0; s < count; ++s) sum += grad[o * kStride + s] * activated[h * kStride + s];
    sums[record.out_weight + o * net.hidden + h] += sum;
  }
  for (int s = 0; s < count;) {  // a run of samples of one frame at a time
    const int64_t frame = net.frame[begin + s];
    T sum = 0;
    for (; s < count && net.frame[begin + s] == frame; ++s) sum += to_hidden[h * kStride + s];
    sums[record.hidden_bias + frame * net.hidden + h] += sum;
  }
}

// `partial` holds one record of sums a block, zero at first; each element is only ever changed by one thread.
template <class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    Network<T> net, Record record, const T* __restrict__ upstream, T* __restrict__ grad_inputs, T* __restrict__ partial) {
  T* x = shared_memory<T>();
  T* activated = x + net.in * kStride;
  T* to_hidden = activated + net.hidden * kStride;
  T* grad = to_hidden + net.hidden * kStride;
  T* sums = partial + blockIdx.x * record.size;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kTile;
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * kTile; begin < net.samples; begin += stride) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTile), net.samples - begin));
    for (int i = threadIdx.x; i < count * net.out; i += kThreads)
      grad[i % net.out * kStride + i / net.out] = upstream[begin * net.out + i];
    hidden_layer(net, begin, count, x, activated);
    for (int h = threadIdx.x; h < net.hidden; h += kThreads)
      hidden_unit_backward(net, record, begin, count, h, grad, activated, to_hidden, sums);
    for (int o = threadIdx.x; o < net.out; o += kThreads) {
      T sum = 0;
      for (int s = 0; s < count; ++s) sum += grad[o * kStride + s];
      sums[record.out_bias + o] += sum;
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
void run_forward(const char* op, const OnDevice& device, const Network<T>& net, T* out) {
  const Blocks blocks{blocks_for_tiles(op, net.samples, kTile, 4), kThreads, forward_bytes(net)};
  ask_for_shared_memory(op, forward_kernel<T>, blocks.shared_bytes);
  launch(op, device, blocks, forward_kernel<T>, net, out);
}

template <class T>
void run_backward(
    const char* op, const OnDevice& device, const Network<T>& net, const Tensor& like, const T* upstream, T* grad_inputs,
    const ParameterGradients<T>& out) {
  const Blocks blocks{blocks_for_tiles(op, net.samples, kTile, 4), kThreads, backward_bytes(net)};
  const Record record(net, net.in, net.hidden);
  Tensor partial = empty_of(like, {blocks.count, record.size});
  torch::stable::zero_(partial);
  ask_for_shared_memory(op, backward_kernel<T>, blocks.shared_bytes);
  T* sums = partial.mutable_data_ptr<T>();
  launch(op, device, blocks, backward_kernel<T>, net, record, upstream, grad_inputs, sums);
  sum_records(op, device, net, record, blocks.count, static_cast<const T*>(sums), out);
}

Tensor mlp(
    Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight, Tensor out_bias,
    int64_t octaves, int64_t bfloat16_parts) {
  const char* op = "mlp";
  const MlpInputs in = check_mlp(op, inputs, frame, hidden_weight, hidden_bias, out_weight, octaves);
  check_like(op, "out_bias", out_bias, "inputs", inputs);
  check_shape(op, "out_bias", out_bias, {in.out});
  const OnDevice device(in.inputs);
  if (bfloat16_parts != 0) check_tensor_cores(op, in, bfloat16_parts);
  const Tensor bias = dense(out_bias);
  Tensor result = empty_of(in.inputs, {in.samples, in.out});
  if (in.samples == 0 || in.out == 0) return result;
  dispatch_floating(in.inputs, [&]<class T>() {
    const Network<T> net(in, bias.const_data_ptr<T>());
    T* out = result.mutable_data_ptr<T>();
    if constexpr (std::is_same_v<T, float>) {
      if (bfloat16_parts != 0) return forward_on_tensor_cores(op, device, net, bfloat16_parts, out);
    }
    run_forward(op, device, net, out);
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_backward(
    Tensor grad, Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight,
    int64_t octaves, int64_t bfloat16_parts) {
  const char* op = "mlp_backward";
  const MlpInputs in = check_mlp(op, inputs, frame, hidden_weight, hidden_bias, out_weight, octaves);
  check_like(op, "grad", grad, "inputs", inputs);
  check_shape(op, "grad", grad, {in.samples, in.out});
  const OnDevice device(in.inputs);
  if (bfloat16_parts != 0) check_tensor_cores(op, in, bfloat16_parts);
  const Tensor upstream = dense(grad);
  Tensor grad_inputs = empty_of(in.inputs, {in.samples, in.given}), grad_weight = empty_of(in.inputs, {in.hidden, in.in});
  Tensor grad_bias = empty_of(in.inputs, {in.frames, in.hidden}), grad_out = empty_of(in.inputs, {in.out, in.hidden});
  Tensor grad_out_bias = empty_of(in.inputs, {in.out});
  if (in.samples == 0) {
    for (Tensor* gradient : {&grad_weight, &grad_bias, &grad_out, &grad_out_bias}) torch::stable::zero_(*gradient);
    return {grad_inputs, grad_weight, grad_bias, grad_out, grad_out_bias};
  }
  dispatch_floating(in.inputs, [&]<class T>() {
    const Network<T> net(in, nullptr);
    const ParameterGradients<T> out{
        grad_weight.mutable_data_ptr<T>(), grad_bias.mutable_data_ptr<T>(), grad_out.mutable_data_ptr<T>(),
        grad_out_bias.mutable_data_ptr<T>()};
    const T* rows = upstream.const_data_ptr<T>();
    T* to_inputs = grad_inputs.mutable_data_ptr<T>();
    if constexpr (std::is_same_v<T, float>) {
      if (bfloat16_parts != 0)
        return backward_on_tensor_cores(op, device, net, bfloat16_parts, in.inputs, rows, to_inputs, out);
    }
    run_backward(op, device, net, in.inputs, rows, to_inputs, out);
  });
  return {grad_inputs, grad_weight, grad_bias, grad_out, grad_out_bias};
}

// How samples are multiplied is chosen by name in Python, so it can ask. The tensor only says on which device.
bool mlp_has_bfloat16(Tensor on) {
  const OnDevice device(on);
  return has_tensor_cores("mlp_has_bfloat16");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, MANVATAR_CUDA_KEY, library) {
  library.impl("mlp", TORCH_BOX(&mlp));
  library.impl("mlp_backward", TORCH_BOX(&mlp_backward));
  library.impl("mlp_has_bfloat16", TORCH_BOX(&mlp_has_bfloat16));
}
