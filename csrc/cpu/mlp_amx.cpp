// The products of mlp on the matrix unit (AMX): 16 x 32 by 32 x 16 elements in 16 cycles, 16 times what vectors do.
//
// A tile of the left factor is 16 rows of 32 bfloat16; one of the right factor holds pairs of rows, element (k, n) at
// [k / 2][n][k % 2]; sums are 16 x 16 float32. Two by two tiles of sums are held at a time, so that each tile of a factor
// is used twice when it is read. (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.)

#include "mlp_amx.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC's own header
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

// Not an attribute: that of a template would be lost where it is instantiated.
#pragma GCC target("arch=x86-64-v4,amx-tile,amx-bf16,avx512bf16")

namespace manvatar {
namespace {

constexpr int64_t kTile = 16;

bool ask_for_amx() {
  __builtin_cpu_init();
  unsigned a = 0, b = 0, c = 0, d = 0;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  const bool tiles = (d >> 24) & 1, bfloat16 = (d >> 22) & 1;
  if (!tiles || !bfloat16 || !__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512f")) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Every tile with 16 rows of 64 bytes, of this thread.
MANVATAR_INLINE void configure() {
  alignas(64) uint8_t settings[64] = {};
  settings[0] = 1;  // palette
  for (int tile = 0; tile < 8; ++tile) {
    settings[16 + 2 * tile] = 64;
    settings[48 + tile] = kTile;
  }
  _tile_loadconfig(settings);
}

// Adds to the four tiles of sums one part of the left factor times the first `count` parts of the right one.
MANVATAR_INLINE void add_products(
    const uint16_t* left, int64_t left_row, const uint16_t* right, int64_t right_row, int64_t right_part, int count) {
  _tile_loadd(4, left, left_row * 2);
  _tile_loadd(5, left + kTile * left_row, left_row * 2);
  for (int p = 0; p < count; ++p) {
    const uint16_t* at = right + p * right_part;
    _tile_loadd(6, at, right_row * 4);
    _tile_loadd(7, at + 2 * kTile, right_row * 4);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// c (m, n) = or += a (m, k) b (k, n); all are multiples of 32. Lengths of rows are of elements; one of b holds 2 for each.
template <bool add, int parts>
MANVATAR_INLINE void multiply(
    const Halves& a, int64_t a_row, const Halves& b, int64_t b_row, float* c, int64_t c_row, int64_t m, int64_t n,
    int64_t k) {
  const int64_t c_bytes = c_row * sizeof(float);
  for (int64_t i = 0; i < m; i += 2 * kTile) {
    for (int64_t j = 0; j < n; j += 2 * kTile) {
      float* at = c + i * c_row + j;
      if constexpr (add) {
        _tile_loadd(0, at, c_bytes);
        _tile_loadd(1, at + kTile, c_bytes);
        _tile_loadd(2, at + kTile * c_row, c_bytes);
        _tile_loadd(3, at + kTile * c_row + kTile, c_bytes);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
      for (int64_t p = 0; p < k; p += 2 * kTile) {
#pragma GCC unroll 3
        for (int part = 0; part < parts; ++part)
          add_products(a.part(part) + i * a_row + p, a_row, b.part(0) + p * b_row + 2 * j, b_row, b.size, parts - part);
      }
      _tile_stored(0, at, c_bytes);
      _tile_stored(1, at + kTile, c_bytes);
      _tile_stored(2, at + kTile * c_row, c_bytes);
      _tile_stored(3, at + kTile * c_row + kTile, c_bytes);
    }
  }
}

MANVATAR_INLINE __m512 low_halves(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
MANVATAR_INLINE __m512 high_halves(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
}

// Two vectors as pairs of their elements, rounded; what is left of them takes their place.
template <bool more>
MANVATAR_INLINE __m512i take_pairs(__m512& first, __m512& second, __m512i interleaved) {
  const __m512i pairs = _mm512_permutexvar_epi16(interleaved, (__m512i)_mm512_cvtne2ps_pbh(second, first));
  if constexpr (more) {
    first = _mm512_sub_ps(first, low_halves(pairs));
    second = _mm512_sub_ps(second, high_halves(pairs));
  }
  return pairs;
}

// Two vectors one after the other, rounded; what is left of them takes their place.
template <bool more>
MANVATAR_INLINE __m512i take_row(__m512& first, __m512& second) {
  const __m512i row = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  if constexpr (more) {
    first = _mm512_sub_ps(first, low_halves(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(row))));
    second = _mm512_sub_ps(second, low_halves(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(row, 1))));
  }
  return row;
}

// Elements 0, 16, 1, 17, ...
MANVATAR_INLINE __m512i interleaving() {
  alignas(64) uint16_t order[32];
  for (uint16_t i = 0; i < 32; ++i) order[i] = i / 2 + (i % 2) * 16;
  return _mm512_load_si512(order);
}

// Rows of kBlockRow in pairs: (rows / 2, kBlockRow, 2), and not in pairs.
template <int parts, bool in_rows>
MANVATAR_INLINE void cut(const float* x, int64_t rows, int64_t columns, Halves& pairs, Halves& plain) {
  const __m512i interleaved = interleaving();
  for (int64_t k = 0; k < rows; k += 2) {
    for (int64_t s = 0; s < columns; s += 32) {
      const float *upper = x + k * kBlockRow + s, *lower = upper + kBlockRow;
      __m512 a = _mm512_loadu_ps(upper), b = _mm512_loadu_ps(upper + 16);
      __m512 c = _mm512_loadu_ps(lower), d = _mm512_loadu_ps(lower + 16);
      if constexpr (in_rows) {
        __m512 a2 = a, b2 = b, c2 = c, d2 = d;
#pragma GCC unroll 3
        for (int p = 0; p < parts; ++p) {
          _mm512_storeu_si512(plain.part(p) + k * kBlockRow + s, take_row<(parts > 1)>(a2, b2));
          _mm512_storeu_si512(plain.part(p) + (k + 1) * kBlockRow + s, take_row<(parts > 1)>(c2, d2));
        }
      }
#pragma GCC unroll 3
      for (int p = 0; p < parts; ++p) {
        uint16_t* to = pairs.part(p) + k * kBlockRow + 2 * s;
        _mm512_storeu_si512(to, take_pairs<(parts > 1)>(a, c, interleaved));
        _mm512_storeu_si512(to + 32, take_pairs<(parts > 1)>(b, d, interleaved));
      }
    }
  }
}

float value_of(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

uint16_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);  // not a number
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace

bool amx_is_there() {
  static const bool there = ask_for_amx();
  return there;
}

template <int parts>
Amx<parts>::Amx(const Network<float>& net)
    : weight(parts, net.hidden * net.width), transposed(parts, net.width * net.hidden) {
  for (int64_t h = 0; h < net.hidden; ++h) {
    for (int64_t k = 0; k < net.in; ++k) {
      float left = net.hidden_weight[h * net.in + k];
      for (int p = 0; p < parts; ++p) {
        const uint16_t half = rounded(left);
        weight.part(p)[h * net.width + k] = transposed.part(p)[k * net.hidden + h] = half;
        left -= value_of(half);
      }
    }
  }
}

template <int parts>
template <bool backward>
void Amx<parts>::hidden(const Network<float>& net, int64_t columns, Block<float, Amx>& block) const {
  Scratch& scratch = block.scratch;
  cut<parts, backward>(block.x.data(), net.width, columns, scratch.pairs, scratch.rows);
  multiply<false, parts>(
      weight, net.width, scratch.pairs, kBlockRow, block.a.data(), kBlockRow, net.hidden, columns, net.width);
}

template <int parts>
void Amx<parts>::backward(
    const Network<float>& net, int64_t columns, Block<float, Amx>& block, float* to_weight) const {
  Scratch& scratch = block.scratch;
  for (int p = 0; p < parts; ++p)  // of the rows of x that `hidden` left, pairs of samples by input
    transpose(
        reinterpret_cast<const float*>(scratch.rows.part(p)), kBlockRow / 2, net.width, columns / 2,
        reinterpret_cast<float*>(scratch.by_sample.part(p)), net.width);
  cut<parts, true>(block.a.data(), net.hidden, columns, scratch.pairs, scratch.rows);
  multiply<true, parts>(
      scratch.rows, kBlockRow, scratch.by_sample, net.width, to_weight, net.width, net.hidden, net.width, columns);
  multiply<false, parts>(
      transposed, net.hidden, scratch.pairs, kBlockRow, block.to_x.data(), kBlockRow, net.width, columns, net.hidden);
}

template <int parts>
void run_forward(
    const Network<float>& net, const Amx<parts>& matrices, int64_t begin, int64_t end, float* out) {
  configure();
  forward(net, matrices, begin, end, out);
  _tile_release();
}

template <int parts>
void run_backward(
    const Network<float>& net, const Amx<parts>& matrices, int64_t begin, int64_t end, const float* grad,
    float* grad_inputs, Sums<float>& sums) {
  configure();
  backward(net, matrices, begin, end, grad, grad_inputs, sums);
  _tile_release();
}

}  // namespace manvatar

#else

namespace manvatar {

bool amx_is_there() { return false; }

template <int parts>
Amx<parts>::Amx(const Network<float>&) : weight(0, 0), transposed(0, 0) {}

template <int parts>
void run_forward(const Network<float>&, const Amx<parts>&, int64_t, int64_t, float*) {}

template <int parts>
void run_backward(const Network<float>&, const Amx<parts>&, int64_t, int64_t, const float*, float*, Sums<float>&) {}

}  // namespace manvatar

#endif

namespace manvatar {

#define MANVATAR_PARTS(parts)                                                                                     \
  template struct Amx<parts>;                                                                                     \
  template void run_forward(const Network<float>&, const Amx<parts>&, int64_t, int64_t, float*);                  \
  template void run_backward(                                                                                     \
      const Network<float>&, const Amx<parts>&, int64_t, int64_t, const float*, float*, Sums<float>&);

MANVATAR_PARTS(1)
MANVATAR_PARTS(2)
MANVATAR_PARTS(3)

}  // namespace manvatar
