// mlp on the CPU with vectors; the rest of it is in mlp_cpu.h. Threads share the samples in equal parts, each with its own sums
// of the parameter gradients, added up in order: deterministic for a fixed number of threads.

#include "mlp_amx.h"
#include "mlp_cpu.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

namespace {

using namespace manvatar;

constexpr int64_t kRows = 4;     // rows of a register tile
constexpr int64_t kVectors = 4;  // vectors of a register tile

// c (kRows x N vectors) = or += a (kRows x inner) b (inner x N vectors); a element (i, k) is a[i * a_row + k * a_inner]. What
// is added is summed by itself first: added term by term to a sum over many blocks it would lose digits.
template <bool add, int N, class T>
MANVATAR_INLINE void multiply_tile(
    const T* a, int64_t a_row, int64_t a_inner, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t inner) {
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
      to = add ? to + sums[i][j] : sums[i][j];
    }
  }
}

// Rows are a multiple of kRows and columns of the vector size; the buffers are padded so.
template <bool add, class T>
MANVATAR_INLINE void multiply(
    const T* a, int64_t a_row, int64_t a_inner, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t rows,
    int64_t columns, int64_t inner) {
  constexpr int64_t size = VectorOf<T>::size;
  const auto tile = [&]<int N>(int64_t j) __attribute__((always_inline)) {
    for (int64_t i = 0; i < rows; i += kRows)
      multiply_tile<add, N>(a + i * a_row, a_row, a_inner, b + j, b_row, c + i * c_row + j, c_row, inner);
  };
  int64_t j = 0;
  for (; j + kVectors * size <= columns; j += kVectors * size) tile.template operator()<kVectors>(j);
  for (; j + 2 * size <= columns; j += 2 * size) tile.template operator()<2>(j);
  for (; j < columns; j += size) tile.template operator()<1>(j);
}

template <class T>
struct Vectors {
  static constexpr int64_t kColumns = 16, kWidth = 16;
  static constexpr bool kDoubling = false;
  struct Scratch {
    Aligned<T> by_sample;  // (kBlock, width) x, transposed
    explicit Scratch(const Network<T>& net) : by_sample(kBlock * net.width) {}
  };

  Aligned<T> weight;  // (hidden, width) hidden weights, zero columns at the right

  explicit Vectors(const Network<T>& net) : weight(net.hidden * net.width) {
    for (int64_t h = 0; h < net.hidden; ++h) std::copy_n(net.hidden_weight + h * net.in, net.in, &weight[h * net.width]);
  }

  template <bool>
  MANVATAR_INLINE void hidden(const Network<T>& net, int64_t columns, Block<T, Vectors>& block) const {
    multiply<false>(
        weight.data(), net.width, 1, block.x.data(), kBlockRow, block.a.data(), kBlockRow, net.hidden, columns, net.in);
  }

  MANVATAR_INLINE void backward(
      const Network<T>& net, int64_t columns, Block<T, Vectors>& block, T* to_weight) const {
    T* by_sample = block.scratch.by_sample.data();
    transpose(block.x.data(), kBlockRow, net.width, columns, by_sample, net.width);
    multiply<true>(
        block.a.data(), kBlockRow, 1, by_sample, net.width, to_weight, net.width, net.hidden, net.width, columns);
    multiply<false>(
        weight.data(), 1, net.width, block.a.data(), kBlockRow, block.to_x.data(), kBlockRow, padded(net.in, kRows),
        columns, net.hidden);
  }
};

