// Vectors of 8 floats for every instruction set: GCC/Clang vector extensions, so that the portable path is compiled to
// whatever the CPU has (SSE, NEON), and intrinsics where AVX2 has a better instruction. Wide vectors (`…w`) have 16 floats
// with AVX-512 and are the same 8 elsewhere.
//
// a*b+c is an FMA only through fmadd(): files are compiled with -ffp-contract=off, so every template instance of a
// kernel rounds alike.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(FARTHING_ISA_avx2) || defined(FARTHING_ISA_avx512)
#define FARTHING_HAS_AVX2 1
#include <immintrin.h>
#endif

#ifndef FARTHING_ISA
#error "compiled once per instruction set: define FARTHING_ISA"
#endif

namespace farthing {
namespace FARTHING_ISA {

// On the portable path 8 floats are two registers or more: sums of large tiles would not stay in them, and compilers take
// several times as long over such tiles.
#if defined(FARTHING_HAS_AVX2)
constexpr bool kIsPortable = false;
#else
constexpr bool kIsPortable = true;
#endif

typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));

#define FARTHING_INLINE inline __attribute__((always_inline))
#define FARTHING_INLINE_BODY __attribute__((always_inline))  // of a lambda

template <class To, class From>
FARTHING_INLINE To recast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// body(0), ..., body(n - 1), each with its number as a constant.
template <int n, class F, int... i>
FARTHING_INLINE void unrolled(F&& body, std::integer_sequence<int, i...>) {
  (body(std::integral_constant<int, i>()), ...);
}
template <int n, class F>
FARTHING_INLINE void unrolled(F&& body) {
  unrolled<n>(body, std::make_integer_sequence<int, n>());
}

FARTHING_INLINE f32x8 load8(const float* p) {
  f32x8 v;
  memcpy(&v, p, 32);
  return v;
}
FARTHING_INLINE void store8(float* p, f32x8 v) { memcpy(p, &v, 32); }
FARTHING_INLINE f32x8 splat(float x) { return f32x8{x, x, x, x, x, x, x, x}; }
FARTHING_INLINE f32x8 zero8() { return f32x8{}; }

FARTHING_INLINE f32x8 fmadd(f32x8 a, f32x8 b, f32x8 c) {
#if defined(FARTHING_HAS_AVX2)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

#if defined(FARTHING_ISA_avx512)
constexpr int kWide = 16;  // floats of a wide vector
#else
constexpr int kWide = 8;
#endif
typedef float f32xw __attribute__((vector_size(4 * kWide)));
typedef int32_t i32xw __attribute__((vector_size(4 * kWide)));

FARTHING_INLINE f32xw loadw(const float* p) {
  f32xw v;
  memcpy(&v, p, sizeof v);
  return v;
}
FARTHING_INLINE void storew(float* p, f32xw v) { memcpy(p, &v, sizeof v); }
FARTHING_INLINE f32xw splatw(float x) { return x - f32xw{}; }
#if defined(FARTHING_ISA_avx512)
FARTHING_INLINE f32xw fmadd(f32xw a, f32xw b, f32xw c) { return _mm512_fmadd_ps(a, b, c); }
FARTHING_INLINE f32xw loadw_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
#endif

#if defined(FARTHING_HAS_AVX2)
FARTHING_INLINE i32x8 less8(f32x8 a, f32x8 b) { return a < b; }
FARTHING_INLINE f32x8 select8(i32x8 mask, f32x8 a, f32x8 b) { return mask ? a : b; }
FARTHING_INLINE f32x8 max8(f32x8 a, f32x8 b) { return _mm256_max_ps(a, b); }
#else
// Where the CPU has vectors of four, GCC splits sums and products of eight by itself but takes comparisons and
// selections apart into scalars, so those are written in halves.
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
struct FloatHalves {
  f32x4 low, high;
};
struct IntHalves {
  i32x4 low, high;
};
FARTHING_INLINE i32x8 less8(f32x8 a, f32x8 b) {
  const FloatHalves x = recast<FloatHalves>(a), y = recast<FloatHalves>(b);
  return recast<i32x8>(IntHalves{x.low < y.low, x.high < y.high});
}
FARTHING_INLINE f32x8 select8(i32x8 mask, f32x8 a, f32x8 b) {
  const i32x8 x = recast<i32x8>(a), y = recast<i32x8>(b);
  return recast<f32x8>((mask & x) | (~mask & y));
}
FARTHING_INLINE f32x8 max8(f32x8 a, f32x8 b) {
  const FloatHalves x = recast<FloatHalves>(a), y = recast<FloatHalves>(b);
  return recast<f32x8>(FloatHalves{x.low > y.low ? x.low : y.low, x.high > y.high ? x.high : y.high});
}
#endif

FARTHING_INLINE float f16_to_f32(uint16_t h) {
#if defined(FARTHING_HAS_AVX2)
  return _cvtsh_ss(h);
#else
  // Shift exponent and mantissa into place and rescale by 2^112: exact, subnormals included.
  uint32_t bits = static_cast<uint32_t>(h & 0x7fff) << 13;
  float f;
  memcpy(&f, &bits, 4);
  if ((h & 0x7c00) == 0x7c00) {  // infinity, NaN
    bits = 0x7f800000u | (static_cast<uint32_t>(h & 0x3ff) << 13);
    memcpy(&f, &bits, 4);
  } else {
    f *= 5.192296858534828e33f;
  }
  return h & 0x8000 ? -f : f;
#endif
}

FARTHING_INLINE f32x8 load8_f16(const uint16_t* p) {
#if defined(FARTHING_HAS_AVX2)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  f32x8 v;
  for (int i = 0; i < 8; ++i) v[i] = f16_to_f32(p[i]);
  return v;
#endif
}

#if !defined(FARTHING_ISA_avx512)
FARTHING_INLINE f32xw loadw_f16(const uint16_t* p) { return load8_f16(p); }
#endif

// Round to nearest even, overflow to infinity, as the hardware's conversion does.
FARTHING_INLINE uint16_t f32_to_f16(float x) {
#if defined(FARTHING_HAS_AVX2)
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#else
  uint32_t u;
  memcpy(&u, &x, 4);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000);
  u &= 0x7fffffff;
  if (u > 0x7f800000) return sign | 0x7e00 | static_cast<uint16_t>((u >> 13) & 0x3ff);  // NaN
  if (u >= 0x477ff000) return sign | 0x7c00;                          // rounds to infinity
  if (u < 0x38800000) {  // subnormal in f16: let a float addition do the rounding
    float f;
    memcpy(&f, &u, 4);
    f += 0.5f;
    memcpy(&u, &f, 4);
    return sign | static_cast<uint16_t>(u - 0x3f000000);
  }
  u += 0xfff + ((u >> 13) & 1);
  return sign | static_cast<uint16_t>((u - 0x38000000) >> 13);
#endif
}

