// The products of mlp on the matrix unit (AMX): 16 x 32 by 32 x 16 elements in 16 cycles, eight times what vectors do.
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

#define MANVATAR_AMX __attribute__((target("arch=x86-64-v4,amx-tile,amx-bf16,avx512bf16")))

namespace manvatar {

struct Amx::Scratch {
  alignas(64) uint16_t left[kBlock * kMaxInputs];        // x, rows of `width`; or to_hidden, rows of `hidden`
  alignas(64) uint16_t pairs[kBlock * kMaxInputs];       // x or to_hidden, in pairs of samples
  alignas(64) uint16_t transposed[kBlock * kMaxInputs];  // x, a row for each column
};

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
MANVATAR_AMX inline void configure() {
  alignas(64) uint8_t settings[64] = {};
  settings[0] = 1;  // palette
  for (int tile = 0; tile < 8; ++tile) {
    settings[16 + 2 * tile] = 64;
    settings[48 + tile] = kTile;
  }
  _tile_loadconfig(settings);
}

// c (m, n) = or += a (m, k) b (k, n); all are multiples of 32, strides are of elements.
template <bool add>
MANVATAR_AMX inline __attribute__((always_inline)) void multiply(
    const uint16_t* a, int64_t a_row, const uint16_t* b, int64_t b_columns, float* c, int64_t c_row, int64_t m, int64_t n,
    int64_t k) {
  for (int64_t j = 0; j < n; j += 2 * kTile) {
    for (int64_t i = 0; i < m; i += 2 * kTile) {
      float* at = c + i * c_row + j;
      const int64_t c_bytes = c_row * sizeof(float);
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
        const uint16_t *left = a + i * a_row + p, *right = b + p * b_columns + 2 * j;
        _tile_loadd(4, left, a_row * 2);
        _tile_loadd(6, right, b_columns * 4);
        _tile_loadd(7, right + 2 * kTile, b_columns * 4);
        _tile_loadd(5, left + kTile * a_row, a_row * 2);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, at, c_bytes);
      _tile_stored(1, at + kTile, c_bytes);
      _tile_stored(2, at + kTile * c_row, c_bytes);
      _tile_stored(3, at + kTile * c_row + kTile, c_bytes);
    }
  }
}

MANVATAR_AMX inline __m512i halves(const float* low, const float* high) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(high), _mm512_loadu_ps(low));
}

// Rows of `width` (a multiple of 32) to bfloat16; columns from `used` on become 0.
MANVATAR_AMX inline void round_rows(const float* x, int64_t rows, int64_t width, int64_t used, uint16_t* out) {
  for (int64_t s = 0; s < rows; ++s) {
    for (int64_t k = 0; k < width; k += 32) {
      const int64_t left = std::min<int64_t>(32, std::max<int64_t>(0, used - k));
      const __mmask32 kept = left == 32 ? 0xffffffffu : (1u << left) - 1;
      _mm512_storeu_si512(out + s * width + k, _mm512_maskz_mov_epi16(kept, halves(x + s * width + k, x + s * width + k + 16)));
    }
  }
}

// Rows of bfloat16 in pairs: (rows / 2, width, 2).
MANVATAR_AMX inline void pair_rows(const uint16_t* x, int64_t rows, int64_t width, uint16_t* out) {
  for (int64_t s = 0; s < rows; s += 2) {
    for (int64_t k = 0; k < width; k += 16) {
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(x + s * width + k)));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(x + (s + 1) * width + k)));
      _mm512_storeu_si512(out + s * width + 2 * k, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

// (rows, columns) of 32-bit elements to (columns, rows), both multiples of 16.
MANVATAR_AMX inline void transpose(const uint32_t* x, int64_t rows, int64_t columns, uint32_t* out) {
  const __m512i spread = _mm512_mullo_epi32(
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi32((int)columns));
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = 0; r < rows; r += 16)
      _mm512_storeu_si512(out + c * rows + r, _mm512_i32gather_epi32(spread, x + r * columns + c, 4));
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

Amx::Amx(const Network<float>& net) : by_input(net.width * net.hidden), by_hidden(net.hidden * net.width) {
  for (int64_t h = 0; h < net.hidden; ++h) {
    for (int64_t k = 0; k < net.in; ++k) {
      const uint16_t weight = rounded(net.hidden_weight[h * net.in + k]);
      by_input[k / 2 * 2 * net.hidden + 2 * h + k % 2] = weight;
      by_hidden[h / 2 * 2 * net.width + 2 * k + h % 2] = weight;
    }
  }
}

MANVATAR_AMX void Amx::hidden(
    const Network<float>& net, int64_t rows, const float* x, const float* bias, float* a, Scratch& scratch) const {
  round_rows(x, rows, net.width, net.in, scratch.left);
  multiply<false>(
      scratch.left, net.width, by_input.data(), net.hidden, a, net.hidden, rows, net.hidden, net.width);
  for (int64_t s = 0; s < rows; ++s) {
    for (int64_t h = 0; h < net.hidden; h += 16) {
      Vector<float>& at = lanes(a + s * net.hidden + h);
      const Vector<float> zero = {}, sum = at + lanes(bias + h);
      at = sum > zero ? sum : sum * float(kLeakySlope);
    }
  }
}

MANVATAR_AMX void Amx::backward(
    const Network<float>& net, int64_t rows, const float*, const float* to_hidden, float* to_weight, float* to_x,
    Scratch& scratch) const {
  // `left` still holds x from the hidden layer.
  pair_rows(scratch.left, rows, net.width, scratch.pairs);
  transpose(
      reinterpret_cast<const uint32_t*>(scratch.pairs), rows / 2, net.width,
      reinterpret_cast<uint32_t*>(scratch.transposed));
  round_rows(to_hidden, rows, net.hidden, net.hidden, scratch.left);
  pair_rows(scratch.left, rows, net.hidden, scratch.pairs);
  multiply<true>(
      scratch.transposed, rows, scratch.pairs, net.hidden, to_weight, net.hidden, net.width, net.hidden, rows);
  multiply<false>(scratch.left, net.hidden, by_hidden.data(), net.width, to_x, net.width, rows, net.width, net.hidden);
}

MANVATAR_AMX void run_forward(const Network<float>& net, const Amx& matrices, int64_t begin, int64_t end, float* out) {
  configure();
  forward(net, matrices, begin, end, out);
  _tile_release();
}

MANVATAR_AMX void run_backward(
    const Network<float>& net, const Amx& matrices, int64_t begin, int64_t end, const float* grad, float* grad_inputs,
    Sums<float>& sums) {
  configure();
  backward_by_outputs(net, matrices, begin, end, grad, grad_inputs, sums);
  _tile_release();
}

}  // namespace manvatar

#else

namespace manvatar {

struct Amx::Scratch {};

bool amx_is_there() { return false; }

Amx::Amx(const Network<float>&) : by_input(0), by_hidden(0) {}

void run_forward(const Network<float>&, const Amx&, int64_t, int64_t, float*) {}

void run_backward(const Network<float>&, const Amx&, int64_t, int64_t, const float*, float*, Sums<float>&) {}

}  // namespace manvatar

#endif
