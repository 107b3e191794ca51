// Activations in 8 bits, and the inner loop of float32 products.
//
// Each output is one sum in one fixed order: float32 products run through the columns one by one, integer products
// (row_tiles.h, token_tiles.h, wide_tiles.h) through blocks of 32. How many tokens stand in a tile never changes a bit of it.
#pragma once
#include "packed_block.h"

namespace farthing {
namespace FARTHING_ISA {

#if defined(FARTHING_ISA_avx512)

// 32 floats as codes; returns their scale.
FARTHING_INLINE float quantize_block(const float* p, int8_t* codes, int32_t* sum) {
  const __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
  const float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
  const __m512 inverse = _mm512_set1_ps(max > 0 ? 127.0f / max : 0.0f);
  const __m256i q = _mm256_set_m128i(_mm512_cvtepi32_epi8(_mm512_cvtps_epi32(b * inverse)),
                                     _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a * inverse)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), q);
  __m256i s = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);  // sums of fours
  s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
  s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
  sum[0] = _mm256_extract_epi32(s, 0);
  sum[1] = _mm256_extract_epi32(s, 4);
  return max / 127.0f;
}

#else

// 32 floats as codes, to nearest, ties to even, and the sum of each half; returns their scale.
FARTHING_INLINE float quantize_block(const float* p, int8_t* codes, int32_t* sum) {
  const f32x8 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, ties to even
  const i32x8 is_positive_mask = i32x8{} + 0x7fffffff;
  f32x8 v[4], largest = zero8();
  for (int i = 0; i < 4; ++i) {
    v[i] = load8(p + 8 * i);
    largest = max8(largest, reinterpret_cast<f32x8>(reinterpret_cast<i32x8>(v[i]) & is_positive_mask));
  }
  const float max = max_of8(largest);
  const float inverse = max > 0 ? 127.0f / max : 0.0f;
  i32x8 q[4];
  for (int i = 0; i < 4; ++i)
    q[i] = reinterpret_cast<i32x8>(v[i] * splat(inverse) + magic) - reinterpret_cast<i32x8>(magic);
  pack32(q, codes);
  for (int half = 0; half < 2; ++half) {
    const i32x8 both = q[2 * half] + q[2 * half + 1];
    sum[half] = ((both[0] + both[4]) + (both[2] + both[6])) + ((both[1] + both[5]) + (both[3] + both[7]));
  }
  return max / 127.0f;
}

#endif

// Blocks [first, end) of a row of activations in 8 bits: token `at` of the group whose blocks begin at `out`.
template <int G>
inline void quantize_row(const float* x, int64_t first, int64_t end, ActivationBlock<G>* out, int64_t at) {
  out += first;
  for (int64_t b = first; b < end; ++b, ++out) {
    alignas(32) int8_t codes[kQuantBlock];
    int32_t sum[2];
    out->scale[at] = quantize_block(x + b * kQuantBlock, codes, sum);
    for (int j = 0; j < kQuantBlock / 4; ++j) memcpy(out->codes[j][at], codes + 4 * j, 4);
    for (int half = 0; half < 2; ++half) out->sum16[half][at] = sum[half];
    out->sum[at] = sum[0] + sum[1];
    out->scaled_sum[at] = out->scale[at] * static_cast<float>(sum[0] + sum[1]);
  }
}

// With so few tokens the weights' memory is what is waited for. Measured: reading 4 KiB ahead takes one thread from 11 to
// 18-21 GB/s, as fast as it reads at all; two panels side by side, or 1 KiB, are slower.
constexpr int kPrefetchBytes = 4096;

// The same blocks from token `first` of the group on: whatever belongs to a token lies 4 bytes after the one before.
template <int G>
FARTHING_INLINE const ActivationBlock<G>* from_token(const ActivationBlock<G>* x, int64_t first) {
  return reinterpret_cast<const ActivationBlock<G>*>(reinterpret_cast<const uint8_t*>(x) + 4 * first);
}

// T tokens x P panels over n columns, continuing the sums in acc [T][P * kPanel].
template <int T, int P>
FARTHING_INLINE void f32_tile(const float* const* w, const float* x, int64_t stride, int64_t n, float* acc) {
  f32xw sum[T][P];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) sum[t][p] = loadw(acc + (t * P + p) * kPanel);
  for (int64_t c = 0; c < n; ++c) {
    f32xw v[P];
    for (int p = 0; p < P; ++p) v[p] = loadw(w[p] + kPanel * c);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const f32xw xt = splatw(x[t * stride + c]);
      for (int p = 0; p < P; ++p) sum[t][p] = fmadd(v[p], xt, sum[t][p]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) storew(acc + (t * P + p) * kPanel, sum[t][p]);
}

template <int P>
void f32_tiles(const float* const* w, const float* x, int64_t stride, int64_t n, int64_t num_tokens, float* acc) {
  int64_t t = 0;
  for (; t + 6 <= num_tokens; t += 6) f32_tile<6, P>(w, x + t * stride, stride, n, acc + t * P * kPanel);
  x += t * stride;
  acc += t * P * kPanel;
  switch (num_tokens - t) {
    case 5: f32_tile<5, P>(w, x, stride, n, acc); break;
    case 4: f32_tile<4, P>(w, x, stride, n, acc); break;
    case 3: f32_tile<3, P>(w, x, stride, n, acc); break;
    case 2: f32_tile<2, P>(w, x, stride, n, acc); break;
    case 1: f32_tile<1, P>(w, x, stride, n, acc); break;
    default: break;
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
