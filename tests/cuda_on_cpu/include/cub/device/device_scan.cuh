// The running sum of CUB, one element after another.
#pragma once

#include <cuda_runtime.h>

#include <numeric>

namespace cub {

struct DeviceScan {
  // Without scratch memory it only says how much it wants.
  template <class T>
  static cudaError_t InclusiveSum(void* scratch, size_t& bytes, const T* in, T* out, int64_t count, cudaStream_t) {
    if (scratch == nullptr) {
      bytes = 1;
      return cudaSuccess;
    }
    if (bytes < 1) return cudaErrorInvalidValue;
    std::partial_sum(in, in + count, out);
    return cudaSuccess;
  }
};

}  // namespace cub
