// sparse_adam_ on the CPU: threads share the rows. Of a row without gradient only the gradient is read.

#include "multiversion.h"
#include "sparse_adam_checks.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace {

using namespace manvatar;

constexpr int64_t kElementsPerTask = 32768;

template <class T>
struct Arrays {
  T *parameter, *grad, *mean, *square;
  int64_t width;
  bool skip_zero_rows;
  AdamStep<T> step;
};

template <int N, class T>
MANVATAR_INLINE void update(const Arrays<T>& a, int64_t begin, int64_t end) {
  const int64_t width = N ? N : a.width;
  for (int64_t row = begin; row < end; ++row) {
    T* grad = a.grad + row * width;
    bool any = false;  // not-a-number counts as a gradient: it must not be hidden
    for (int64_t c = 0; c < width; ++c) any |= grad[c] != 0;
    if (!any && a.skip_zero_rows) continue;
    T *parameter = a.parameter + row * width, *mean = a.mean + row * width, *square = a.square + row * width;
#pragma GCC ivdep
    for (int64_t c = 0; c < width; ++c) adam_element(a.step, grad[c], parameter[c], mean[c], square[c]);
    for (int64_t c = 0; c < width; ++c) grad[c] = 0;
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
    int64_t step, bool skip_zero_rows) {
  const SparseAdamInputs in = check_sparse_adam(parameter, grad, exp_avg, exp_avg_sq, rate, beta1, beta2, eps, step);
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
