// As much of the CUDA runtime as csrc/cuda uses, on the CPU: found before the real one, it lets a C++ compiler build the
// kernels as they are, and machine.cpp runs them. Threads of a block take turns on one thread of the CPU, each until it
// waits for others, in an order that can be chosen: what depends on the order is a missing barrier, and shows.
#pragma once

#include <math.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) float4 {
  float x, y, z, w;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;  // of the thread whose turn it is

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidConfiguration };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrComputeCapabilityMajor,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
using cudaStream_t = void*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace cuda_on_cpu {

// Runs `thread` once for each thread of the grid. `kernel` tells kernels apart.
cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread);

// Waits for all threads of the block.
void block_barrier();

// Waits for all threads of the warp, whose arguments the last of them gives to `together`, in the order of their lanes.
void warp_barrier(void (*together)(void** arguments), void* argument);

// Ends the launch, which fails with these words.
void stop(const char* what);

cudaError_t allow_shared_memory(const void* kernel, size_t bytes);

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::block_barrier(); }
inline void __syncwarp() { cuda_on_cpu::warp_barrier(nullptr, nullptr); }

// One thread at a time: everything is atomic.
template <class T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address += value;
  return before;
}

inline float4 atomicAdd(float4* address, float4 value) {
  const float4 before = *address;
  *address = {before.x + value.x, before.y + value.y, before.z + value.z, before.w + value.w};
  return before;
}

template <class T>
T atomicMax(T* address, T value) {
  const T before = *address;
  *address = std::max(before, value);
  return before;
}

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  const std::tuple<Parameters...> copies(arguments...);
  return cuda_on_cpu::run(*config, reinterpret_cast<const void*>(kernel), [&] { std::apply(kernel, copies); });
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  return cuda_on_cpu::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int device);

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "invalid argument";
}

inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
