// What sparse_adam_ asks of its arguments, on every device.
#pragma once

#include "checks.h"
#include "sparse_adam_math.h"

#include <optional>
#include <utility>

namespace manvatar {

struct SparseAdamInputs {
  int64_t rows, width;  // elements of one row
  AdamStep<double> step;
  const double* scale;  // rate and root_scale of the step, on the device of the parameter; or null
};

inline SparseAdamInputs check_sparse_adam(
    const Tensor& parameter, const Tensor& grad, const Tensor& exp_avg, const Tensor& exp_avg_sq, double rate, double beta1,
    double beta2, double eps, int64_t step, const std::optional<Tensor>& scale) {
  const char* op = "sparse_adam_";
  check_floating(op, "parameter", parameter);
  const std::vector<int64_t> shape(parameter.sizes().begin(), parameter.sizes().end());
  const std::pair<const char*, const Tensor*> others[] = {
      {"grad", &grad}, {"exp_avg", &exp_avg}, {"exp_avg_sq", &exp_avg_sq}};
  // They are changed in place, so none may be copied to make it dense.
  if (!parameter.is_contiguous()) fail(op, "(): expected parameter to be contiguous");
  for (const auto& [name, tensor] : others) {
    check_like(op, name, *tensor, "parameter", parameter);
    check_shape(op, name, *tensor, shape);
    if (!tensor->is_contiguous()) fail(op, "(): expected ", name, " to be contiguous");
  }
  if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1))
    fail(op, "(): expected beta1 and beta2 in [0, 1), got ", beta1, " and ", beta2);
  if (!(eps >= 0)) fail(op, "(): expected eps not to be negative, got ", eps);
  if (step < 1) fail(op, "(): expected step to count from 1, got ", step);
  if (scale.has_value()) {
    check_same_device(op, "scale", *scale, parameter);
    check_shape(op, "scale", *scale, {2});
    if (scale->scalar_type() != ScalarType::Double)
      fail(op, "(): expected scale to be float64, got ", torch::headeronly::toString(scale->scalar_type()));
    if (!scale->is_contiguous()) fail(op, "(): expected scale to be contiguous");
  }
  const int64_t width = shape.empty() ? 1 : shape.back();
  return {width ? parameter.numel() / width : 0, width, adam_step(rate, beta1, beta2, eps, step),
          scale.has_value() ? scale->const_data_ptr<double>() : nullptr};
}

}  // namespace manvatar
