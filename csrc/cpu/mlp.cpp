// mlp on the CPU: a block of samples of one frame goes through both layers, forward and backward, within the first-level
// cache; nothing of the hidden layer is ever stored. Threads share the samples in equal parts, each with its own sums of
// the parameter gradients, added up in order: deterministic for a fixed number of threads.

#include "mlp_checks.h"
#include "mlp_math.h"
#include "multiversion.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

namespace {

using namespace manvatar;

constexpr int64_t kBlock = 32;       // samples at once
constexpr int64_t kRows = 4;         // rows of a register tile
constexpr int64_t kVectors = 4;      // vectors of a register tile
constexpr int64_t kMaxInputs = 256;  // bounds of the buffers on the stack
constexpr int64_t kMaxHidden = 256;
constexpr int64_t kMaxOut = 16;

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(64), aligned(sizeof(T))));
  static constexpr int64_t size = 64 / sizeof(T);
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
MANVATAR_INLINE Vector<T>& at(T* p) {
  return *reinterpret_cast<Vector<T>*>(p);
}
template <class T>
MANVATAR_INLINE const Vector<T>& at(const T* p) {
  return *reinterpret_cast<const Vector<T>*>(p);
}

// Halves are added to halves: added one by one each sum would wait for the one before.
MANVATAR_INLINE float sum(const Vector<float>& v) {
  const auto a = v + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  const auto b = a + __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  return (b[0] + b[1]) + (b[2] + b[3]);
}
MANVATAR_INLINE double sum(const Vector<double>& v) {
  const auto a = v + __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  return (a[0] + a[1]) + (a[2] + a[3]);
}

// c (kRows x N vectors) += a (kRows x inner) b (inner x N vectors); a element (i, k) is a[i * a_row + k * a_inner]. The
// product is summed by itself first: added term by term to a sum over many blocks it would lose digits.
template <int N, class T>
MANVATAR_INLINE void multiply_tile(
    const T* a, int64_t a_row, int64_t a_inner, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t inner) {
  Vector<T> sums[kRows][N] = {};
  for (int64_t k = 0; k < inner; ++k) {
    Vector<T> row[N];
    for (int64_t j = 0; j < N; ++j) row[j] = at(b + k * b_row + j * VectorOf<T>::size);
    for (int64_t i = 0; i < kRows; ++i) {
      const T scale = a[i * a_row + k * a_inner];
      for (int64_t j = 0; j < N; ++j) sums[i][j] += scale * row[j];
    }
  }
  for (int64_t i = 0; i < kRows; ++i)
    for (int64_t j = 0; j < N; ++j) at(c + i * c_row + j * VectorOf<T>::size) += sums[i][j];
}

// c (rows x columns) += a b. Rows are a multiple of kRows and columns of the vector size; the buffers are padded so.
template <class T>
MANVATAR_INLINE void multiply(
    const T* a, int64_t a_row, int64_t a_inner, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t rows,
    int64_t columns, int64_t inner) {
  constexpr int64_t size = VectorOf<T>::size;
  for (int64_t i = 0; i < rows; i += kRows) {
    int64_t j = 0;
    for (; j + kVectors * size <= columns; j += kVectors * size)
      multiply_tile<kVectors>(a + i * a_row, a_row, a_inner, b + j, b_row, c + i * c_row + j, c_row, inner);
    for (; j + 2 * size <= columns; j += 2 * size)
      multiply_tile<2>(a + i * a_row, a_row, a_inner, b + j, b_row, c + i * c_row + j, c_row, inner);
    for (; j < columns; j += size)
      multiply_tile<1>(a + i * a_row, a_row, a_inner, b + j, b_row, c + i * c_row + j, c_row, inner);
  }
}

MANVATAR_INLINE int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

template <class T>
struct Network {
  const T *inputs, *hidden_bias, *out_weight, *out_bias;
  const int64_t* frame;
  int64_t samples, in, width, hidden, out;  // width: `in` rounded up to a whole vector
  std::vector<T> by_input;                  // (width, hidden) hidden weights, transposed, zero rows below
  std::vector<T> by_hidden;                 // (hidden, width) hidden weights, zero columns at the right

  Network(const MlpInputs& arguments, const T* bias)
      : inputs(arguments.inputs.const_data_ptr<T>()),
        hidden_bias(arguments.hidden_bias.const_data_ptr<T>()),
        out_weight(arguments.out_weight.const_data_ptr<T>()),
        out_bias(bias),
        frame(arguments.frame.const_data_ptr<int64_t>()),
        samples(arguments.samples),
        in(arguments.in),
        width(padded(arguments.in)),
        hidden(arguments.hidden),
        out(arguments.out),
        by_input(width * hidden, T(0)),
        by_hidden(hidden * width, T(0)) {
    const T* weight = arguments.hidden_weight.const_data_ptr<T>();
    for (int64_t h = 0; h < hidden; ++h)
      for (int64_t k = 0; k < in; ++k) by_input[k * hidden + h] = by_hidden[h * width + k] = weight[h * in + k];
  }

