// Launching CUDA kernels: the tensor's device and its current stream, one thread an element, and a check afterwards.
#pragma once

#include "checks.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <cuda_runtime.h>

namespace manvatar {

constexpr int kThreads = 128;

// Makes the device of `tensor` current while it lives; `stream()` is the stream PyTorch uses there.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {}

  cudaStream_t stream() const {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};

inline unsigned blocks_for(const char* op, int64_t elements) {
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  if (blocks > 2147483647) fail(op, "(): expected fewer than 2^31 blocks of work, got ", blocks);
  return static_cast<unsigned>(blocks);
}

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) fail(op, "(): the CUDA kernel could not be launched: ", cudaGetErrorString(error));
}

}  // namespace manvatar
