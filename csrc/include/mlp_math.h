// The activation of the small MLPs, host and device.
#pragma once

#include <torch/headeronly/macros/Macros.h>

namespace manvatar {

constexpr double kLeakySlope = 0.01;

template <class T>
C10_HOST_DEVICE inline T leaky_relu(T x) {
  return x > 0 ? x : x * T(kLeakySlope);
}

// Derivative from the activated value, whose sign is that of its argument.
template <class T>
C10_HOST_DEVICE inline T leaky_relu_slope(T activated) {
  return activated > 0 ? T(1) : T(kLeakySlope);
}

}  // namespace manvatar
