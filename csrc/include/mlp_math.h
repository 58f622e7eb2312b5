// The activation of the small MLPs and the sines and cosines of their inputs, host and device.
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

// What the hidden layer sees lies in sections of as many columns as are given: the inputs x, sin x, cos x, sin 2x, cos 2x, ...
// The factor of x in a section behind the first.
C10_HOST_DEVICE inline int64_t embedding_factor(int64_t section) { return int64_t(1) << ((section - 1) / 2); }

C10_HOST_DEVICE inline bool embedding_is_sine(int64_t section) { return section % 2 == 1; }

// Derivative by x of an element of `section`, from the element of the other kind with the same factor.
template <class T>
C10_HOST_DEVICE inline T embedding_slope(int64_t section, T partner) {
  return (embedding_is_sine(section) ? partner : -partner) * T(embedding_factor(section));
}

}  // namespace manvatar
