// The limits that measured speeds are compared with, using the same instructions as the kernels.
#include "ops.h"
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

float probe_read(const uint8_t* data, int64_t num_bytes) {
  constexpr int64_t kVector = sizeof(i32xw);
  i32xw sum[4] = {};
  for (int64_t i = 0; i + 4 * kVector <= num_bytes; i += 4 * kVector)
    for (int j = 0; j < 4; ++j) {
      i32xw v;
      memcpy(&v, data + i + kVector * j, sizeof v);
      sum[j] += v;
    }
  return static_cast<float>(sum[0][0] + sum[1][1] + sum[2][2] + sum[3][3]);
}

float probe_f32(int64_t rounds) {
  f32xw sum[12] = {};
  const f32xw a = splatw(1.0f), b = splatw(1e-9f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) {
      sum[j] = fmadd(a, b, sum[j]);
#if defined(FARTHING_HAS_AVX2)
      asm volatile("" : "+v"(sum[j]));
#endif
    }
  }
  f32xw total = {};
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) total += sum[j];
  return total[0] + total[kWide - 1];
}

float probe_int8(int64_t rounds) {
#if defined(FARTHING_ISA_avx512)
  __m512i sum[8] = {};
  __m512i w = _mm512_set1_epi8(15), x = _mm512_set1_epi8(3);
  for (int64_t i = 0; i < rounds; ++i)
    for (int k = 0; k < 8; ++k) {
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        sum[j] = _mm512_dpbusd_epi32(sum[j], w, x);
        asm volatile("" : "+v"(sum[j]));
      }
    }
  __m512i total = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) total = _mm512_add_epi32(total, sum[j]);
  return static_cast<float>(_mm512_reduce_add_epi32(total));
#elif defined(FARTHING_HAS_AVX2)
  __m256i sum[8] = {}, total = _mm256_setzero_si256();
  __m256i w = _mm256_set1_epi8(15), x = _mm256_set1_epi8(3);
  for (int64_t i = 0; i < rounds; ++i) {
    for (int k = 0; k < 8; ++k) {
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        asm volatile("" : "+x"(w), "+x"(x));  // a new product each time, not one that is known
        sum[j] = _mm256_add_epi16(sum[j], _mm256_maddubs_epi16(w, x));
        asm volatile("" : "+x"(sum[j]));
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      total = _mm256_add_epi32(total, _mm256_madd_epi16(sum[j], _mm256_set1_epi16(1)));
      sum[j] = _mm256_setzero_si256();
    }
  }
  return static_cast<float>(_mm256_extract_epi32(total, 0));
#else
  typedef int16_t i16x16 __attribute__((vector_size(32)));
  i16x16 sum[8] = {}, w = i16x16{} + 15;
  int32_t total = 0;
  for (int64_t i = 0; i < rounds; ++i) {
    const i16x16 x = i16x16{} + static_cast<int16_t>(i & 3);
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < 8; ++j) sum[j] += w * x;
    for (int j = 0; j < 8; ++j) {
      total += sum[j][0];
      sum[j] = i16x16{};
    }
  }
  return static_cast<float>(total);
#endif
}

}  // namespace FARTHING_ISA
}  // namespace farthing
