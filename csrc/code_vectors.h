// Vectors of unsigned codes, four columns of each row of a panel, and their integer products. AVX-512 sums products in 32
// bits (VNNI); elsewhere pairs of them are summed in 16 bits and widened in time.
#pragma once
#include "pack.h"
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int64_t kPanel = kWide;  // rows of a panel: one vector of float32

#if defined(FARTHING_ISA_avx512)

typedef __m512i Codes;  // 16 rows x 4 columns

FARTHING_INLINE Codes load_codes(const uint8_t* p) { return _mm512_loadu_si512(p); }
FARTHING_INLINE void store_codes(uint8_t* p, Codes v) { _mm512_storeu_si512(p, v); }
// Bits [kShift, ...) of each byte (below 0: moved up) that the mask leaves.
template <int kShift>
FARTHING_INLINE Codes shifted(Codes v) {
  if constexpr (kShift > 0) return _mm512_srli_epi16(v, kShift);
  if constexpr (kShift < 0) return _mm512_slli_epi16(v, -kShift);
  return v;
}
template <int kShift, int kMask>
FARTHING_INLINE Codes bits_of(Codes v) {
  return _mm512_and_si512(shifted<kShift>(v), _mm512_set1_epi8(kMask));
}
template <int kShift, int kMask>
FARTHING_INLINE Codes with_bits(Codes codes, Codes v) {
  return _mm512_ternarylogic_epi32(codes, shifted<kShift>(v), _mm512_set1_epi8(kMask), 0xf8);  // a | (b & c)
}
FARTHING_INLINE Codes look_up(const uint8_t* table, Codes v) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), v);
}
FARTHING_INLINE Codes splat_four(const void* four) {
  int32_t v;
  memcpy(&v, four, 4);
  return _mm512_set1_epi32(v);
}

#else

#if defined(FARTHING_HAS_AVX2)

typedef __m256i Codes;   // 8 rows x 4 columns
typedef __m256i Sums16;  // int16 sums of pairs of products

FARTHING_INLINE Codes load_codes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
FARTHING_INLINE void store_codes(uint8_t* p, Codes v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
template <int kShift>
FARTHING_INLINE Codes shifted(Codes v) {
  if constexpr (kShift > 0) return _mm256_srli_epi16(v, kShift);
  if constexpr (kShift < 0) return _mm256_slli_epi16(v, -kShift);
  return v;
}
template <int kShift, int kMask>
FARTHING_INLINE Codes bits_of(Codes v) {
  return _mm256_and_si256(shifted<kShift>(v), _mm256_set1_epi8(kMask));
}
template <int kShift, int kMask>
FARTHING_INLINE Codes with_bits(Codes codes, Codes v) {
  return _mm256_or_si256(codes, bits_of<kShift, kMask>(v));
}
FARTHING_INLINE Codes look_up(const uint8_t* table, Codes v) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), v);
}
FARTHING_INLINE Codes splat_four(const void* four) {
  int32_t v;
  memcpy(&v, four, 4);
  return _mm256_set1_epi32(v);
}
// Pairs of products of 8 times 4 codes: the same 4 activations for 8 rows, or the same 4 weights for 8 tokens.
FARTHING_INLINE Sums16 dot_pairs(Codes w, Codes x) { return _mm256_maddubs_epi16(w, x); }
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

typedef uint8_t Codes __attribute__((vector_size(32)));
typedef int8_t SignedCodes __attribute__((vector_size(32)));
typedef int16_t Sums16 __attribute__((vector_size(64)));

FARTHING_INLINE Codes load_codes(const uint8_t* p) {
  Codes v;
  memcpy(&v, p, 32);
  return v;
}
FARTHING_INLINE void store_codes(uint8_t* p, Codes v) { memcpy(p, &v, 32); }
template <int kShift>
FARTHING_INLINE Codes shifted(Codes v) {
  if constexpr (kShift > 0) return v >> kShift;
  if constexpr (kShift < 0) return v << -kShift;
  return v;
}
template <int kShift, int kMask>
FARTHING_INLINE Codes bits_of(Codes v) {
  return shifted<kShift>(v) & kMask;
}
template <int kShift, int kMask>
FARTHING_INLINE Codes with_bits(Codes codes, Codes v) {
  return codes | bits_of<kShift, kMask>(v);
}
FARTHING_INLINE Codes look_up(const uint8_t* table, Codes v) {
  Codes out;
  for (int i = 0; i < 32; ++i) out[i] = table[v[i]];
  return out;
}
FARTHING_INLINE Codes splat_four(const void* four) {
  int32_t v;
  memcpy(&v, four, 4);
  return recast<Codes>(v - i32x8{});
}
FARTHING_INLINE Sums16 dot_pairs(Codes w, Codes x) {
  return __builtin_convertvector(w, Sums16) * __builtin_convertvector(recast<SignedCodes>(x), Sums16);
}
FARTHING_INLINE void add16(Sums16& sum, Sums16 v) { sum += v; }
template <int kWeight>
FARTHING_INLINE i32x8 widen(Sums16 s) {
  i32x8 out;
  for (int r = 0; r < 8; ++r) out[r] = (s[4 * r] + s[4 * r + 1] + s[4 * r + 2] + s[4 * r + 3]) * kWeight;
  return out;
}

#endif

// How far sums of 16 bits reach with codes up to kMost: halves of codes that are multiplied apart (each up to 15), and
// steps of four columns that may be summed before they are widened.
constexpr int planes_of(int most_code) { return most_code > 63 ? 2 : 1; }
constexpr int steps_in_16_bits(int most_code) { return most_code > 63 || most_code <= 15 ? 8 : most_code <= 31 ? 4 : 2; }

#endif

}  // namespace FARTHING_ISA
}  // namespace farthing
