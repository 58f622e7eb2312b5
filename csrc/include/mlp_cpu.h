// mlp on the CPU: a block of samples of one frame goes through both layers, forward and backward, within the caches; nothing
// of the hidden layer is ever stored. A block lies in rows of one input or hidden unit each, a column a sample, so that vectors
// run over samples: no row is ragged and no sum crosses a vector. What multiplies its matrices is a parameter: vectors
// (cpu/mlp.cpp) or the matrix unit (cpu/mlp_amx.cpp). Everything here is inlined into functions compiled for the
// instructions that run it.
#pragma once

#include "mlp_checks.h"
#include "mlp_math.h"
#include "multiversion.h"
#include "vector.h"

#include <algorithm>
#include <cstring>

namespace manvatar {

constexpr int64_t kMaxInputs = 256;
constexpr int64_t kMaxHidden = 256;
constexpr int64_t kMaxOut = 16;

constexpr int64_t kBlock = 128;            // samples
constexpr int64_t kBlockRow = kBlock + 16;  // elements of a row: no power of two, so that rows do not share cache sets

MANVATAR_INLINE int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <class T>
struct Network {
  const T *inputs, *hidden_weight, *hidden_bias, *out_weight, *out_bias;
  const int64_t* frame;
  int64_t samples, given, in, width, hidden, out;  // width: rows of what the hidden layer sees, >= in

  Network(const MlpInputs& arguments, const T* bias, int64_t width)
      : inputs(arguments.inputs.const_data_ptr<T>()),
        hidden_weight(arguments.hidden_weight.const_data_ptr<T>()),
        hidden_bias(arguments.hidden_bias.const_data_ptr<T>()),
        out_weight(arguments.out_weight.const_data_ptr<T>()),
        out_bias(bias),
        frame(arguments.frame.const_data_ptr<int64_t>()),
        samples(arguments.samples),
        given(arguments.given),
        in(arguments.in),
        width(width),
        hidden(arguments.hidden),
        out(arguments.out) {}

  // The end of the block that begins at `begin`: at most kBlock samples, all of one frame.
  int64_t block_end(int64_t begin, int64_t end) const {
    int64_t stop = begin + 1;
    while (stop < end && stop < begin + kBlock && frame[stop] == frame[begin]) ++stop;
    return stop;
  }
};

// Of a block of samples: rows of kBlockRow. Columns behind its samples, up to what `Matrices` takes at once, are zero.
template <class T, class Matrices>
struct Block {
  Aligned<T> x;     // (width,) what the hidden layer sees
  Aligned<T> a;     // (hidden,) the hidden layer before its bias, and later the gradient of that
  Aligned<T> to_x;  // (width,) gradient of x
  Aligned<T> grad;  // (out,) gradient of the outputs
  typename Matrices::Scratch scratch;

