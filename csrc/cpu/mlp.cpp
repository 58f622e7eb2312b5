// mlp on the CPU: a block of samples of one frame goes through both layers, forward and backward, within the first-level
// cache; nothing of the hidden layer is ever stored. Threads share the samples in equal parts, each with its own sums of
// the parameter gradients, added up in order: deterministic for a fixed number of threads.

#include "mlp_checks.h"
#include "mlp_math.h"
#include "multiversion.h"
#include "vector.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <vector>

namespace {

using namespace manvatar;

constexpr int64_t kBlock = 64;       // samples at once
constexpr int64_t kRows = 4;         // rows of a register tile
constexpr int64_t kVectors = 4;      // vectors of a register tile
constexpr int64_t kMaxInputs = 256;  // bounds of the buffers on the stack
constexpr int64_t kMaxHidden = 256;
constexpr int64_t kMaxOut = 16;

// What becomes of a product: it replaces what was there, is added to it, or is a hidden layer before its bias.
enum class Then { kReplace, kAdd, kActivate };

// c (kRows x N vectors) = a (kRows x inner) b (inner x N vectors); a element (i, k) is a[i * a_row + k * a_inner]. What is
// added is summed by itself first: added term by term to a sum over many blocks it would lose digits.
template <Then then, int N, class T>
MANVATAR_INLINE void multiply_tile(
    const T* a, int64_t a_row, int64_t a_inner, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t inner,
    const T* bias) {
  Vector<T> sums[kRows][N] = {};
  for (int64_t k = 0; k < inner; ++k) {
    Vector<T> row[N];
    for (int64_t j = 0; j < N; ++j) row[j] = lanes(b + k * b_row + j * VectorOf<T>::size);
    for (int64_t i = 0; i < kRows; ++i) {
      const T scale = a[i * a_row + k * a_inner];
      for (int64_t j = 0; j < N; ++j) sums[i][j] += scale * row[j];
    }
  }
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < N; ++j) {
      Vector<T>& to = lanes(c + i * c_row + j * VectorOf<T>::size);
      if constexpr (then == Then::kAdd) {
        to += sums[i][j];
      } else if constexpr (then == Then::kReplace) {
        to = sums[i][j];
      } else {
        const Vector<T> zero = {}, sum = sums[i][j] + lanes(bias + j * VectorOf<T>::size);
        to = sum > zero ? sum : sum * T(kLeakySlope);
      }
    }
  }
}

// Rows are a multiple of kRows and columns of the vector size; the buffers are padded so.
template <Then then, class T>
MANVATAR_INLINE void multiply(
    const T* a, int64_t a_row, int64_t a_inner, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t rows,
    int64_t columns, int64_t inner, const T* bias = nullptr) {
  constexpr int64_t size = VectorOf<T>::size;
  const auto tile = [&]<int N>(int64_t j) __attribute__((always_inline)) {
    for (int64_t i = 0; i < rows; i += kRows)
      multiply_tile<then, N>(a + i * a_row, a_row, a_inner, b + j, b_row, c + i * c_row + j, c_row, inner, bias + j);
  };
  int64_t j = 0;
  for (; j + kVectors * size <= columns; j += kVectors * size) tile.template operator()<kVectors>(j);
  for (; j + 2 * size <= columns; j += 2 * size) tile.template operator()<2>(j);
  for (; j < columns; j += size) tile.template operator()<1>(j);
}

MANVATAR_INLINE int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

template <class T>
struct Network {
  const T *inputs, *hidden_bias, *out_weight, *out_bias;
  const int64_t* frame;
  int64_t samples, given, in, width, hidden, out;  // width: `in` rounded up to a whole vector
  Aligned<T> by_input;                             // (width, hidden) hidden weights, transposed, zero rows below
  Aligned<T> by_hidden;                            // (hidden, width) hidden weights, zero columns at the right

