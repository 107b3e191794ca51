// How packed weights are read: what a block of each kind looks like, its codes in vectors, its values as float32.
#pragma once
#include "pack.h"
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int64_t kPanel = kWide;  // rows of a panel: one vector of float32

// 32 integers from -127 to 127 as bytes, in order.
#if defined(FARTHING_HAS_AVX2)
FARTHING_INLINE void pack32(const i32x8* q, int8_t* out) {
  const __m256i a = _mm256_packs_epi32(reinterpret_cast<__m256i>(q[0]), reinterpret_cast<__m256i>(q[1]));
  const __m256i b = _mm256_packs_epi32(reinterpret_cast<__m256i>(q[2]), reinterpret_cast<__m256i>(q[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i v = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), v);
}
#else
FARTHING_INLINE void pack32(const i32x8* q, int8_t* out) {
  for (int i = 0; i < 32; ++i) out[i] = static_cast<int8_t>(q[i / 8][i % 8]);
}
#endif

#if !defined(FARTHING_ISA_avx512)  // it has products of its own: wide_tiles.h
#if defined(FARTHING_HAS_AVX2)

typedef __m256i Codes32;  // 32 unsigned codes: 8 rows x 4 columns
typedef __m256i Sums16;   // int16 sums of pairs of products

FARTHING_INLINE Codes32 load_codes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
FARTHING_INLINE Codes32 low_half(Codes32 v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
FARTHING_INLINE Codes32 high_half(Codes32 v) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15)); }
// Pairs of products of 8 times 4 codes: the same 4 activations for 8 rows, or the same 4 weights for 8 tokens.
FARTHING_INLINE Sums16 dot4(Codes32 w, const int8_t* x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm256_maddubs_epi16(w, _mm256_set1_epi32(four));
}
FARTHING_INLINE Codes32 splat4(const uint8_t* four) {
  int32_t v;
  memcpy(&v, four, 4);
  return _mm256_set1_epi32(v);
}
FARTHING_INLINE Sums16 dot32(Codes32 w, const int8_t* x) {
  return _mm256_maddubs_epi16(w, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
FARTHING_INLINE void store_codes(uint8_t* p, Codes32 v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
// The empty asm keeps each sum in its register: gcc would otherwise reassociate the unrolled sums and spill products.
FARTHING_INLINE void add16(Sums16& sum, Sums16 v) {
  sum = _mm256_add_epi16(sum, v);
  asm volatile("" : "+x"(sum));
}
template <int kWeight>
FARTHING_INLINE i32x8 widen(Sums16 s) {
  return reinterpret_cast<i32x8>(_mm256_madd_epi16(s, _mm256_set1_epi16(kWeight)));
}

#else

typedef uint8_t Codes32 __attribute__((vector_size(32)));
typedef int16_t Sums16 __attribute__((vector_size(64)));

FARTHING_INLINE Codes32 load_codes(const uint8_t* p) {
  Codes32 v;
  memcpy(&v, p, 32);
  return v;
}
FARTHING_INLINE Codes32 low_half(Codes32 v) { return v & 15; }
FARTHING_INLINE Codes32 high_half(Codes32 v) { return v >> 4; }
FARTHING_INLINE Sums16 dot4(Codes32 w, const int8_t* x) {
  const int16_t a = x[0], b = x[1], c = x[2], d = x[3];
  const Sums16 four = {a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d};
  return __builtin_convertvector(w, Sums16) * four;
}
FARTHING_INLINE Codes32 splat4(const uint8_t* four) {
  const uint8_t a = four[0], b = four[1], c = four[2], d = four[3];
  return Codes32{a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d};
}
FARTHING_INLINE Sums16 dot32(Codes32 w, const int8_t* x) {
  typedef int8_t i8x32 __attribute__((vector_size(32)));
  i8x32 v;
  memcpy(&v, x, 32);
  return __builtin_convertvector(w, Sums16) * __builtin_convertvector(v, Sums16);
}
FARTHING_INLINE void store_codes(uint8_t* p, Codes32 v) { memcpy(p, &v, 32); }
FARTHING_INLINE void add16(Sums16& sum, Sums16 v) { sum += v; }
template <int kWeight>
FARTHING_INLINE i32x8 widen(Sums16 s) {
  i32x8 out;
  for (int r = 0; r < 8; ++r) out[r] = (s[4 * r] + s[4 * r + 1] + s[4 * r + 2] + s[4 * r + 3]) * kWeight;
  return out;
}

#endif
#endif

FARTHING_INLINE f32xw loadw_bf16(const uint16_t* p) {
  typedef uint16_t u16xw __attribute__((vector_size(2 * kWide)));
  u16xw half;
  memcpy(&half, p, sizeof half);
  const i32xw bits = __builtin_convertvector(half, i32xw) << 16;
  f32xw v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// What a packed block looks like, for each kind with codes. kRowHeader: bytes of one row's scale and minimum.
template <Packed K>
struct Block;
template <>
struct Block<Packed::q4_0> {
  static constexpr int kBits = 4, kCols = 32, kRowHeader = 2, kZero = 8;
  static constexpr bool kHasMinimum = false, kIsF16 = true;
};
template <>
struct Block<Packed::q4_1> {
  static constexpr int kBits = 4, kCols = 32, kRowHeader = 4, kZero = 0;
  static constexpr bool kHasMinimum = true, kIsF16 = true;
};
template <>
struct Block<Packed::q4_k> {
  static constexpr int kBits = 4, kCols = 32, kRowHeader = 8, kZero = 0;
  static constexpr bool kHasMinimum = true, kIsF16 = false;
};
template <>
struct Block<Packed::q8_0> {
  static constexpr int kBits = 8, kCols = 32, kRowHeader = 2, kZero = 128;
  static constexpr bool kHasMinimum = false, kIsF16 = true;
};
template <>
struct Block<Packed::q8_16> {
  static constexpr int kBits = 8, kCols = 16, kRowHeader = 8, kZero = 128;
  static constexpr bool kHasMinimum = true, kIsF16 = false;
};
template <Packed K>
constexpr int kHeader = Block<K>::kRowHeader * kPanel;
template <Packed K>
constexpr int kBlockBytes = kHeader<K> + Block<K>::kCols * Block<K>::kBits / 8 * kPanel;

template <Packed K>
FARTHING_INLINE f32xw block_scale(const uint8_t* p) {
  if constexpr (Block<K>::kIsF16)
    return loadw_f16(reinterpret_cast<const uint16_t*>(p));
  else
    return loadw(reinterpret_cast<const float*>(p));
}
template <Packed K>
FARTHING_INLINE f32xw block_minimum(const uint8_t* p) {
  if constexpr (!Block<K>::kHasMinimum)
    return f32xw{};
  else if constexpr (Block<K>::kIsF16)
    return loadw_f16(reinterpret_cast<const uint16_t*>(p) + kPanel);
  else
    return loadw(reinterpret_cast<const float*>(p) + kPanel);
}

// Unpacks columns [first, first + n) of a panel to out [n][kPanel]; both multiples of the block.
template <Packed K>
void unpack(const uint8_t* panel, int64_t first, int64_t n, float* out) {
  if constexpr (K == Packed::f32) {
    memcpy(out, panel + first * 4 * kPanel, static_cast<size_t>(n * 4 * kPanel));
  } else if constexpr (K == Packed::f16 || K == Packed::bf16) {
    const uint16_t* p = reinterpret_cast<const uint16_t*>(panel) + first * kPanel;
    for (int64_t c = 0; c < n; ++c, p += kPanel) storew(out + kPanel * c, K == Packed::f16 ? loadw_f16(p) : loadw_bf16(p));
  } else {
    typedef Block<K> B;
    const uint8_t* p = panel + first / B::kCols * kBlockBytes<K>;
    for (int64_t b = 0; b < n / B::kCols; ++b, p += kBlockBytes<K>, out += kPanel * B::kCols) {
      const f32xw scale = block_scale<K>(p), minimum = block_minimum<K>(p);
      const uint8_t* w = p + kHeader<K>;
      auto put = [&](int column, i32xw code) {
        storew(out + kPanel * column, fmadd(__builtin_convertvector(code - B::kZero, f32xw), scale, minimum));
      };
      for (int s = 0; s < B::kCols / 4 * B::kBits / 8; ++s) {
        i32xw v;
        memcpy(&v, w + 4 * kPanel * s, sizeof v);
        for (int c = 0; c < 4; ++c) {
          const i32xw byte = (v >> (8 * c)) & 255;
          if constexpr (B::kBits == 4) {
            put(4 * s + c, byte & 15);
            put(4 * (s + 4) + c, byte >> 4);
          } else {
            put(4 * s + c, byte);
          }
        }
      }
    }
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