  // The end of the block that begins at `begin`: at most kBlock samples, all of one frame.
  int64_t block_end(int64_t begin, int64_t end) const {
    int64_t stop = begin + 1;
    while (stop < end && stop < begin + kBlock && frame[stop] == frame[begin]) ++stop;
    return stop;
  }
};

// Inputs of a block, padded with zeros to whole tiles, and its activated hidden layer.
template <class T>
struct Block {
  alignas(64) T x[kBlock * kMaxInputs];
  alignas(64) T a[kBlock * kMaxHidden];
};

template <class T>
MANVATAR_INLINE void hidden_layer(const Network<T>& net, int64_t begin, int64_t count, Block<T>& block) {
  const int64_t rows = (count + kRows - 1) / kRows * kRows;
  std::memset(block.x, 0, rows * net.width * sizeof(T));
  const T* bias = net.hidden_bias + net.frame[begin] * net.hidden;
  for (int64_t s = 0; s < count; ++s)
    std::memcpy(block.x + s * net.width, net.inputs + (begin + s) * net.in, net.in * sizeof(T));
  for (int64_t s = 0; s < rows; ++s) std::memcpy(block.a + s * net.hidden, bias, net.hidden * sizeof(T));
  multiply(block.x, net.width, 1, net.by_input.data(), net.hidden, block.a, net.hidden, rows, net.hidden, net.in);
  for (int64_t i = 0; i < rows * net.hidden; ++i) block.a[i] = leaky_relu(block.a[i]);
}

template <class T>
MANVATAR_INLINE void forward(const Network<T>& net, int64_t begin, int64_t end, T* out) {
  Block<T> block;
  for (int64_t start = begin; start < end;) {
    const int64_t stop = net.block_end(start, end);
    hidden_layer(net, start, stop - start, block);
    for (int64_t s = start; s < stop; ++s) {
      const T* a = block.a + (s - start) * net.hidden;
      for (int64_t o = 0; o < net.out; ++o) {
        Vector<T> total = {};
        for (int64_t h = 0; h < net.hidden; h += VectorOf<T>::size)
          total += at(a + h) * at(net.out_weight + o * net.hidden + h);
        out[s * net.out + o] = sum(total) + net.out_bias[o];
      }
    }
    start = stop;
  }
}

// Sums of one thread, all zero at first.
template <class T>
struct Sums {
  std::vector<T> weight, bias, out_weight, out_bias;  // weight as (width, hidden)

  Sums(const Network<T>& net, int64_t frames)
      : weight(net.width * net.hidden), bias(frames * net.hidden), out_weight(net.out * net.hidden), out_bias(net.out) {}
};

// Gradients of a block before the activation, and what it adds to the sums behind it; of all samples for a few hidden units
// at a time.
template <class T>
MANVATAR_INLINE void output_layer_backward(
    const Network<T>& net, const T* activated, const T* grad, int64_t count, int64_t frame, T* to_hidden, Sums<T>& sums) {
  const Vector<T> one = Vector<T>{} + T(1), slope = Vector<T>{} + T(kLeakySlope), zero = {};
  for (int64_t h = 0; h < net.hidden; h += VectorOf<T>::size) {
    Vector<T> to_weight[kMaxOut] = {}, to_bias = zero;
    for (int64_t s = 0; s < count; ++s) {
      const Vector<T> a = at(activated + s * net.hidden + h);
      Vector<T> d = zero;
      for (int64_t o = 0; o < net.out; ++o) {
        d += grad[s * net.out + o] * at(net.out_weight + o * net.hidden + h);
        to_weight[o] += grad[s * net.out + o] * a;
      }
      d *= a > zero ? one : slope;
      at(to_hidden + s * net.hidden + h) = d;
      to_bias += d;
    }
    at(sums.bias.data() + frame * net.hidden + h) += to_bias;
    for (int64_t o = 0; o < net.out; ++o) at(sums.out_weight.data() + o * net.hidden + h) += to_weight[o];
  }
  for (int64_t o = 0; o < net.out; ++o) {
    T to_bias = 0;
    for (int64_t s = 0; s < count; ++s) to_bias += grad[s * net.out + o];
    sums.out_bias[o] += to_bias;
  }
}

template <class T>
MANVATAR_INLINE void backward(const Network<T>& net, int64_t begin, int64_t end, const T* grad, T* grad_inputs, Sums<T>& sums) {
  Block<T> block;
  alignas(64) T to_hidden[kBlock * kMaxHidden];
  alignas(64) T to_x[kBlock * kMaxInputs];
  for (int64_t start = begin; start < end;) {
    const int64_t stop = net.block_end(start, end), count = stop - start;
    const int64_t rows = (count + kRows - 1) / kRows * kRows;
    hidden_layer(net, start, count, block);
    output_layer_backward(net, block.a, grad + start * net.out, count, net.frame[start], to_hidden, sums);
    if (rows > count) std::memset(to_hidden + count * net.hidden, 0, (rows - count) * net.hidden * sizeof(T));
    multiply(block.x, 1, net.width, to_hidden, net.hidden, sums.weight.data(), net.hidden, net.width, net.hidden, count);
    std::memset(to_x, 0, rows * net.width * sizeof(T));
    multiply(to_hidden, net.hidden, 1, net.by_hidden.data(), net.width, to_x, net.width, rows, net.width, net.hidden);
    for (int64_t s = 0; s < count; ++s)
      std::memcpy(grad_inputs + (start + s) * net.in, to_x + s * net.width, net.in * sizeof(T));
    start = stop;
  }
}

