// The matrix unit of recent Intel processors (Advanced Matrix Extensions) for mlp: bfloat16 factors, float32 sums.
//
// A float32 factor is rounded to bfloat16 (8 bits), or cut into 2 or 3 bfloat16 numbers that add up to it to 16 or 24 bits.
// Of the products of the parts those are taken that are larger than the error: 1, 3 or 6 (Henry, Tang, Heinecke 2019,
// "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations").
#pragma once

#include "mlp_cpu.h"

namespace manvatar {

constexpr int64_t kAmxWidth = 32;

// Whether the processor has it and the system lets this process use it.
bool amx_is_there();

// Parts of a matrix in bfloat16, one matrix after another.
struct Halves {
  Aligned<uint16_t> elements;
  int64_t size;  // of one matrix
  Halves(int parts, int64_t size) : elements(parts * size), size(size) {}
  uint16_t* part(int p) { return elements.data() + p * size; }
  const uint16_t* part(int p) const { return elements.data() + p * size; }
};

template <int parts>
struct Amx {
  static constexpr int64_t kColumns = 32;
  static constexpr bool kDoubling = parts < 3;  // far below what rounding takes away

  // What stands on the right of a product lies in pairs of rows: element (k, n) at [k / 2][n][k % 2].
  struct Scratch {
    Halves pairs;      // x (width, kBlock); or the gradient of the hidden layer (hidden, kBlock), in pairs
    Halves rows;       // the same, not in pairs, where there will be gradients
    Halves by_sample;  // x (kBlock, width) in pairs of samples
    explicit Scratch(const Network<float>& net)
        : pairs(parts, std::max(net.width, net.hidden) * kBlockRow),
          rows(parts, std::max(net.width, net.hidden) * kBlockRow),
          by_sample(parts, kBlock * net.width) {}
  };

  Halves weight;      // (hidden, width)
  Halves transposed;  // (width, hidden)

  explicit Amx(const Network<float>& net);
  template <bool backward>
  void hidden(const Network<float>& net, int64_t columns, Block<float, Amx>& block) const;
  void backward(const Network<float>& net, int64_t columns, Block<float, Amx>& block, float* to_weight) const;
};

template <int parts>
void run_forward(const Network<float>& net, const Amx<parts>& matrices, int64_t begin, int64_t end, float* out);
template <int parts>
void run_backward(
    const Network<float>& net, const Amx<parts>& matrices, int64_t begin, int64_t end, const float* grad,
    float* grad_inputs, Sums<float>& sums);

}  // namespace manvatar
