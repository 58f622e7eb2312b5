// sparse_adam_ on the CPU: threads share the rows. Of a row without gradient only the gradient is read.

#include "bits.h"
#include "sparse_adam_checks.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace {

using namespace manvatar;

constexpr int64_t kElementsPerTask = 32768;
constexpr int64_t kRowsAtOnce = 64;  // their gradients are still in the cache when they are used

template <class T>
struct Arrays {
  T *parameter, *grad, *mean, *square;
  int64_t width;
  bool skip_zero_rows;
  AdamStep<T> step;
};

// The elements begin..end-1, whose rows all have a gradient. A long plain loop is what compilers turn into vectors.
template <class T>
MANVATAR_INLINE void update_elements(const Arrays<T>& a, int64_t begin, int64_t end) {
  const AdamStep<T> step = a.step;
  T* __restrict__ grad = a.grad;
  T* __restrict__ parameter = a.parameter;
  T* __restrict__ mean = a.mean;
  T* __restrict__ square = a.square;
  for (int64_t i = begin; i < end; ++i) {
    adam_element(step, grad[i], parameter[i], mean[i], square[i]);
    grad[i] = 0;
  }
}

// Some rows at a time: first their gradients are looked at, and the rest of those to be updated is asked for; then runs of
// such rows are updated.
template <int N, class T>
MANVATAR_INLINE void update(const Arrays<T>& a, int64_t begin, int64_t end) {
  const int64_t width = N ? N : a.width;
  bool wanted[kRowsAtOnce];
  for (int64_t first = begin; first < end; first += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, end - first);
    for (int64_t row = 0; row < count; ++row) {
      const int64_t at = (first + row) * width;
      wanted[row] = !a.skip_zero_rows || any_bits(a.grad + at, width);
      if (!wanted[row]) continue;
      __builtin_prefetch(a.parameter + at);
      __builtin_prefetch(a.mean + at);
      __builtin_prefetch(a.square + at);
    }
    for (int64_t row = 0; row < count;) {
      const int64_t start = row;
      while (row < count && wanted[row]) ++row;
      if (row > start) update_elements(a, (first + start) * width, (first + row) * width);
      else ++row;
    }
  }
}

#define MANVATAR_DTYPE(T)                                                                          \
  MANVATAR_MULTIVERSION void run_update(const Arrays<T>& arrays, int64_t begin, int64_t end) {    \
    MANVATAR_BY_CHANNELS(arrays.width, update, arrays, begin, end)                                \
  }

MANVATAR_DTYPE(float)
MANVATAR_DTYPE(double)

void sparse_adam_(
    Tensor parameter, Tensor grad, Tensor exp_avg, Tensor exp_avg_sq, double rate, double beta1, double beta2, double eps,
    int64_t step, bool skip_zero_rows, std::optional<Tensor> scale) {
  SparseAdamInputs in = check_sparse_adam(parameter, grad, exp_avg, exp_avg_sq, rate, beta1, beta2, eps, step, scale);
  take_scale(in.step, in.scale);
  if (in.rows == 0) return;
  dispatch_floating(parameter, [&]<class T>() {
    const Arrays<T> arrays{parameter.mutable_data_ptr<T>(), grad.mutable_data_ptr<T>(), exp_avg.mutable_data_ptr<T>(),
                           exp_avg_sq.mutable_data_ptr<T>(), in.width, skip_zero_rows, adam_step_of<T>(in.step)};
    torch::stable::parallel_for(
        0, in.rows, std::max<int64_t>(1, kElementsPerTask / in.width),
        [&](int64_t begin, int64_t end) { run_update(arrays, begin, end); });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("sparse_adam_", TORCH_BOX(&sparse_adam_));
}
