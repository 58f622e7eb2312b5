// The matrix unit of recent Intel processors (Advanced Matrix Extensions) for mlp: bfloat16 factors, float32 sums.
#pragma once

#include "mlp_cpu.h"

namespace manvatar {

// Whether the processor has it and the system lets this process use it.
bool amx_is_there();

struct Amx {
  static constexpr int64_t kBlock = 128, kRows = 32, kColumns = 32;
  struct Scratch;

  // Weights in bfloat16, in pairs of rows: element (k, n) at [k / 2][n][k % 2].
  Aligned<uint16_t> by_input;   // (width, hidden)
  Aligned<uint16_t> by_hidden;  // (hidden, width)

  explicit Amx(const Network<float>& net);

  void hidden(const Network<float>& net, int64_t rows, const float* x, const float* bias, float* a, Scratch&) const;
  void backward(
      const Network<float>& net, int64_t rows, const float* x, const float* to_hidden, float* to_weight, float* to_x,
      Scratch&) const;
};

void run_forward(const Network<float>& net, const Amx& matrices, int64_t begin, int64_t end, float* out);
void run_backward(
    const Network<float>& net, const Amx& matrices, int64_t begin, int64_t end, const float* grad, float* grad_inputs,
    Sums<float>& sums);

}  // namespace manvatar