#define MANVATAR_DTYPE(T)                                                                                             \
  MANVATAR_MULTIVERSION void run_forward(                                                                            \
      const Network<T>& net, const Vectors<T>& matrices, int64_t begin, int64_t end, T* out) {                       \
    forward(net, matrices, begin, end, out);                                                                         \
  }                                                                                                                  \
  MANVATAR_MULTIVERSION void run_backward(                                                                           \
      const Network<T>& net, const Vectors<T>& matrices, int64_t begin, int64_t end, const T* grad, T* grad_inputs,  \
      Sums<T>& sums) {                                                                                               \
    backward(net, matrices, begin, end, grad, grad_inputs, sums);                                                    \
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

// The matrix unit takes float32 networks of whole tiles.
void check_parts(const char* op, const MlpInputs& in, int64_t parts) {
  if (parts < 0 || parts > 3) fail(op, "(): expected bfloat16_parts to be 0 to 3, got ", parts);
  if (parts == 0) return;
  if (!amx_is_there()) fail(op, "(): bfloat16 needs a processor with AMX, and Linux; use float32");
  if (in.inputs.scalar_type() != torch::headeronly::ScalarType::Float)
    fail(op, "(): expected inputs to be float32 for bfloat16 products");
  if (in.hidden % 32 != 0) fail(op, "(): expected a multiple of 32 hidden units for bfloat16 products, got ", in.hidden);
}

// Calls f(network, matrices) with what multiplies.
template <class T, class F>
void with_matrices(const MlpInputs& in, const T* out_bias, int64_t parts, F&& f) {
  if constexpr (std::is_same_v<T, float>) {
    if (parts > 0) {
      const Network<T> net(in, out_bias, padded(in.in, kAmxWidth));
      if (parts == 1) return f(net, Amx<1>(net));
      if (parts == 2) return f(net, Amx<2>(net));
      return f(net, Amx<3>(net));
    }
  }
  const Network<T> net(in, out_bias, padded(in.in, Vectors<T>::kWidth));
  f(net, Vectors<T>(net));
}

// How samples are multiplied is chosen by name in Python, so it can ask. The tensor only says on which device.
bool mlp_has_bfloat16(Tensor) { return amx_is_there(); }

Tensor mlp(
    Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight, Tensor out_bias,
    int64_t octaves, int64_t bfloat16_parts) {
  const MlpInputs in = check_mlp("mlp", inputs, frame, hidden_weight, hidden_bias, out_weight, octaves);
  check_like("mlp", "out_bias", out_bias, "inputs", inputs);
  check_shape("mlp", "out_bias", out_bias, {in.out});
  check_on_cpu("mlp", in);
  check_parts("mlp", in, bfloat16_parts);
  const Tensor bias = dense(out_bias);
  Tensor result = empty_of(in.inputs, {in.samples, in.out});
  dispatch_floating(in.inputs, [&]<class T>() {
    T* out = result.mutable_data_ptr<T>();
    with_matrices<T>(in, bias.const_data_ptr<T>(), bfloat16_parts, [&](const auto& net, const auto& matrices) {
      torch::stable::parallel_for(
          0, in.samples, 1024, [&](int64_t begin, int64_t end) { run_forward(net, matrices, begin, end, out); });
    });
  });
  return result;
}

template <class T>
void add_all(Aligned<T>& to, const Aligned<T>& from) {
  for (int64_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

// The sum over a vector of sums.
template <class T>
T total(const Aligned<T>& vectors, int64_t i) {
  return sum(lanes(vectors.data() + i * VectorOf<T>::size));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mlp_backward(
    Tensor grad, Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight,
    int64_t octaves, int64_t bfloat16_parts) {
  const char* op = "mlp_backward";
  const MlpInputs in = check_mlp(op, inputs, frame, hidden_weight, hidden_bias, out_weight, octaves);
  check_like(op, "grad", grad, "inputs", inputs);
  check_shape(op, "grad", grad, {in.samples, in.out});
  check_on_cpu(op, in);
  check_parts(op, in, bfloat16_parts);
  const Tensor upstream = dense(grad);
  Tensor grad_inputs = empty_of(in.inputs, {in.samples, in.given}), grad_weight = empty_of(in.inputs, {in.hidden, in.in});
  Tensor grad_bias = empty_of(in.inputs, {in.frames, in.hidden}), grad_out = empty_of(in.inputs, {in.out, in.hidden});
  Tensor grad_out_bias = empty_of(in.inputs, {in.out});
  dispatch_floating(in.inputs, [&]<class T>() {
    const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), in.samples / 1024));
    std::vector<Sums<T>> sums;
    const T* g = upstream.const_data_ptr<T>();
    T* to_inputs = grad_inputs.mutable_data_ptr<T>();
    with_matrices<T>(in, nullptr, bfloat16_parts, [&](const auto& net, const auto& matrices) {
      for (int64_t p = 0; p < parts; ++p) sums.emplace_back(net, in.frames);
      torch::stable::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
        for (int64_t p = first; p < last; ++p)
          run_backward(net, matrices, in.samples * p / parts, in.samples * (p + 1) / parts, g, to_inputs, sums[p]);
      });
    });
    for (int64_t p = 1; p < parts; ++p) {
      add_all(sums[0].weight, sums[p].weight);
      add_all(sums[0].bias, sums[p].bias);
      add_all(sums[0].out_weight, sums[p].out_weight);
      add_all(sums[0].out_bias, sums[p].out_bias);
    }
    T* to_weight = grad_weight.mutable_data_ptr<T>();
    const int64_t width = sums[0].weight.size() / in.hidden;
    for (int64_t h = 0; h < in.hidden; ++h) std::copy_n(&sums[0].weight[h * width], in.in, to_weight + h * in.in);
    T *to_bias = grad_bias.mutable_data_ptr<T>(), *to_out = grad_out.mutable_data_ptr<T>();
    for (int64_t i = 0; i < in.frames * in.hidden; ++i) to_bias[i] = total(sums[0].bias, i);
    for (int64_t h = 0; h < in.hidden; ++h)
      for (int64_t o = 0; o < in.out; ++o) to_out[o * in.hidden + h] = total(sums[0].out_weight, h * in.out + o);
    for (int64_t o = 0; o < in.out; ++o) grad_out_bias.mutable_data_ptr<T>()[o] = total(sums[0].out_bias, o);
  });
  return {grad_inputs, grad_weight, grad_bias, grad_out, grad_out_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("mlp", TORCH_BOX(&mlp));
  library.impl("mlp_backward", TORCH_BOX(&mlp_backward));
  library.impl("mlp_has_bfloat16", TORCH_BOX(&mlp_has_bfloat16));
}
