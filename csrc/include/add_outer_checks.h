// What add_outer_ asks of its arguments, on every device.
#pragma once

#include "checks.h"

namespace manvatar {

struct AddOuterInputs {
  Tensor weights, rows;  // contiguous
  int64_t batch, targets, count, width;  // width: elements of a row
};

inline AddOuterInputs check_add_outer(const Tensor& target, const Tensor& weights, const Tensor& rows) {
  const char* op = "add_outer_";
  check_floating(op, "target", target);
  check_shape(op, "target", target, {-1, -1, -1});
  // It is changed in place, so it may not be copied to make it dense.
  if (!target.is_contiguous()) fail(op, "(): expected target to be contiguous");
  check_like(op, "weights", weights, "target", target);
  check_shape(op, "weights", weights, {-1, target.size(0)});
  check_like(op, "rows", rows, "target", target);
  check_shape(op, "rows", rows, {weights.size(0), target.size(1), target.size(2)});
  return {dense(weights), dense(rows), weights.size(0), target.size(0), target.size(1), target.size(2)};
}

}  // namespace manvatar
