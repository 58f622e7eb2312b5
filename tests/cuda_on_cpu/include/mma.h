// Matrix products of a warp, 16 x 16 x 16. Every lane holds 8 elements of a matrix, dealt out in another way than on a GPU,
// where programs must not know it either. Loads and stores do not wait for other lanes, products do.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

constexpr int kSide = 16, kLanes = 32, kElements = kSide * kSide;

template <class Use, int m, int n, int k, class T, class Layout = void>
struct fragment {
  static_assert(m == kSide && n == kSide && k == kSide);
  static constexpr int num_elements = kElements / kLanes;
  T x[num_elements];
};

// Calls f(place within the lane, row, column) for the elements of the current lane.
template <class F>
void for_own_elements(const F& f) {
  const int lane = threadIdx.x % kLanes;
  for (int i = 0; i < kElements / kLanes; ++i) {
    const int element = i * kLanes + (lane * 13 + i * 7) % kLanes;
    f(i, element / kSide, element % kSide);
  }
}

inline void check_address(const void* address, unsigned stride_bytes) {
  if (reinterpret_cast<uintptr_t>(address) % 32 != 0 || stride_bytes % 16 != 0)
    cuda_on_cpu::stop("a matrix must begin at a multiple of 32 bytes, its rows at multiples of 16");
}

template <class Use, class T, class Layout>
void load_matrix_sync(fragment<Use, kSide, kSide, kSide, T, Layout>& to, const T* from, unsigned stride) {
  check_address(from, stride * sizeof(T));
  constexpr bool rows = std::is_same_v<Layout, row_major>;
  for_own_elements([&](int i, int row, int column) { to.x[i] = from[rows ? row * stride + column : column * stride + row]; });
}

template <class T>
void store_matrix_sync(T* to, const fragment<accumulator, kSide, kSide, kSide, T>& from, unsigned stride, layout_t layout) {
  check_address(to, stride * sizeof(T));
  const bool rows = layout == mem_row_major;
  for_own_elements([&](int i, int row, int column) { to[rows ? row * stride + column : column * stride + row] = from.x[i]; });
}

template <class Fragment, class T>
void fill_fragment(Fragment& fragment, T value) {
  for (auto& x : fragment.x) x = value;
}

// d = a b + c
template <class LayoutA, class LayoutB>
void mma_sync(
    fragment<accumulator, kSide, kSide, kSide, float>& d,
    const fragment<matrix_a, kSide, kSide, kSide, __nv_bfloat16, LayoutA>& a,
    const fragment<matrix_b, kSide, kSide, kSide, __nv_bfloat16, LayoutB>& b,
    const fragment<accumulator, kSide, kSide, kSide, float>& c) {
  struct Operands {
    float* d;
    const __nv_bfloat16 *a, *b;
    const float* c;
  } mine{d.x, a.x, b.x, c.x};
  if (blockDim.x % kLanes != 0) cuda_on_cpu::stop("a matrix product needs a whole warp");
  const auto together = [](void** lanes) {
    float left[kSide][kSide], right[kSide][kSide], sums[kSide][kSide];
    const auto for_all = [&](const auto& f) {
      for (unsigned lane = 0; lane < kLanes; ++lane) {
        threadIdx.x = lane;
        const Operands& of = *static_cast<Operands*>(lanes[lane]);
        for_own_elements([&](int i, int row, int column) { f(of, i, row, column); });
      }
    };
    for_all([&](const Operands& of, int i, int row, int column) {
      left[row][column] = __bfloat162float(of.a[i]);
      right[row][column] = __bfloat162float(of.b[i]);
      sums[row][column] = of.c[i];
    });
    for (int i = 0; i < kSide; ++i)
      for (int k = 0; k < kSide; ++k)
        for (int j = 0; j < kSide; ++j) sums[i][j] += left[i][k] * right[k][j];
    for_all([&](const Operands& of, int i, int row, int column) { of.d[i] = sums[row][column]; });
  };
  cuda_on_cpu::warp_barrier(together, &mine);
}

}  // namespace nvcuda::wmma
