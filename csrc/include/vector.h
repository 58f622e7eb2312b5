// Vectors of 64 bytes that the compiler cuts to what the instruction set has, and functions of them.
#pragma once

#include "multiversion.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace manvatar {

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(64), aligned(sizeof(T))));
  static constexpr int64_t size = 64 / sizeof(T);
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
MANVATAR_INLINE Vector<T>& lanes(T* p) {
  return *reinterpret_cast<Vector<T>*>(p);
}
template <class T>
MANVATAR_INLINE const Vector<T>& lanes(const T* p) {
  return *reinterpret_cast<const Vector<T>*>(p);
}

// Numbers that begin on a cache line: a vector across two of them takes twice as long to read.
template <class T>
class Aligned {
 public:
  explicit Aligned(int64_t n) : size_(n), data_(static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)))) {
    std::fill_n(data_, n, T(0));
  }
  Aligned(Aligned&& other) noexcept : size_(other.size_), data_(std::exchange(other.data_, nullptr)) {}
  ~Aligned() { ::operator delete(data_, std::align_val_t(64)); }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return size_; }

 private:
  int64_t size_;
  T* data_;
};

// Halves are added to halves: added one by one each sum would wait for the one before.
MANVATAR_INLINE float sum(const Vector<float>& v) {
  const auto a = v + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  const auto b = a + __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  return (b[0] + b[1]) + (b[2] + b[3]);
}
MANVATAR_INLINE double sum(const Vector<double>& v) {
  const auto a = v + __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  return (a[0] + a[1]) + (a[2] + a[3]);
}

// Transposes as many vectors as one has elements, in place: blocks of half the size change places, then within them.
template <int half, class T, size_t... i>
MANVATAR_INLINE void exchange_blocks(Vector<T>& a, Vector<T>& b, std::index_sequence<i...>) {
  constexpr int size = VectorOf<T>::size;
  const Vector<T> first = __builtin_shufflevector(a, b, (int(i) & half ? size + int(i) - half : int(i))...);
  b = __builtin_shufflevector(a, b, (int(i) & half ? size + int(i) : int(i) + half)...);
  a = first;
}
template <class T, int half = VectorOf<T>::size / 2>
MANVATAR_INLINE void transpose_square(Vector<T>* rows) {
  constexpr int size = VectorOf<T>::size;
  for (int i = 0; i < size; ++i)
    if ((i & half) == 0) exchange_blocks<half, T>(rows[i], rows[i + half], std::make_index_sequence<size>());
  if constexpr (half > 1) transpose_square<T, half / 2>(rows);
}

// out (columns, rows) = x (rows, columns), both in whole squares; strides are of elements.
template <class T>
MANVATAR_INLINE void transpose(const T* x, int64_t x_row, int64_t rows, int64_t columns, T* out, int64_t out_row) {
  constexpr int64_t size = VectorOf<T>::size;
  for (int64_t r = 0; r < rows; r += size) {
    for (int64_t c = 0; c < columns; c += size) {
      Vector<T> square[size];
      for (int64_t i = 0; i < size; ++i) square[i] = lanes(x + (r + i) * x_row + c);
      transpose_square<T>(square);
      for (int64_t i = 0; i < size; ++i) lanes(out + (c + i) * out_row + r) = square[i];
    }
  }
}

// Sine and cosine by the C library, one after the other.
template <class T>
MANVATAR_INLINE void exact_sine_and_cosine(const Vector<T>& x, Vector<T>& sine, Vector<T>& cosine) {
  for (int64_t i = 0; i < VectorOf<T>::size; ++i) {
    sine[i] = std::sin(x[i]);
    cosine[i] = std::cos(x[i]);
  }
}

// Whether all of x[0..n) times `factor` lie in (-8000, 8000), n being whole vectors; not so where one is not a
// number. Double has no short way.
MANVATAR_INLINE bool fit_for_sine(const double*, int64_t, double) { return false; }

MANVATAR_INLINE bool fit_for_sine(const float* x, int64_t n, float factor) {
  typedef int32_t Integers __attribute__((vector_size(64), aligned(4)));
  // Without their signs floats are ordered as the integers of the same bits, and what is not a number comes last.
  Integers most = {};
  for (int64_t i = 0; i < n; i += 16) {
    const Integers bits = (Integers)(lanes(x + i) * factor) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  int32_t largest = 0;
  for (int lane = 0; lane < 16; ++lane) largest = std::max(largest, most[lane]);
  return largest < 0x45fa0000;  // the bits of 8000
}

MANVATAR_INLINE void sine_and_cosine(const Vector<double>& x, Vector<double>& sine, Vector<double>& cosine) {
  exact_sine_and_cosine<double>(x, sine, cosine);
}

// Within 1.5 units in the last place where x fits: it is brought to [-pi/4, pi/4] by subtracting multiples of pi/2 in three
// parts, whose products are exact (Cody and Waite 1980); there the polynomials of Cephes (Moshier 1984).
MANVATAR_INLINE void sine_and_cosine(const Vector<float>& x, Vector<float>& sine, Vector<float>& cosine) {
  typedef int32_t Integers __attribute__((vector_size(64), aligned(4)));
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which stands in the lowest bits
  const Vector<float> shifted = x * 0.636619772f + kMagic, turns = shifted - kMagic;
  const Integers quarter = (Integers)shifted;
  const Vector<float> r = ((x - turns * 1.5703125f) - turns * 4.83751296997e-4f) - turns * 7.54978995489e-8f;
  const Vector<float> square = r * r;
  const Vector<float> s =
      r + r * square * (-1.6666654611e-1f + square * (8.3321608736e-3f + square * -1.9515295891e-4f));
  const Vector<float> c = 1.0f - 0.5f * square +
      square * square * (4.166664568298827e-2f + square * (-1.388731625493765e-3f + square * 2.443315711809948e-5f));
  const auto odd = (quarter & 1) != 0;
  // The sign bits are those of quarter / 2 and (quarter + 1) / 2.
  const Integers sign = (quarter & 2) << 30, other = ((quarter + 1) & 2) << 30;
  sine = (Vector<float>)((Integers)(odd ? c : s) ^ sign);
  cosine = (Vector<float>)((Integers)(odd ? s : c) ^ other);
}

}  // namespace manvatar
