// Four float32 that lie so that one instruction reads them and, on compute capability 9.0, adds them. Functions of such and
// of single numbers have one name, so that a kernel is written once.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cuda_runtime.h>

#include <cstdint>

namespace manvatar {

struct alignas(16) Four {
  float x, y, z, w;
};

__device__ inline Four operator+(const Four& a, const Four& b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ inline Four operator-(const Four& a, const Four& b) { return {a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w}; }
__device__ inline Four operator*(const Four& a, const Four& b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
__device__ inline Four operator*(float f, const Four& a) { return {f * a.x, f * a.y, f * a.z, f * a.w}; }
__device__ inline void operator+=(Four& a, const Four& b) { a = a + b; }

// One after the other, as channels are summed one by one: where a tensor begins changes no bit.
template <class T>
__device__ inline T add_up(T total, T value) {
  return total + value;
}
__device__ inline float add_up(float total, const Four& a) { return (((total + a.x) + a.y) + a.z) + a.w; }

template <class T>
__device__ inline bool is_zero(T value) {
  return value == 0;
}
__device__ inline bool is_zero(const Four& a) { return a.x == 0 && a.y == 0 && a.z == 0 && a.w == 0; }

// A V from where it may begin at any T, and back.
template <class V, class T>
__device__ inline V gather(const T* p) {
  if constexpr (sizeof(V) == sizeof(T)) return *p;
  else return {p[0], p[1], p[2], p[3]};
}
template <class T>
__device__ inline void scatter(T* p, T value) {
  *p = value;
}
__device__ inline void scatter(float* p, const Four& value) {
  p[0] = value.x, p[1] = value.y, p[2] = value.z, p[3] = value.w;
}

template <class T>
__device__ inline void add_atomically(T* p, T value) {
  atomicAdd(p, value);
}
__device__ inline void add_atomically(float* p, const Four& value) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  atomicAdd(reinterpret_cast<float4*>(p), float4{value.x, value.y, value.z, value.w});
#else
  atomicAdd(p, value.x), atomicAdd(p + 1, value.y), atomicAdd(p + 2, value.z), atomicAdd(p + 3, value.w);
#endif
}

// Whether rows of `width` elements from `p` on are aligned fours.
template <class T>
bool in_fours(const T* p, int64_t width) {
  return sizeof(T) == sizeof(float) && width % 4 == 0 && reinterpret_cast<uintptr_t>(p) % alignof(Four) == 0;
}

// Calls f<Four>() or f<T>().
template <class T, class F>
C10_HOST_DEVICE inline void by_fours(bool fours, const F& f) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (fours) return f.template operator()<Four>();
  }
  f.template operator()<T>();
}

}  // namespace manvatar