FARTHING_INLINE void store8_f16(uint16_t* p, f32x8 v) {
#if defined(FARTHING_HAS_AVX2)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < 8; ++i) p[i] = f32_to_f16(v[i]);
#endif
}

FARTHING_INLINE f32x8 load8_s8(const int8_t* p) {
#if defined(FARTHING_HAS_AVX2)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  typedef int8_t i8x8 __attribute__((vector_size(8)));
  i8x8 v;
  memcpy(&v, p, 8);
  return __builtin_convertvector(v, f32x8);
#endif
}

// To the nearest integer, ties to even; |v| <= 127.
FARTHING_INLINE void round8_s8(f32x8 v, int8_t* out) {
  typedef int8_t i8x8 __attribute__((vector_size(8)));
  const f32x8 magic = splat(12582912.0f);  // 1.5 * 2^23
  const f32x8 shifted = v + magic;
  i32x8 bits, zero;
  memcpy(&bits, &shifted, 32);
  memcpy(&zero, &magic, 32);
  const i8x8 codes = __builtin_convertvector(bits - zero, i8x8);
  memcpy(out, &codes, 8);
}

// A fixed order: ((0+4)+(2+6)) + ((1+5)+(3+7)).
FARTHING_INLINE float sum8(f32x8 v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
FARTHING_INLINE float max_of8(f32x8 v) {
  v = max8(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = max8(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  v = max8(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
  return v[0];
}

#if defined(FARTHING_ISA_avx512)
FARTHING_INLINE i32xw lessw(f32xw a, f32xw b) { return a < b; }
FARTHING_INLINE f32xw selectw(i32xw mask, f32xw a, f32xw b) { return mask ? a : b; }
FARTHING_INLINE f32xw maxw(f32xw a, f32xw b) { return _mm512_max_ps(a, b); }
FARTHING_INLINE f32x8 low_half(f32xw v) { return _mm512_castps512_ps256(v); }
FARTHING_INLINE f32x8 high_half(f32xw v) { return _mm512_extractf32x8_ps(v, 1); }
FARTHING_INLINE float sum_of_w(f32xw v) { return sum8(low_half(v) + high_half(v)); }
FARTHING_INLINE float max_of_w(f32xw v) { return max_of8(max8(low_half(v), high_half(v))); }
#else
FARTHING_INLINE i32xw lessw(f32xw a, f32xw b) { return less8(a, b); }
FARTHING_INLINE f32xw selectw(i32xw mask, f32xw a, f32xw b) { return select8(mask, a, b); }
FARTHING_INLINE f32xw maxw(f32xw a, f32xw b) { return max8(a, b); }
FARTHING_INLINE float sum_of_w(f32xw v) { return sum8(v); }
FARTHING_INLINE float max_of_w(f32xw v) { return max_of8(v); }
#endif

// The lanes of each 8-bit mask that are set, in order, and zeros after.
struct SetLanes {
  uint8_t of[256][8];
  constexpr SetLanes() : of() {
    for (int bits = 0; bits < 256; ++bits)
      for (int lane = 0, j = 0; lane < 8; ++lane)
        if (bits >> lane & 1) of[bits][j++] = static_cast<uint8_t>(lane);
  }
};
inline constexpr SetLanes kSetLanes;

// Writes the lanes whose mask is set to `to`, one after the other, and `first` plus their numbers to `number`; returns
// how many. All eight places of both may be written.
FARTHING_INLINE int64_t compress8(i32x8 mask, f32x8 v, int32_t first, float* to, int32_t* number) {
#if defined(FARTHING_HAS_AVX2)
  const int bits = _mm256_movemask_ps(reinterpret_cast<__m256>(mask));
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kSetLanes.of[bits])));
  _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(v, lanes));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(number), _mm256_add_epi32(lanes, _mm256_set1_epi32(first)));