  Network(const MlpInputs& arguments, const T* bias)
      : inputs(arguments.inputs.const_data_ptr<T>()),
        hidden_bias(arguments.hidden_bias.const_data_ptr<T>()),
        out_weight(arguments.out_weight.const_data_ptr<T>()),
        out_bias(bias),
        frame(arguments.frame.const_data_ptr<int64_t>()),
        samples(arguments.samples),
        given(arguments.given),
        in(arguments.in),
        width(padded(arguments.in)),
        hidden(arguments.hidden),
        out(arguments.out),
        by_input(width * hidden),
        by_hidden(hidden * width) {
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

// What the hidden layer sees of a block, in rows of `width`, and the activated hidden layer. A row is written in whole
// vectors from its first section to its last, each over what the one before left beyond its end: behind the last row there
// is room for that, and what stands in a row behind its columns meets weights of zero.
template <class T>
struct Block {
  alignas(64) T x[kBlock * kMaxInputs + 64];
  alignas(64) T a[kBlock * kMaxHidden];
};

// The sections of sines and cosines behind the inputs in a row of x.
template <class T>
MANVATAR_INLINE void embed(const Network<T>& net, T* row) {
  constexpr int64_t size = VectorOf<T>::size;
  const int64_t sections = net.in / net.given;
  T cosines[kMaxInputs + size];
  for (int64_t section = 1; section < sections; section += 2) {
    const T factor = T(embedding_factor(section));
    for (int64_t k = 0; k < net.given; k += size) {
      Vector<T> sine, cosine;
      sine_and_cosine(lanes(row + k) * factor, sine, cosine);
      lanes(row + section * net.given + k) = sine;
      lanes(cosines + k) = cosine;
    }
    for (int64_t k = 0; k < net.given; k += size) lanes(row + (section + 1) * net.given + k) = lanes(cosines + k);
  }
}

// Gradient of the inputs of a sample from that of its row (which is used up), in whole vectors.
template <class T>
MANVATAR_INLINE void embed_backward(const Network<T>& net, const T* row, T* to_row) {
  constexpr int64_t size = VectorOf<T>::size;
  const int64_t sections = net.in / net.given;
  for (int64_t k = 0; k < net.given; k += size) {
    Vector<T> sum = lanes(to_row + k);
    for (int64_t section = 1; section < sections; section += 2) {
      const int64_t sine = section * net.given + k, cosine = sine + net.given;
      sum += T(embedding_factor(section)) * (lanes(row + cosine) * lanes(to_row + sine) - lanes(row + sine) * lanes(to_row + cosine));
    }
    lanes(to_row + k) = sum;
  }
}

template <class T>
MANVATAR_INLINE void hidden_layer(const Network<T>& net, int64_t begin, int64_t count, Block<T>& block) {
  constexpr int64_t size = VectorOf<T>::size;
  const int64_t rows = (count + kRows - 1) / kRows * kRows;
  const T* inputs = net.inputs + begin * net.given;
  const int64_t whole = std::min(count, (net.samples - begin) - (size + net.given - 1) / net.given);
  for (int64_t s = 0; s < count; ++s) {
    T* row = block.x + s * net.width;
    if (s < whole) {
      for (int64_t k = 0; k < net.given; k += size) lanes(row + k) = lanes(inputs + s * net.given + k);
    } else {  // whole vectors would read behind the last sample
      for (int64_t k = 0; k < net.given; ++k) row[k] = inputs[s * net.given + k];
    }
    if (net.in > net.given) embed(net, row);
  }
  std::memset(block.x + count * net.width, 0, (rows - count) * net.width * sizeof(T));
  multiply<Then::kActivate>(
      block.x, net.width, 1, net.by_input.data(), net.hidden, block.a, net.hidden, rows, net.hidden, net.in,
      net.hidden_bias + net.frame[begin] * net.hidden);
}

template <class T>
MANVATAR_INLINE void forward(const Network<T>& net, int64_t begin, int64_t end, T* out) {
  constexpr int64_t size = VectorOf<T>::size;
  Block<T> block;
  for (int64_t start = begin; start < end;) {
    const int64_t stop = net.block_end(start, end);
    hidden_layer(net, start, stop - start, block);
    for (int64_t first = start; first < stop; first += kRows) {
      const T* a = block.a + (first - start) * net.hidden;  // rows behind `stop` are there, too
      for (int64_t o = 0; o < net.out; ++o) {
        Vector<T> totals[kRows] = {};
        for (int64_t h = 0; h < net.hidden; h += size) {
          const Vector<T> weight = lanes(net.out_weight + o * net.hidden + h);
          for (int64_t i = 0; i < kRows; ++i) totals[i] += lanes(a + i * net.hidden + h) * weight;
        }
        for (int64_t i = 0; i < kRows; ++i)
          if (first + i < stop) out[(first + i) * net.out + o] = sum(totals[i]) + net.out_bias[o];
      }
    }
    start = stop;
  }
}

// Sums of one thread, all zero at first.
template <class T>
struct Sums {
  Aligned<T> weight, bias, out_weight, out_bias;  // weight as (width, hidden)

  Sums(const Network<T>& net, int64_t frames)
      : weight(net.width * net.hidden), bias(frames * net.hidden), out_weight(net.out * net.hidden), out_bias(net.out) {}
};

// Gradients of a block before the activation, and what it adds to the sums behind it; of all samples for a few hidden units
// at a time. N = the number of outputs, so that their weights stay in registers; 0 = any number.
template <int N, class T>
MANVATAR_INLINE void output_layer_backward(
    const Network<T>& net, const T* activated, const T* grad, int64_t count, int64_t frame, T* to_hidden, Sums<T>& sums) {
  const Vector<T> one = Vector<T>{} + T(1), slope = Vector<T>{} + T(kLeakySlope), zero = {};
  const int64_t outputs = N ? N : net.out;
  for (int64_t h = 0; h < net.hidden; h += VectorOf<T>::size) {
    Vector<T> weight[N ? N : kMaxOut], to_weight[N ? N : kMaxOut] = {}, to_bias = zero;
    for (int64_t o = 0; o < outputs; ++o) weight[o] = lanes(net.out_weight + o * net.hidden + h);
    for (int64_t s = 0; s < count; ++s) {
      const Vector<T> a = lanes(activated + s * net.hidden + h);
      Vector<T> d = zero;
      for (int64_t o = 0; o < outputs; ++o) {
        d += grad[s * outputs + o] * weight[o];
        to_weight[o] += grad[s * outputs + o] * a;
      }
      d *= a > zero ? one : slope;
      lanes(to_hidden + s * net.hidden + h) = d;
      to_bias += d;
    }
    lanes(sums.bias.data() + frame * net.hidden + h) += to_bias;
    for (int64_t o = 0; o < outputs; ++o) lanes(sums.out_weight.data() + o * net.hidden + h) += to_weight[o];
  }
  for (int64_t o = 0; o < outputs; ++o) {
    T to_bias = 0;
    for (int64_t s = 0; s < count; ++s) to_bias += grad[s * outputs + o];
    sums.out_bias[o] += to_bias;
  }
}

template <int N, class T>
MANVATAR_INLINE void backward(const Network<T>& net, int64_t begin, int64_t end, const T* grad, T* grad_inputs, Sums<T>& sums) {
  constexpr int64_t size = VectorOf<T>::size;
  Block<T> block;
  alignas(64) T to_hidden[kBlock * kMaxHidden];
  alignas(64) T to_x[kBlock * kMaxInputs + 64];
  const int64_t whole = end - (size + net.given - 1) / net.given;  // from here on whole vectors would overrun `end`
  for (int64_t start = begin; start < end;) {
    const int64_t stop = net.block_end(start, end), count = stop - start;
    const int64_t rows = (count + kRows - 1) / kRows * kRows;
    hidden_layer(net, start, count, block);
    output_layer_backward<N>(net, block.a, grad + start * net.out, count, net.frame[start], to_hidden, sums);
    if (rows > count) std::memset(to_hidden + count * net.hidden, 0, (rows - count) * net.hidden * sizeof(T));
    multiply<Then::kAdd>(
        block.x, 1, net.width, to_hidden, net.hidden, sums.weight.data(), net.hidden, net.width, net.hidden, count);
    multiply<Then::kReplace>(
        to_hidden, net.hidden, 1, net.by_hidden.data(), net.width, to_x, net.width, rows, net.width, net.hidden);
    for (int64_t s = 0; s < count; ++s) {
      T *row = to_x + s * net.width, *to = grad_inputs + (start + s) * net.given;
      if (net.in > net.given) embed_backward(net, block.x + s * net.width, row);
      if (start + s < whole) {
        for (int64_t k = 0; k < net.given; k += size) lanes(to + k) = lanes(row + k);
      } else {
        for (int64_t k = 0; k < net.given; ++k) to[k] = row[k];
      }
    }
    start = stop;
  }
}

#define MANVATAR_DTYPE(T)                                                                                             \
  MANVATAR_MULTIVERSION void run_forward(const Network<T>& net, int64_t begin, int64_t end, T* out) {                \
    forward(net, begin, end, out);                                                                                   \
  }                                                                                                                  \
  MANVATAR_MULTIVERSION void run_backward(                                                                           \
      const Network<T>& net, int64_t begin, int64_t end, const T* grad, T* grad_inputs, Sums<T>& sums) {             \
    switch (sizeof(T) == sizeof(float) ? net.out : 0) {                                                              \
      case 1: return backward<1>(net, begin, end, grad, grad_inputs, sums);                                          \
      case 3: return backward<3>(net, begin, end, grad, grad_inputs, sums);                                          \
      case 4: return backward<4>(net, begin, end, grad, grad_inputs, sums);                                          \
      default: return backward<0>(net, begin, end, grad, grad_inputs, sums);                                         \
    }                                                                                                                \
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
    Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight, Tensor out_bias,
    int64_t octaves) {
  const MlpInputs in = check_mlp("mlp", inputs, frame, hidden_weight, hidden_bias, out_weight, octaves);
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
void add_all(Aligned<T>& to, const Aligned<T>& from) {
  for (int64_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_backward(
    Tensor grad, Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight,
    int64_t octaves) {
  const char* op = "mlp_backward";
  const MlpInputs in = check_mlp(op, inputs, frame, hidden_weight, hidden_bias, out_weight, octaves);
  check_like(op, "grad", grad, "inputs", inputs);
  check_shape(op, "grad", grad, {in.samples, in.out});
  check_on_cpu(op, in);
  const Tensor upstream = dense(grad);
  Tensor grad_inputs = empty_of(in.inputs, {in.samples, in.given}), grad_weight = empty_of(in.inputs, {in.hidden, in.in});
  Tensor grad_bias = empty_of(in.inputs, {in.frames, in.hidden}), grad_out = empty_of(in.inputs, {in.out, in.hidden});
  Tensor grad_out_bias = empty_of(in.inputs, {in.out});
  dispatch_floating(in.inputs, [&]<class T>() {
    const Network<T> net(in, nullptr);
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), in.samples / 1024));
    std::vector<Sums<T>> sums;
    for (int64_t p = 0; p < parts; ++p) sums.emplace_back(net, in.frames);
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
    std::copy_n(sums[0].bias.data(), sums[0].bias.size(), grad_bias.mutable_data_ptr<T>());
    std::copy_n(sums[0].out_weight.data(), sums[0].out_weight.size(), grad_out.mutable_data_ptr<T>());
    std::copy_n(sums[0].out_bias.data(), sums[0].out_bias.size(), grad_out_bias.mutable_data_ptr<T>());
  });
  return {grad_inputs, grad_weight, grad_bias, grad_out, grad_out_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("mlp", TORCH_BOX(&mlp));
  library.impl("mlp_backward", TORCH_BOX(&mlp_backward));
}
