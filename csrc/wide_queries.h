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

// The codes of factor * q, rotated. If a column is not finite, the scale is not.
inline void quantize_query(const float* q, float factor, int64_t head_dim, int64_t row, const RowCodes& out) {
  alignas(64) float rotated[kMostHeadDim];
  hadamard(q, head_dim, rotated);
  const int64_t end = (head_dim + kWide - 1) / kWide * kWide;
  std::fill(rotated + head_dim, rotated + end, 0.0f);
  __m512i largest = _mm512_setzero_si512();  // the bits of magnitudes, NaN's being the largest
  for (int64_t d = 0; d < end; d += kWide)
    largest = _mm512_max_epi32(largest, _mm512_castps_si512(_mm512_abs_ps(loadw(rotated + d))));
  const float max = recast<float>(_mm512_reduce_max_epi32(largest));
  const __m512 inverse = splatw(max > 1e-30f ? kQueryMax / max : 0.0f);
  __m512i sum = _mm512_setzero_si512();
  for (int64_t d = 0; d < end; d += kWide) {
    const __m512i code = _mm512_cvtps_epi32(loadw(rotated + d) * inverse);
    sum = _mm512_add_epi32(sum, code);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.query + row * kMostHeadDim + d), _mm512_cvtepi32_epi8(code));
  }
  out.query_scale[row] = max * (factor / kQueryMax);
  out.query_offset[row] = -128 * _mm512_reduce_add_epi32(sum);
}

}  // namespace FARTHING_ISA
}  // namespace farthing
