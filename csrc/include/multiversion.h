// MANVATAR_MULTIVERSION before a function compiles it for several instruction sets; the loader takes the best that runs.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define MANVATAR_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MANVATAR_MULTIVERSION
#endif

// Inside a multiversioned function everything must be inlined to be compiled for the same instructions.
#define MANVATAR_INLINE inline __attribute__((always_inline))

// Calls f<N>() with N = channels where that is 1..8, so that loops over channels are unrolled; f<0>() for any other number.
#define MANVATAR_BY_CHANNELS(channels, f, ...) \
  switch (channels) {                          \
    case 1: return f<1>(__VA_ARGS__);          \
    case 2: return f<2>(__VA_ARGS__);          \
    case 3: return f<3>(__VA_ARGS__);          \
    case 4: return f<4>(__VA_ARGS__);          \
    case 5: return f<5>(__VA_ARGS__);          \
    case 6: return f<6>(__VA_ARGS__);          \
    case 7: return f<7>(__VA_ARGS__);          \
    case 8: return f<8>(__VA_ARGS__);          \
    default: return f<0>(__VA_ARGS__);         \
  }
