// Whether numbers are zero.
#pragma once

#include "multiversion.h"

#include <cstdint>
#include <cstring>

namespace manvatar {

// Whether any element is not zero; either zero counts as zero, and not-a-number does not: it must not be hidden.
MANVATAR_INLINE bool any_bits(const float* values, int64_t count) {
  uint32_t bits = 0, word;
  for (int64_t c = 0; c < count; ++c) std::memcpy(&word, values + c, sizeof(word)), bits |= word;
  return bits << 1 != 0;
}
MANVATAR_INLINE bool any_bits(const double* values, int64_t count) {
  uint64_t bits = 0, word;
  for (int64_t c = 0; c < count; ++c) std::memcpy(&word, values + c, sizeof(word)), bits |= word;
  return bits << 1 != 0;
}

}  // namespace manvatar
