// What attention on codes keeps of a row with AVX-512, and how its query becomes codes: wide_codes.h.
#pragma once
#include "attention_tile.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int64_t kGranule = 64, kGranules = kSegment / kGranule;
constexpr float kQueryMax = 127;

// A row's queries, and its weights for one segment, as the products read them.
struct RowCodes {
  uint8_t* query;         // [rows][kMostHeadDim] of int8: a distance known here keeps a tile's rows at one pointer
  float* query_scale;     // [rows]
  int32_t* query_offset;  // [rows], -128 * sum of the codes: keys are stored 128 too high
  uint8_t* weights;       // [rows][kGranules][16 dwords]: the four tokens of quad 4 v + i of a granule are dword 4 i + v
  float* weight_scale;    // [rows][kGranules]
};
constexpr int64_t query_row_bytes(int64_t) { return kMostHeadDim; }
constexpr int64_t kWeightBytes = kSegment;
constexpr int64_t kWeightScales = kGranules;

// Each of N vectors side by side through the Walsh-Hadamard transform, in registers, without its scale.
template <int N>
FARTHING_INLINE void hadamard_wide(__m512 (&v)[N]) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const auto sign = [&](int bit) {
    return _mm512_mask_blend_ps(_mm512_test_epi32_mask(lane, _mm512_set1_epi32(bit)), splatw(1.0f), splatw(-1.0f));
  };
  const __m512 sign1 = sign(1), sign2 = sign(2), sign4 = sign(4), sign8 = sign(8);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    v[i] = fmadd(v[i], sign1, _mm512_permute_ps(v[i], 0xb1));
    v[i] = fmadd(v[i], sign2, _mm512_permute_ps(v[i], 0x4e));
    v[i] = fmadd(v[i], sign4, _mm512_shuffle_f32x4(v[i], v[i], 0xb1));
    v[i] = fmadd(v[i], sign8, _mm512_shuffle_f32x4(v[i], v[i], 0x4e));
  }
#pragma GCC unroll 4
  for (int h = 1; h < N; h *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i)
      if (!(i & h)) {
        const __m512 a = v[i], b = v[i + h];
        v[i] = a + b;
        v[i + h] = a - b;
      }
}

// A rotated query as codes that stand for `factor` times it. If a column is not finite, the scale is not.
template <int N>
FARTHING_INLINE void put_query(const __m512 (&v)[N], float factor, int64_t row, const RowCodes& out) {
  __m512i largest = _mm512_setzero_si512();  // the bits of magnitudes, NaN's being the largest
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(v[i])));
  const float max = recast<float>(_mm512_reduce_max_epi32(largest));
  const __m512 inverse = splatw(max > 1e-30f ? kQueryMax / max : 0.0f);
  __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    const __m512i code = _mm512_cvtps_epi32(v[i] * inverse);
    sum = _mm512_add_epi32(sum, code);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.query + row * kMostHeadDim + 16 * i), _mm512_cvtepi32_epi8(code));
  }
  out.query_scale[row] = max * (factor / kQueryMax);
  out.query_offset[row] = -128 * _mm512_reduce_add_epi32(sum);
}

// The codes of factor * q, rotated.
inline void quantize_query(const float* q, float factor, int64_t head_dim, int64_t row, const RowCodes& out) {
  const auto whole = [&](auto n) {  // a power of two of vectors
    __m512 v[n];
    for (int i = 0; i < n; ++i) v[i] = loadw(q + i * kWide);
    hadamard_wide(v);
    put_query(v, factor / __builtin_sqrtf(static_cast<float>(head_dim)), row, out);
  };
  switch (head_dim) {
    case 64: return whole(std::integral_constant<int, 4>());
    case 128: return whole(std::integral_constant<int, 8>());
    case 256: return whole(std::integral_constant<int, 16>());
    default: break;
  }
  alignas(64) float rotated[kMostHeadDim] = {};
  hadamard(q, head_dim, rotated);
  __m512 v[kMostHeadDim / kWide];
  for (int64_t i = 0; i < kMostHeadDim / kWide; ++i) v[i] = loadw(rotated + i * kWide);
  put_query(v, factor, row, out);
}

}  // namespace FARTHING_ISA
}  // namespace farthing
