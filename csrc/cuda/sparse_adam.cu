// sparse_adam_ on CUDA: one thread a row, so that a row without gradient costs one read, by fours (V) where they lie so.

#include "four.h"
#include "launch.h"
#include "sparse_adam_checks.h"

#include <torch/csrc/stable/library.h>

namespace {

using namespace manvatar;

template <class V, class T>
__global__ void __launch_bounds__(kThreads) update_kernel(
    int64_t rows, int64_t width, bool skip_zero_rows, AdamStep<T> step, const double* __restrict__ scale,
    T* __restrict__ parameter, T* __restrict__ grad, T* __restrict__ mean, T* __restrict__ square) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  const int64_t begin = row * width, end = begin + width;
  bool any = false;
  for (int64_t k = begin; k < end; k += sizeof(V) / sizeof(T)) any |= !is_zero(*reinterpret_cast<const V*>(grad + k));
  if (!any && skip_zero_rows) return;
  take_scale(step, scale);
  for (int64_t k = begin; k < end; ++k) {
    adam_element(step, grad[k], parameter[k], mean[k], square[k]);
    grad[k] = 0;
  }
}

// Where no row may be skipped rows mean nothing, and one thread an element reads side by side.
template <class T>
void update(
    const OnDevice& device, const SparseAdamInputs& in, bool skip_zero_rows, const Tensor& parameter, const Tensor& grad,
    const Tensor& exp_avg, const Tensor& exp_avg_sq) {
  const int64_t rows = skip_zero_rows ? in.rows : in.rows * in.width, width = skip_zero_rows ? in.width : 1;
  T* rows_of_grad = grad.mutable_data_ptr<T>();
  by_fours<T>(in_fours(rows_of_grad, width), [&]<class V>() {
    launch("sparse_adam_", device, one_thread_each(rows), update_kernel<V, T>,
        rows, width, skip_zero_rows, adam_step_of<T>(in.step), in.scale, parameter.mutable_data_ptr<T>(), rows_of_grad,
        exp_avg.mutable_data_ptr<T>(), exp_avg_sq.mutable_data_ptr<T>());
  });
}

void sparse_adam_(
    Tensor parameter, Tensor grad, Tensor exp_avg, Tensor exp_avg_sq, double rate, double beta1, double beta2, double eps,
    int64_t step, bool skip_zero_rows, std::optional<Tensor> scale) {
  const SparseAdamInputs in =
      check_sparse_adam(parameter, grad, exp_avg, exp_avg_sq, rate, beta1, beta2, eps, step, scale);
  if (in.rows == 0) return;
  const OnDevice device(parameter);
  dispatch_floating(parameter, [&]<class T>() {
    update<T>(device, in, skip_zero_rows, parameter, grad, exp_avg, exp_avg_sq);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, MANVATAR_CUDA_KEY, library) {
  library.impl("sparse_adam_", TORCH_BOX(&sparse_adam_));
}
