// One step of Adam for one element (Kingma and Ba 2015, algorithm 1), host and device. The bias corrections are folded
// into two numbers that are the same for all elements.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>
#include <cstdint>

namespace manvatar {

template <class T>
struct AdamStep {
  T beta1, beta2, eps;
  T rate;         // learning rate / (1 - beta1^step)
  T root_scale;   // 1 / sqrt(1 - beta2^step)
};

inline AdamStep<double> adam_step(double rate, double beta1, double beta2, double eps, int64_t step) {
  const double count = static_cast<double>(step);
  return {beta1, beta2, eps, rate / (1 - std::pow(beta1, count)), 1 / std::sqrt(1 - std::pow(beta2, count))};
}

template <class T>
inline AdamStep<T> adam_step_of(const AdamStep<double>& step) {
  return {static_cast<T>(step.beta1), static_cast<T>(step.beta2), static_cast<T>(step.eps), static_cast<T>(step.rate),
          static_cast<T>(step.root_scale)};
}

// `scale`, where there is one, holds rate and root_scale.
template <class T>
C10_HOST_DEVICE inline void take_scale(AdamStep<T>& step, const double* scale) {
  if (scale == nullptr) return;
  step.rate = static_cast<T>(scale[0]);
  step.root_scale = static_cast<T>(scale[1]);
}

template <class T>
C10_HOST_DEVICE inline void adam_element(const AdamStep<T>& step, T grad, T& parameter, T& mean, T& square) {
  using std::sqrt;
  mean += (1 - step.beta1) * (grad - mean);
  square = step.beta2 * square + (1 - step.beta2) * grad * grad;
  parameter -= step.rate * mean / (sqrt(square) * step.root_scale + step.eps);
}

}  // namespace manvatar
