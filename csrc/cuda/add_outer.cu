// add_outer_ on CUDA: one thread an element of a row, which goes to all targets.

#include "add_outer_checks.h"
#include "launch.h"

#include <torch/csrc/stable/library.h>

namespace {

using namespace manvatar;

template <class T>
__global__ void __launch_bounds__(kThreads) add_kernel(
    int64_t elements, int64_t batch, int64_t targets, const T* __restrict__ weights, const T* __restrict__ rows,
    T* __restrict__ target) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= elements) return;
  bool any = false;
  for (int64_t b = 0; b < batch; ++b) any |= rows[b * elements + i] != 0;
  if (!any) return;
  for (int64_t k = 0; k < targets; ++k) {
    T sum = 0;
    for (int64_t b = 0; b < batch; ++b) sum += weights[b * targets + k] * rows[b * elements + i];
    target[k * elements + i] += sum;
  }
}

void add_outer_(Tensor target, Tensor weights, Tensor rows) {
  const char* op = "add_outer_";
  const AddOuterInputs in = check_add_outer(target, weights, rows);
  if (target.numel() == 0 || in.batch == 0) return;
  const OnDevice device(target);
  const int64_t elements = in.count * in.width;
  dispatch_floating(target, [&]<class T>() {
    launch(op, device, one_thread_each(elements), add_kernel<T>,
        elements, in.batch, in.targets, in.weights.const_data_ptr<T>(), in.rows.const_data_ptr<T>(),
        target.mutable_data_ptr<T>());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, MANVATAR_CUDA_KEY, library) {
  library.impl("add_outer_", TORCH_BOX(&add_outer_));
}