#define MANVATAR_DTYPE(T)                                                                                             \
  MANVATAR_MULTIVERSION void run_forward(const Network<T>& net, int64_t begin, int64_t end, T* out) {                \
    forward(net, begin, end, out);                                                                                   \
  }                                                                                                                  \
  MANVATAR_MULTIVERSION void run_backward(                                                                           \
      const Network<T>& net, int64_t begin, int64_t end, const T* grad, T* grad_inputs, Sums<T>& sums) {             \
    backward(net, begin, end, grad, grad_inputs, sums);                                                              \
  }

MANVATAR_DTYPE(float)
MANVATAR_DTYPE(double)

// A wrong frame would read and write outside the biases.
void check_on_cpu(const char* op, const MlpInputs& in) {
  if (in.in > kMaxInputs || in.hidden > kMaxHidden || in.out > kMaxOut)
    fail(op, "(): expected at most ", kMaxInputs, " inputs, ", kMaxHidden, " hidden units and ", kMaxOut, " outputs, got ",
         in.in, ", ", in.hidden, " and ", in.out);
  const int64_t* frame = in.frame.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < in.samples; ++i) {
    if (frame[i] < 0 || frame[i] >= in.frames)
      fail(op, "(): expected frame to be 0 to ", in.frames - 1, ", got ", frame[i], " at sample ", i);
  }
}

Tensor mlp(
    Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight, Tensor out_bias) {
  const MlpInputs in = check_mlp("mlp", inputs, frame, hidden_weight, hidden_bias, out_weight);
  check_like("mlp", "out_bias", out_bias, "inputs", inputs);
  check_shape("mlp", "out_bias", out_bias, {in.out});
  check_on_cpu("mlp", in);
  const Tensor bias = dense(out_bias);
  Tensor result = empty_of(in.inputs, {in.samples, in.out});
  dispatch_floating(in.inputs, [&]<class T>() {
    const Network<T> net(in, bias.const_data_ptr<T>());
    T* out = result.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, in.samples, 1024, [&](int64_t begin, int64_t end) { run_forward(net, begin, end, out); });
  });
  return result;
}

template <class T>
void add_all(std::vector<T>& to, const std::vector<T>& from) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_backward(
    Tensor grad, Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight) {
  const char* op = "mlp_backward";
  const MlpInputs in = check_mlp(op, inputs, frame, hidden_weight, hidden_bias, out_weight);
  check_like(op, "grad", grad, "inputs", inputs);
  check_shape(op, "grad", grad, {in.samples, in.out});
  check_on_cpu(op, in);
  const Tensor upstream = dense(grad);
  Tensor grad_inputs = empty_of(in.inputs, {in.samples, in.in}), grad_weight = empty_of(in.inputs, {in.hidden, in.in});
  Tensor grad_bias = empty_of(in.inputs, {in.frames, in.hidden}), grad_out = empty_of(in.inputs, {in.out, in.hidden});
  Tensor grad_out_bias = empty_of(in.inputs, {in.out});
  dispatch_floating(in.inputs, [&]<class T>() {
    const Network<T> net(in, nullptr);
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), in.samples / 1024));
    std::vector<Sums<T>> sums(parts, Sums<T>(net, in.frames));
    const T* g = upstream.const_data_ptr<T>();
    T* to_inputs = grad_inputs.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p)
        run_backward(net, in.samples * p / parts, in.samples * (p + 1) / parts, g, to_inputs, sums[p]);
    });
    for (int64_t p = 1; p < parts; ++p) {
      add_all(sums[0].weight, sums[p].weight);
      add_all(sums[0].bias, sums[p].bias);
      add_all(sums[0].out_weight, sums[p].out_weight);
      add_all(sums[0].out_bias, sums[p].out_bias);
    }
    T* to_weight = grad_weight.mutable_data_ptr<T>();
    for (int64_t h = 0; h < in.hidden; ++h)
      for (int64_t k = 0; k < in.in; ++k) to_weight[h * in.in + k] = sums[0].weight[k * in.hidden + h];
    std::copy(sums[0].bias.begin(), sums[0].bias.end(), grad_bias.mutable_data_ptr<T>());
    std::copy(sums[0].out_weight.begin(), sums[0].out_weight.end(), grad_out.mutable_data_ptr<T>());
    std::copy(sums[0].out_bias.begin(), sums[0].out_bias.end(), grad_out_bias.mutable_data_ptr<T>());
  });
  return {grad_inputs, grad_weight, grad_bias, grad_out, grad_out_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("mlp", TORCH_BOX(&mlp));
  library.impl("mlp_backward", TORCH_BOX(&mlp_backward));
}
