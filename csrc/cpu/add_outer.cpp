// add_outer_ on the CPU: threads share the rows; runs of rows that are not zero go to all targets together.

#include "add_outer_checks.h"
#include "bits.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace {

using namespace manvatar;

constexpr int64_t kElementsPerTask = 32768;
constexpr int64_t kRowsAtOnce = 16;  // of every item of the batch they stay in the first-level cache for all targets

template <class T>
struct Job {
  T* target;         // (targets, count, width)
  const T* weights;  // (batch, targets)
  const T* rows;     // (batch, count, width)
  int64_t batch, targets, count, width;
};

// The elements first..first+size-1 of all rows, four items of the batch at a time.
template <class T>
MANVATAR_INLINE void add_elements(const Job<T>& job, int64_t first, int64_t size) {
  const int64_t stride = job.count * job.width;
  for (int64_t k = 0; k < job.targets; ++k) {
    T* __restrict__ out = job.target + k * stride + first;
    const T* weight = job.weights + k;
    int64_t b = 0;
    for (; b + 4 <= job.batch; b += 4) {
      const T w0 = weight[b * job.targets], w1 = weight[(b + 1) * job.targets];
      const T w2 = weight[(b + 2) * job.targets], w3 = weight[(b + 3) * job.targets];
      const T *r0 = job.rows + b * stride + first, *r1 = r0 + stride, *r2 = r1 + stride, *r3 = r2 + stride;
      for (int64_t i = 0; i < size; ++i) out[i] += (w0 * r0[i] + w1 * r1[i]) + (w2 * r2[i] + w3 * r3[i]);
    }
    for (; b < job.batch; ++b) {
      const T w = weight[b * job.targets];
      const T* row = job.rows + b * stride + first;
      for (int64_t i = 0; i < size; ++i) out[i] += w * row[i];
    }
  }
}

template <int N, class T>
MANVATAR_INLINE bool any_item(const Job<T>& job, int64_t row) {
  const int64_t width = N ? N : job.width;
  for (int64_t b = 0; b < job.batch; ++b)
    if (any_bits(job.rows + (b * job.count + row) * width, width)) return true;
  return false;
}

template <int N, class T>
MANVATAR_INLINE void add(const Job<T>& job, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end;) {
    const int64_t first = row;
    while (row < end && row < first + kRowsAtOnce && any_item<N>(job, row)) ++row;
    if (row > first) add_elements(job, first * job.width, (row - first) * job.width);
    else ++row;
  }
}

#define MANVATAR_DTYPE(T)                                                                \
  MANVATAR_MULTIVERSION void run_add(const Job<T>& job, int64_t begin, int64_t end) {    \
    MANVATAR_BY_CHANNELS(job.width, add, job, begin, end)                                \
  }

MANVATAR_DTYPE(float)
MANVATAR_DTYPE(double)

void add_outer_(Tensor target, Tensor weights, Tensor rows) {
  const AddOuterInputs in = check_add_outer(target, weights, rows);
  if (target.numel() == 0 || in.batch == 0) return;
  dispatch_floating(target, [&]<class T>() {
    const Job<T> job{target.mutable_data_ptr<T>(), in.weights.const_data_ptr<T>(), in.rows.const_data_ptr<T>(),
                     in.batch, in.targets, in.count, in.width};
    torch::stable::parallel_for(
        0, in.count, std::max<int64_t>(1, kElementsPerTask / (in.width * in.batch)),
        [&](int64_t begin, int64_t end) { run_add(job, begin, end); });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(manvatar, CPU, library) {
  library.impl("add_outer_", TORCH_BOX(&add_outer_));
}
