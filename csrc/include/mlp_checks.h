// What mlp and mlp_backward ask of their arguments, on every device.
#pragma once

#include "checks.h"

namespace manvatar {

struct MlpInputs {
  Tensor inputs, frame, hidden_weight, hidden_bias, out_weight;  // contiguous
  int64_t samples, in, hidden, out, frames;
};

inline MlpInputs check_mlp(
    const char* op, const Tensor& inputs, const Tensor& frame, const Tensor& hidden_weight, const Tensor& hidden_bias,
    const Tensor& out_weight) {
  check_floating(op, "inputs", inputs);
  check_shape(op, "inputs", inputs, {-1, -1});
  const int64_t samples = inputs.size(0), in = inputs.size(1);
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
          samples, in, hidden, out_weight.size(0), hidden_bias.size(0)};
}

}  // namespace manvatar
