// mlp on the CPU: a block of samples of one frame goes through both layers, forward and backward, within the caches; nothing
// of the hidden layer is ever stored. What multiplies its matrices is a parameter: vectors (cpu/mlp.cpp) or the matrix unit
// (cpu/mlp_amx.cpp). Everything here is inlined into functions compiled for the instructions that run it.
#pragma once

#include "mlp_checks.h"
#include "mlp_math.h"
#include "multiversion.h"
#include "vector.h"

#include <algorithm>
#include <cstring>

namespace manvatar {

constexpr int64_t kMaxInputs = 256;  // bounds of the buffers on the stack
constexpr int64_t kMaxHidden = 256;
constexpr int64_t kMaxOut = 16;

MANVATAR_INLINE int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <class T>
struct Network {
  const T *inputs, *hidden_weight, *hidden_bias, *out_weight, *out_bias;
  const int64_t* frame;
  int64_t samples, given, in, width, hidden, out;  // width: columns of a row of what the hidden layer sees, >= in

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

  // The end of the block that begins at `begin`: at most `most` samples, all of one frame.
  int64_t block_end(int64_t begin, int64_t end, int64_t most) const {
    int64_t stop = begin + 1;
    while (stop < end && stop < begin + most && frame[stop] == frame[begin]) ++stop;
    return stop;
  }
};

// The sections of sines and cosines behind the inputs in a row of x. The inputs are read before anything is written near
// them: a read of what was just written in other pieces waits until it has reached the cache.
template <class T>
MANVATAR_INLINE void embed(const Network<T>& net, T* row) {
  constexpr int64_t size = VectorOf<T>::size;
  const int64_t sections = net.in / net.given, vectors = (net.given + size - 1) / size;
  Vector<T> x[kMaxInputs / size], cosine[kMaxInputs / size];
  bool fits = true;
  for (int64_t v = 0; v < vectors; ++v) {
    x[v] = lanes(row + v * size);
    fits &= fit_for_sine(x[v] * T(embedding_factor(sections - 1)));
  }
  for (int64_t section = 1; section < sections; section += 2) {
    const T factor = T(embedding_factor(section));
    for (int64_t v = 0; v < vectors; ++v) {
      Vector<T> sine = {};
      if (fits)
        sine_and_cosine(x[v] * factor, sine, cosine[v]);
      else
        exact_sine_and_cosine<T>(x[v] * factor, sine, cosine[v]);
      lanes(row + section * net.given + v * size) = sine;
    }
    for (int64_t v = 0; v < vectors; ++v) lanes(row + (section + 1) * net.given + v * size) = cosine[v];
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

// What the hidden layer sees of the samples begin..begin+count-1, in rows of `width`. A row is written in whole vectors from
// its first section to its last, each over what the one before left beyond its end; behind the last row there is room for
// that. What stands in a row behind its columns has no meaning.
template <class T>
MANVATAR_INLINE void fill_rows(const Network<T>& net, int64_t begin, int64_t count, T* x) {
  constexpr int64_t size = VectorOf<T>::size;
  const T* inputs = net.inputs + begin * net.given;
  const int64_t whole = std::min(count, (net.samples - begin) - (size + net.given - 1) / net.given);
  for (int64_t s = 0; s < count; ++s) {
    T* row = x + s * net.width;
    if (s < whole) {
      for (int64_t k = 0; k < net.given; k += size) lanes(row + k) = lanes(inputs + s * net.given + k);
    } else {  // whole vectors would read behind the last sample
      for (int64_t k = 0; k < net.given; ++k) row[k] = inputs[s * net.given + k];
    }
    if (net.in > net.given) embed(net, row);
  }
}

// Of a block of samples; the last rows of what `Matrices` takes at once are there, too, and zero.
template <class T, class Matrices>
struct Block {
  alignas(64) T x[Matrices::kBlock * kMaxInputs + 64];  // what the hidden layer sees
  alignas(64) T a[Matrices::kBlock * kMaxHidden];       // the activated hidden layer
  typename Matrices::Scratch scratch;
};

template <class T, class Matrices>
MANVATAR_INLINE void hidden_layer(
    const Network<T>& net, const Matrices& matrices, int64_t begin, int64_t count, Block<T, Matrices>& block) {
  const int64_t rows = padded(count, Matrices::kRows);
  fill_rows(net, begin, count, block.x);
  std::memset(block.x + count * net.width, 0, (rows - count) * net.width * sizeof(T));
  matrices.hidden(net, rows, block.x, net.hidden_bias + net.frame[begin] * net.hidden, block.a, block.scratch);
}

template <class T, class Matrices>
MANVATAR_INLINE void forward(const Network<T>& net, const Matrices& matrices, int64_t begin, int64_t end, T* out) {
  constexpr int64_t size = VectorOf<T>::size, together = 4;
  Block<T, Matrices> block;
  for (int64_t start = begin; start < end;) {
    const int64_t stop = net.block_end(start, end, Matrices::kBlock);
    hidden_layer(net, matrices, start, stop - start, block);
    for (int64_t first = start; first < stop; first += together) {
      const T* a = block.a + (first - start) * net.hidden;  // rows behind `stop` are there, too
      for (int64_t o = 0; o < net.out; ++o) {
        Vector<T> totals[together] = {};
        for (int64_t h = 0; h < net.hidden; h += size) {
          const Vector<T> weight = lanes(net.out_weight + o * net.hidden + h);
          for (int64_t i = 0; i < together; ++i) totals[i] += lanes(a + i * net.hidden + h) * weight;
        }
        for (int64_t i = 0; i < together; ++i)
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

template <int N, class T, class Matrices>
MANVATAR_INLINE void backward(
    const Network<T>& net, const Matrices& matrices, int64_t begin, int64_t end, const T* grad, T* grad_inputs,
    Sums<T>& sums) {
  constexpr int64_t size = VectorOf<T>::size;
  Block<T, Matrices> block;
  alignas(64) T to_hidden[Matrices::kBlock * kMaxHidden];
  alignas(64) T to_x[Matrices::kBlock * kMaxInputs + 64];
  const int64_t whole = end - (size + net.given - 1) / net.given;  // from here on whole vectors would overrun `end`
  for (int64_t start = begin; start < end;) {
    const int64_t stop = net.block_end(start, end, Matrices::kBlock), count = stop - start;
    const int64_t rows = padded(count, Matrices::kRows);
    hidden_layer(net, matrices, start, count, block);
    output_layer_backward<N>(net, block.a, grad + start * net.out, count, net.frame[start], to_hidden, sums);
    std::memset(to_hidden + count * net.hidden, 0, (rows - count) * net.hidden * sizeof(T));
    matrices.backward(net, rows, block.x, to_hidden, sums.weight.data(), to_x, block.scratch);
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

// backward with the number of outputs known to the compiler where that is usual.
template <class T, class Matrices>
MANVATAR_INLINE void backward_by_outputs(
    const Network<T>& net, const Matrices& matrices, int64_t begin, int64_t end, const T* grad, T* grad_inputs,
    Sums<T>& sums) {
  switch (sizeof(T) == sizeof(float) ? net.out : 0) {
    case 1: return backward<1>(net, matrices, begin, end, grad, grad_inputs, sums);
    case 3: return backward<3>(net, matrices, begin, end, grad, grad_inputs, sums);
    case 4: return backward<4>(net, matrices, begin, end, grad, grad_inputs, sums);
    default: return backward<0>(net, matrices, begin, end, grad, grad_inputs, sums);
  }
}

}  // namespace manvatar
