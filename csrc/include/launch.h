// Launching CUDA kernels: the tensor's device and its current stream, and a check of every call.
#pragma once

#include "checks.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <cuda_runtime.h>

// Where kernels register themselves. The tests name another key, under which they run on the CPU (tests/cuda_on_cpu).
#ifndef MANVATAR_CUDA_KEY
#define MANVATAR_CUDA_KEY CUDA
#endif

namespace manvatar {

constexpr int kThreads = 128;

inline void check_cuda(const char* op, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call would find it again
  fail(op, "(): CUDA failed: ", cudaGetErrorString(error));
}

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

struct Blocks {
  int64_t count;
  int threads = kThreads;
  size_t shared_bytes = 0;
  int rows = 1;  // of blocks: blockIdx.y
};

// Enough blocks for one thread an element.
inline Blocks one_thread_each(int64_t elements) { return {(elements + kThreads - 1) / kThreads}; }

template <class... Parameters, class... Arguments>
void launch(
    const char* op, const OnDevice& device, Blocks blocks, void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (blocks.count > 2147483647) fail(op, "(): expected fewer than 2^31 blocks of work, got ", blocks.count);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks.count), static_cast<unsigned>(blocks.rows));
  config.blockDim = dim3(static_cast<unsigned>(blocks.threads));
  config.dynamicSmemBytes = blocks.shared_bytes;
  config.stream = device.stream();
  check_cuda(op, cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// A number that describes the current device.
inline int attribute(const char* op, cudaDeviceAttr name) {
  int device = 0, value = 0;
  check_cuda(op, cudaGetDevice(&device));
  check_cuda(op, cudaDeviceGetAttribute(&value, name, device));
  return value;
}

// Lets `kernel` use more shared memory than is allowed unasked, where the device has it.
template <class... Parameters>
void ask_for_shared_memory(const char* op, void (*kernel)(Parameters...), size_t bytes) {
  const size_t most = attribute(op, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (bytes > most)
    fail(op, "(): needs ", bytes, " bytes of shared memory, the device has ", most, "; use fewer inputs or hidden units");
  check_cuda(op, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

// The shared memory a kernel was launched with.
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
}

}  // namespace manvatar