#else
  int bits = 0;
  for (int lane = 0; lane < 8; ++lane) bits |= (mask[lane] & 1) << lane;
  for (int j = 0; j < 8; ++j) {
    to[j] = v[kSetLanes.of[bits][j]];
    number[j] = first + kSetLanes.of[bits][j];
  }
#endif
  return __builtin_popcount(static_cast<unsigned>(bits));
}

// e^x to about 1 ulp for x in [-87, 88.3]; 0 below -87, so that -infinity gives 0. Not for x > 88.3.
// Cody-Waite reduction and the degree-6 minimax polynomial of the Cephes library.
FARTHING_INLINE f32x8 exp8_bounded(f32x8 x) {
  const i32x8 is_low = less8(x, splat(-87.0f));
  x = max8(x, splat(-87.0f));
  const f32x8 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  const f32x8 shifted = fmadd(x, splat(1.44269504088896341f), magic);
  const f32x8 n = shifted - magic;
  x = fmadd(n, splat(-0.693359375f), x);
  x = fmadd(n, splat(2.12194440e-4f), x);
  f32x8 p = splat(1.9875691500e-4f);
  p = fmadd(p, x, splat(1.3981999507e-3f));
  p = fmadd(p, x, splat(8.3334519073e-3f));
  p = fmadd(p, x, splat(4.1665795894e-2f));
  p = fmadd(p, x, splat(1.6666665459e-1f));
  p = fmadd(p, x, splat(5.0000001201e-1f));
  p = fmadd(p, x * x, x) + splat(1.0f);
  i32x8 exponent;
  memcpy(&exponent, &shifted, 32);
  const i32x8 scale_bits = (exponent << 23) + (127 << 23);  // the magic's own low bits are shifted out
  f32x8 scale;
  memcpy(&scale, &scale_bits, 32);
  return select8(is_low, zero8(), p * scale);
}

// The same for every x; infinity above 88.3 (2^127.4).
FARTHING_INLINE f32x8 exp8(f32x8 x) {
  const f32x8 high = splat(88.3f);
  const i32x8 is_high = less8(high, x);
  return select8(is_high, splat(__builtin_inff()), exp8_bounded(select8(is_high, high, x)));
}

#if defined(FARTHING_ISA_avx512)
// The same, subnormal results included.
FARTHING_INLINE f32xw expw(f32xw x) {
  const f32xw n = _mm512_roundscale_ps(x * splatw(1.44269504088896341f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  f32xw r = fmadd(n, splatw(-0.693359375f), x);
  r = fmadd(n, splatw(2.12194440e-4f), r);
  f32xw p = splatw(1.9875691500e-4f);
  p = fmadd(p, r, splatw(1.3981999507e-3f));
  p = fmadd(p, r, splatw(8.3334519073e-3f));
  p = fmadd(p, r, splatw(4.1665795894e-2f));
  p = fmadd(p, r, splatw(1.6666665459e-1f));
  p = fmadd(p, r, splatw(5.0000001201e-1f));
  p = fmadd(p, r * r, r) + splatw(1.0f);
  return _mm512_scalef_ps(p, n);
}
#else
FARTHING_INLINE f32xw expw(f32xw x) { return exp8(x); }
#endif

}  // namespace FARTHING_ISA
}  // namespace farthing