  explicit Block(const Network<T>& net)
      : x(net.width * kBlockRow), a(net.hidden * kBlockRow), to_x(net.width * kBlockRow), grad(net.out * kBlockRow),
        scratch(net) {}
};

// The given inputs of `count` samples as rows of x; rows up to the next whole square hold what has no meaning.
template <class T>
MANVATAR_INLINE void read_inputs(const Network<T>& net, int64_t begin, int64_t count, int64_t columns, T* x) {
  constexpr int64_t size = VectorOf<T>::size;
  const T *inputs = net.inputs + begin * net.given, *end = net.inputs + net.samples * net.given;
  for (int64_t s = 0; s < columns; s += size) {
    for (int64_t k = 0; k < net.given; k += size) {
      Vector<T> square[size] = {};
      for (int64_t i = 0; i < size && s + i < count; ++i) {
        const T* row = inputs + (s + i) * net.given + k;
        if (row + size <= end)
          square[i] = lanes(row);
        else
          std::memcpy(&square[i], row, (end - row) * sizeof(T));
      }
      transpose_square<T>(square);
      for (int64_t i = 0; i < size; ++i) lanes(x + (k + i) * kBlockRow + s) = square[i];
    }
  }
}

// The sections of sines and cosines behind the rows of the inputs. Each is made from the one before by the formulas for
// twice the angle where `doubling`: errors of 1e-7 double as well.
template <bool doubling, class T>
MANVATAR_INLINE void embed(const Network<T>& net, int64_t columns, T* x) {
  const int64_t sections = net.in / net.given, next = net.given * kBlockRow;
  for (int64_t k = 0; k < net.given; ++k) {
    T* row = x + k * kBlockRow;
    const bool fits = fit_for_sine(row, columns, T(embedding_factor(sections - 1)));
    for (int64_t s = 0; s < columns; s += VectorOf<T>::size) {
      const Vector<T> value = lanes(row + s);
      Vector<T> sine = {}, cosine = {};
      for (int64_t section = 1; section < sections; section += 2) {
        if (!fits) {
          exact_sine_and_cosine<T>(value * T(embedding_factor(section)), sine, cosine);
        } else if (section == 1 || !doubling) {
          sine_and_cosine(value * T(embedding_factor(section)), sine, cosine);
        } else {
          const Vector<T> twice = sine + sine, square = twice * sine;
          sine = twice * cosine;
          cosine = T(1) - square;
        }
        lanes(row + section * next + s) = sine;
        lanes(row + (section + 1) * next + s) = cosine;
      }
    }
  }
}

// Adds what the sections contribute to the gradient of the inputs.
template <class T>
MANVATAR_INLINE void embed_backward(const Network<T>& net, int64_t columns, const T* x, T* to_x) {
  const int64_t sections = net.in / net.given, next = net.given * kBlockRow;
  for (int64_t k = 0; k < net.given; ++k) {
    for (int64_t s = 0; s < columns; s += VectorOf<T>::size) {
      const int64_t at = k * kBlockRow + s;
      Vector<T> sum = lanes(to_x + at);
      for (int64_t section = 1; section < sections; section += 2) {
        const int64_t sine = at + section * next, cosine = sine + next;
        sum += T(embedding_factor(section)) * (lanes(x + cosine) * lanes(to_x + sine) - lanes(x + sine) * lanes(to_x + cosine));
      }
      lanes(to_x + at) = sum;
    }
  }
}

// Gradient of the given inputs of the samples begin..begin+count-1. Whole vectors are stored, each of which may run into what
// is written after it: the next sample, or the same sample's earlier inputs of the next. `end`: of this thread's samples.
template <class T>
MANVATAR_INLINE void write_inputs(
    const Network<T>& net, int64_t begin, int64_t count, int64_t end, const T* to_x, T* grad_inputs) {
  constexpr int64_t size = VectorOf<T>::size;
  const T* stop = grad_inputs + end * net.given;
  for (int64_t s = 0; s < count; s += size) {
    for (int64_t k = padded(net.given, size) - size; k >= 0; k -= size) {
      Vector<T> square[size];
      for (int64_t i = 0; i < size; ++i) square[i] = lanes(to_x + (k + i) * kBlockRow + s);
      transpose_square<T>(square);
      for (int64_t i = 0; i < size && s + i < count; ++i) {
        T* row = grad_inputs + (begin + s + i) * net.given + k;
        if (row + size <= stop)
          lanes(row) = square[i];
        else
          std::memcpy(row, &square[i], std::min(size, net.given - k) * sizeof(T));
      }
    }
  }
}

// x and, before its bias, the hidden layer; `backward`: matrices.backward comes next. Returns how many columns of the block
// are in use.
template <bool backward, class T, class Matrices>
MANVATAR_INLINE int64_t hidden_layer(
    const Network<T>& net, const Matrices& matrices, int64_t begin, int64_t count, Block<T, Matrices>& block) {
  const int64_t columns = padded(count, Matrices::kColumns);
  read_inputs(net, begin, count, columns, block.x.data());
  if (net.in > net.given) embed<Matrices::kDoubling>(net, columns, block.x.data());
  for (int64_t k = net.in; k < net.width; ++k) std::memset(block.x.data() + k * kBlockRow, 0, columns * sizeof(T));
  matrices.template hidden<backward>(net, columns, block);
  return columns;
}

// Calls f<N>(...) with the number of outputs known to the compiler where that is usual.
#define MANVATAR_BY_OUTPUTS(outputs, f, ...) \
  switch (outputs) {                         \
    case 1: f<1>(__VA_ARGS__); break;        \
    case 3: f<3>(__VA_ARGS__); break;        \
    case 4: f<4>(__VA_ARGS__); break;        \
    default: f<0>(__VA_ARGS__);              \
  }

// The outputs of a block, a few vectors of samples at a time. N = the number of outputs, so that their sums stay in
// registers; 0 = any number.
template <int N, class T>
MANVATAR_INLINE void output_layer(const Network<T>& net, const T* a, int64_t begin, int64_t count, T* out) {
  constexpr int64_t size = VectorOf<T>::size, together = N ? 2 : 1;
  const int64_t outputs = N ? N : net.out;
  const T* bias = net.hidden_bias + net.frame[begin] * net.hidden;
  for (int64_t s = 0; s < count; s += together * size) {
    Vector<T> totals[N ? N : kMaxOut][together];
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t v = 0; v < together; ++v) totals[o][v] = Vector<T>{} + net.out_bias[o];
    for (int64_t h = 0; h < net.hidden; ++h) {
      for (int64_t v = 0; v < together; ++v) {
        const Vector<T> zero = {}, sum = lanes(a + h * kBlockRow + s + v * size) + bias[h];
        const Vector<T> unit = sum > zero ? sum : sum * T(kLeakySlope);
        for (int64_t o = 0; o < outputs; ++o) totals[o][v] += unit * net.out_weight[o * net.hidden + h];
      }
    }
    for (int64_t v = 0; v < together; ++v)
      for (int64_t i = 0; i < size && s + v * size + i < count; ++i)
        for (int64_t o = 0; o < outputs; ++o) out[(begin + s + v * size + i) * outputs + o] = totals[o][v][i];
  }
}

