// What mlp and mlp_backward ask of their arguments, on every device.
#pragma once

#include "checks.h"

namespace manvatar {

struct MlpInputs {
  Tensor inputs, frame, hidden_weight, hidden_bias, out_weight;  // contiguous
  int64_t samples, given, in, hidden, out, frames;  // given: columns of inputs; in: of what the hidden layer sees
};

inline MlpInputs check_mlp(
    const char* op, const Tensor& inputs, const Tensor& frame, const Tensor& hidden_weight, const Tensor& hidden_bias,
    const Tensor& out_weight, int64_t octaves) {
  check_floating(op, "inputs", inputs);
  check_shape(op, "inputs", inputs, {-1, -1});
  if (octaves < 0 || octaves > 16) fail(op, "(): expected octaves to be 0 to 16, got ", octaves);
  const int64_t samples = inputs.size(0), given = inputs.size(1), in = given * (1 + 2 * octaves);
  check_same_device(op, "frame", frame, inputs);
  check_int64(op, "frame", frame);
  check_shape(op, "frame", frame, {samples});
  check_like(op, "hidden_weight", hidden_weight, "inputs", inputs);
  check_shape(op, "hidden_weight", hidden_weight, {-1, in});
  const int64_t hidden = hidden_weight.size(0);
  if (hidden < 16 || hidden % 16 != 0) fail(op, "(): expected a multiple of 16 hidden units, got ", hidden);
  check_like(op, "hidden_bias", hidden_bias, "inputs", inputs);
  check_shape(op, "hidden_bias", hidden_bias, {-1, hidden});
  check_like(op, "out_weight", out_weight, "inputs", inputs);
  check_shape(op, "out_weight", out_weight, {-1, hidden});
  return {dense(inputs), dense(frame), dense(hidden_weight), dense(hidden_bias), dense(out_weight),
          samples, given, in, hidden, out_weight.size(0), hidden_bias.size(0)};
}

}  // namespace manvatar