template <class T, class Matrices>
MANVATAR_INLINE void forward(const Network<T>& net, const Matrices& matrices, int64_t begin, int64_t end, T* out) {
  Block<T, Matrices> block(net);
  for (int64_t start = begin; start < end;) {
    const int64_t stop = net.block_end(start, end);
    hidden_layer<false>(net, matrices, start, stop - start, block);
    MANVATAR_BY_OUTPUTS(net.out, output_layer, net, block.a.data(), start, stop - start, out)
    start = stop;
  }
}

// Sums of one thread, all zero at first. Those of a vector are summed over it at the end only.
template <class T>
struct Sums {
  Aligned<T> weight;      // (hidden, width)
  Aligned<T> bias;        // (frames, hidden, vector)
  Aligned<T> out_weight;  // (hidden, out, vector)
  Aligned<T> out_bias;    // (out, vector)

  Sums(const Network<T>& net, int64_t frames)
      : weight(net.hidden * net.width),
        bias(frames * net.hidden * VectorOf<T>::size),
        out_weight(net.out * net.hidden * VectorOf<T>::size),
        out_bias(net.out * VectorOf<T>::size) {}
};

// The hidden layer becomes its gradient before the activation; adds to the sums of all but hidden_weight.
template <int N, class T>
MANVATAR_INLINE void output_layer_backward(
    const Network<T>& net, const T* grad, int64_t columns, int64_t frame, T* a, Sums<T>& sums) {
  constexpr int64_t size = VectorOf<T>::size;
  const int64_t outputs = N ? N : net.out;
  const Vector<T> one = Vector<T>{} + T(1), slope = Vector<T>{} + T(kLeakySlope), zero = {};
  const T* bias = net.hidden_bias + frame * net.hidden;
  for (int64_t h = 0; h < net.hidden; ++h) {
    T* to_weight = sums.out_weight.data() + h * outputs * size;
    Vector<T> weight[N ? N : kMaxOut], weight_sums[N ? N : kMaxOut];
    Vector<T>& bias_sum = lanes(sums.bias.data() + (frame * net.hidden + h) * size);
    Vector<T> to_bias = bias_sum;
    for (int64_t o = 0; o < outputs; ++o) {
      weight[o] = zero + net.out_weight[o * net.hidden + h];
      weight_sums[o] = lanes(to_weight + o * size);
    }
    for (int64_t s = 0; s < columns; s += size) {
      Vector<T>& at = lanes(a + h * kBlockRow + s);
      const Vector<T> sum = at + bias[h], factor = sum > zero ? one : slope, unit = sum * factor;
      Vector<T> d = zero;
      for (int64_t o = 0; o < outputs; ++o) {
        const Vector<T> g = lanes(grad + o * kBlockRow + s);
        d += g * weight[o];
        weight_sums[o] += g * unit;
      }
      d *= factor;
      at = d;
      to_bias += d;
    }
    bias_sum = to_bias;
    for (int64_t o = 0; o < outputs; ++o) lanes(to_weight + o * size) = weight_sums[o];
  }
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t s = 0; s < columns; s += size) lanes(sums.out_bias.data() + o * size) += lanes(grad + o * kBlockRow + s);
}

template <class T, class Matrices>
MANVATAR_INLINE void backward(
    const Network<T>& net, const Matrices& matrices, int64_t begin, int64_t end, const T* grad, T* grad_inputs,
    Sums<T>& sums) {
  Block<T, Matrices> block(net);
  for (int64_t start = begin; start < end;) {
    const int64_t stop = net.block_end(start, end), count = stop - start;
    const int64_t columns = hidden_layer<true>(net, matrices, start, count, block);
    for (int64_t o = 0; o < net.out; ++o)
      for (int64_t s = 0; s < columns; ++s)
        block.grad[o * kBlockRow + s] = s < count ? grad[(start + s) * net.out + o] : T(0);
    MANVATAR_BY_OUTPUTS(
        net.out, output_layer_backward, net, block.grad.data(), columns, net.frame[start], block.a.data(), sums)
    matrices.backward(net, columns, block, sums.weight.data());
    if (net.in > net.given) embed_backward(net, columns, block.x.data(), block.to_x.data());
    write_inputs(net, start, count, end, block.to_x.data(), grad_inputs);
    start = stop;
  }
}

}  // namespace manvatar
