// Activations in 8 bits: rows of float32 as the blocks of codes that integer products read. A row's codes do not depend on
// the rows beside it.
#pragma once
#include <algorithm>
#include <cstddef>

#include "packed_block.h"
#include "products.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int kMostGroup = kTile;  // rows of a group, at most

#if defined(FARTHING_ISA_avx512)

// 32 columns of 4 Q rows. Rows side by side because a row alone is mostly sums and maxima across its own lanes and stores of
// four bytes: 23 cycles for a row's block, 8 in a group of 12.
template <int Q>
struct CodesOfRows {
  __m512i quads[2][Q];  // [half][four rows]: quarter i holds four columns from 4 i on of each row
  __m512 scale;         // of each row, in the first 4 Q lanes
  __m512i sum[2];       // of the codes of each half, the same
};

// out[i]: quarter i of each of Q vectors, side by side.
template <int Q>
FARTHING_INLINE void transpose_quarters(const __m512i* in, __m512i* out) {
  static_assert(Q == 2 || Q == 3, "");
  const __m512i low = _mm512_shuffle_i32x4(in[0], in[1], 0x44), high = _mm512_shuffle_i32x4(in[0], in[1], 0xee);
  out[0] = _mm512_shuffle_i32x4(low, in[Q - 1], 0x08);
  out[1] = _mm512_shuffle_i32x4(low, in[Q - 1], 0x5d);
  out[2] = _mm512_shuffle_i32x4(high, in[Q - 1], 0xa8);
  out[3] = _mm512_shuffle_i32x4(high, in[Q - 1], 0xfd);
}

FARTHING_INLINE __m512i other_half(__m512i v) { return _mm512_shuffle_i32x4(v, v, 0x4e); }
FARTHING_INLINE __m512i other_quarter(__m512i v) { return _mm512_shuffle_i32x4(v, v, 0xb1); }
FARTHING_INLINE __m512i max_i(__m512i a, __m512i b) {
  return _mm512_castps_si512(_mm512_max_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
}

template <int Q>
FARTHING_INLINE __m512 largest_of_rows(const float* const* rows, int64_t column) {
  constexpr int kMagnitude = 0x0b;  // of vrangeps: the larger magnitude, without its sign
  __m512i quads[Q];
#pragma GCC unroll 3
  for (int q = 0; q < Q; ++q) {
    __m512 v[4], pairs[2];
    for (int i = 0; i < 4; ++i) {
      const float* const p = rows[4 * q + i] + column;
      v[i] = _mm512_range_ps(_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16), kMagnitude);
    }
    for (int i = 0; i < 2; ++i)
      pairs[i] = _mm512_max_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    quads[q] = _mm512_castps_si512(
        _mm512_max_ps(_mm512_shuffle_ps(pairs[0], pairs[1], 0x44), _mm512_shuffle_ps(pairs[0], pairs[1], 0xee)));
  }
  if constexpr (Q == 1) {
    const __m512i both = max_i(quads[0], other_half(quads[0]));
    return _mm512_castsi512_ps(max_i(both, other_quarter(both)));
  } else {
    __m512i quarters[4];
    transpose_quarters<Q>(quads, quarters);
    return _mm512_castsi512_ps(max_i(max_i(quarters[0], quarters[1]), max_i(quarters[2], quarters[3])));
  }
}

// Two rows as bytes; each quarter holds a dword of either half of the first row, then of the second. What is no number or
// beyond all (of a row that is infinite or next to nothing) becomes 0.
FARTHING_INLINE __m512i codes_of_pair(const float* const* rows, int64_t column, const float* inverse) {
  __m512i words[2];
  for (int i = 0; i < 2; ++i) {
    const __m512 by = _mm512_set1_ps(inverse[i]);
    const __m512i low = _mm512_cvtps_epi32(_mm512_loadu_ps(rows[i] + column) * by);
    const __m512i high = _mm512_cvtps_epi32(_mm512_loadu_ps(rows[i] + column + 16) * by);
    words[i] = _mm512_and_si512(_mm512_packs_epi32(low, high), _mm512_set1_epi16(255));
  }
  return _mm512_packus_epi16(words[0], words[1]);
}

template <int Q>
FARTHING_INLINE __m512i sum_of_quads(const __m512i* quads) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_setzero_si512();
  if constexpr (Q == 1) {
    sum = _mm512_dpbusd_epi32(sum, ones, quads[0]);
    sum = _mm512_add_epi32(sum, other_half(sum));
    return _mm512_add_epi32(sum, other_quarter(sum));
  } else {
    __m512i quarters[4];
    transpose_quarters<Q>(quads, quarters);
    for (int i = 0; i < 4; ++i) sum = _mm512_dpbusd_epi32(sum, ones, quarters[i]);
    return sum;
  }
}

template <int Q>
FARTHING_INLINE CodesOfRows<Q> quantize_rows(const float* const* rows, int64_t column) {
  CodesOfRows<Q> out;
  const __m512 max = largest_of_rows<Q>(rows, column), most = _mm512_set1_ps(127.0f);
  const __mmask16 is_any = _mm512_cmp_ps_mask(max, _mm512_setzero_ps(), _CMP_GT_OQ);
  alignas(64) float inverse[16];
  _mm512_store_ps(inverse, _mm512_maskz_div_ps(is_any, most, max));
  out.scale = max / most;
#pragma GCC unroll 3
  for (int q = 0; q < Q; ++q) {
    const __m512 first = _mm512_castsi512_ps(codes_of_pair(rows + 4 * q, column, inverse + 4 * q));
    const __m512 second = _mm512_castsi512_ps(codes_of_pair(rows + 4 * q + 2, column, inverse + 4 * q + 2));
    out.quads[0][q] = _mm512_castps_si512(_mm512_shuffle_ps(first, second, 0x88));
    out.quads[1][q] = _mm512_castps_si512(_mm512_shuffle_ps(first, second, 0xdd));
  }
  for (int half = 0; half < 2; ++half) out.sum[half] = sum_of_quads<Q>(out.quads[half]);
  return out;
}

// The first 4 Q lanes.
template <int Q>
FARTHING_INLINE void store_rows(void* to, __m512i v) {
  if constexpr (Q == 1)
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_castsi512_si128(v));
  else if constexpr (Q == 2)
    _mm256_storeu_si256(static_cast<__m256i*>(to), _mm512_castsi512_si256(v));
  else
    _mm512_mask_storeu_epi32(to, 0x0fff, v);
}

// Four steps of four columns, to where the group's lie.
template <int G, int Q>
FARTHING_INLINE void store_steps(int8_t (*to)[G][4], const __m512i* quads) {
  if constexpr (G == 4) {
    _mm512_storeu_si512(to, quads[0]);
  } else if constexpr (Q == 1) {
    unrolled<4>([&](auto i) FARTHING_INLINE_BODY {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to[i]), _mm512_extracti32x4_epi32(quads[0], decltype(i)::value));
    });
  } else {
    __m512i quarters[4];
    transpose_quarters<Q>(quads, quarters);
    for (int i = 0; i < 4; ++i) store_rows<Q>(to[i], quarters[i]);
  }
}

FARTHING_INLINE __m512i word_of(__m512i sum) { return _mm512_sub_epi32(_mm512_slli_epi32(sum, 19), _mm512_slli_epi32(sum, 3)); }

// Blocks [first, end) of 4 Q rows of a group.
template <int G, int Q>
inline void quantize_quads(const float* const* rows, int64_t first, int64_t end, ActivationBlock<G>* out) {
  for (int64_t b = first; b < end; ++b) {
    const CodesOfRows<Q> codes = quantize_rows<Q>(rows, b * kQuantBlock);
    ActivationBlock<G>& to = out[b];
    const __m512i sum = _mm512_add_epi32(codes.sum[0], codes.sum[1]);
    for (int half = 0; half < 2; ++half) store_steps<G, Q>(to.codes + 4 * half, codes.quads[half]);
    store_rows<Q>(to.scale, _mm512_castps_si512(codes.scale));
    store_rows<Q>(to.scaled_sum, _mm512_castps_si512(codes.scale * _mm512_cvtepi32_ps(sum)));
    store_rows<Q>(to.sum, sum);
    store_rows<Q>(to.first_sum, codes.sum[0]);
    store_rows<Q>(to.word, word_of(sum));
  }
}

// Blocks [first, end) of num_rows rows: the first tokens of the group whose blocks begin at `out`. Rows of the group up to
// the next multiple of four may be written too.
template <int G>
inline void quantize_group(const float* const* rows, int64_t num_rows, int64_t first, int64_t end, ActivationBlock<G>* out) {
  const float* quads[kMostGroup];
  for (int64_t i = 0; i < kMostGroup; ++i) quads[i] = rows[i < num_rows ? i : num_rows - 1];
  if constexpr (G == 12) {
    if (num_rows > 8) return quantize_quads<G, 3>(quads, first, end, out);
    if (num_rows > 4) return quantize_quads<G, 2>(quads, first, end, out);
  }
  quantize_quads<G, 1>(quads, first, end, out);
}

// One row: four of its blocks in the place of four rows; the dwords of a block are brought together from everywhere.
template <>
inline void quantize_group<1>(const float* const* rows, int64_t, int64_t first, int64_t end, ActivationBlock<1>* out) {
  constexpr int kDwords = 13;
  static_assert(offsetof(ActivationBlock<1>, word) == 4 * (kDwords - 1), "");
  const __m512i of_two = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
  for (int64_t b = first; b < end; b += 4) {
    const float* blocks[4];
    for (int64_t i = 0; i < 4; ++i) blocks[i] = rows[0] + std::min(b + i, end - 1) * kQuantBlock;
    const CodesOfRows<1> codes = quantize_rows<1>(blocks, 0);
    const __m512i sum = _mm512_add_epi32(codes.sum[0], codes.sum[1]);
    const __m512 scaled = codes.scale * _mm512_cvtepi32_ps(sum);
    __m512i numbers = _mm512_inserti32x4(_mm512_castps_si512(codes.scale), _mm_castps_si128(_mm512_castps512_ps128(scaled)), 1);
    numbers = _mm512_inserti32x4(numbers, _mm512_castsi512_si128(sum), 2);
    numbers = _mm512_inserti32x4(numbers, _mm512_castsi512_si128(codes.sum[0]), 3);
    __m512i whole[4];
    for (int i = 0; i < 4; i += 2) {
      const __m512i from = _mm512_add_epi32(of_two, _mm512_set1_epi32(i));
      const __m512i bytes = _mm512_permutex2var_epi32(codes.quads[0][0], from, codes.quads[1][0]);
      const __m512i others = _mm512_permutex2var_epi32(numbers, from, word_of(sum));
      whole[i] = _mm512_shuffle_i32x4(bytes, others, 0x44);
      whole[i + 1] = _mm512_shuffle_i32x4(bytes, others, 0xee);
    }
    for (int64_t i = 0; i < std::min<int64_t>(4, end - b); ++i)
      _mm512_mask_storeu_epi32(&out[b + i], (1 << kDwords) - 1, whole[i]);
  }
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

#if defined(FARTHING_HAS_AVX2)

// Eight vectors of eight, lane i of vector j to lane j of vector i.
FARTHING_INLINE void transpose8(const __m256i* in, __m256i* out) {
  __m256i pairs[8], fours[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_epi32(in[i], in[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_epi32(in[i], in[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] = _mm256_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
      fours[i + 2 * j + 1] = _mm256_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    out[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
    out[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
  }
}

// 32 columns of 8 rows: maxima, codes and sums come out of vectors across the rows. A row alone is mostly work across its own
// lanes and stores of four bytes: 2.9 % of a prompt, 1.0 % so.
FARTHING_INLINE void quantize_eight(const float* const* rows, int64_t column, ActivationBlock<8>& out) {
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256i v[8], of_lane[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    const float* const p = rows[r] + column;
    f32x8 max = _mm256_and_ps(load8(p), magnitude);
    for (int i = 1; i < 4; ++i) max = max8(max, _mm256_and_ps(load8(p + 8 * i), magnitude));
    v[r] = _mm256_castps_si256(max);
  }
  transpose8(v, of_lane);
  f32x8 max = _mm256_castsi256_ps(of_lane[0]);
  for (int i = 1; i < 8; ++i) max = max8(max, _mm256_castsi256_ps(of_lane[i]));
  alignas(32) float inverse[8];
  const f32x8 most = splat(127.0f), scale = max / most;
  store8(inverse, select8(less8(zero8(), max), most / max, zero8()));
#pragma GCC unroll 8
  for (int r = 0; r < 8; ++r) {
    const float* const p = rows[r] + column;
    const f32x8 by = splat(inverse[r]);
    __m256i q[4];
    for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(load8(p + 8 * i) * by);
    v[r] = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));  // steps 0 2 4 6 1 3 5 7
  }
  __m256i steps[8];
  transpose8(v, steps);
  const __m256i ones = _mm256_set1_epi8(1), pairs = _mm256_set1_epi16(1);
  __m256i sum[2];
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    sum[half] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (int s = 4 * half; s < 4 * half + 4; ++s) {
      const __m256i codes = steps[s / 2 + s % 2 * 4];
      store_codes(reinterpret_cast<uint8_t*>(out.codes[s]), codes);
      sum[half] = _mm256_add_epi16(sum[half], _mm256_maddubs_epi16(ones, codes));
    }
    sum[half] = _mm256_madd_epi16(sum[half], pairs);
  }
  const __m256i both = _mm256_add_epi32(sum[0], sum[1]);
  store8(out.scale, scale);
  store8(out.scaled_sum, scale * f32x8(_mm256_cvtepi32_ps(both)));
  store_codes(reinterpret_cast<uint8_t*>(out.sum), both);
  store_codes(reinterpret_cast<uint8_t*>(out.first_sum), sum[0]);
}

#endif

// Blocks [first, end) of num_rows rows: the first tokens of the group whose blocks begin at `out`.
template <int G>
inline void quantize_group(const float* const* rows, int64_t num_rows, int64_t first, int64_t end, ActivationBlock<G>* out) {
#if defined(FARTHING_HAS_AVX2)
  if constexpr (G == 8) {
    const float* eight[8];
    for (int64_t i = 0; i < 8; ++i) eight[i] = rows[i < num_rows ? i : num_rows - 1];
    for (int64_t b = first; b < end; ++b) quantize_eight(eight, b * kQuantBlock, out[b]);
    return;
  }
#endif
  for (int64_t at = 0; at < num_rows; ++at) {
    ActivationBlock<G>* to = out + first;
    for (int64_t b = first; b < end; ++b, ++to) {
      alignas(32) int8_t codes[kQuantBlock];
      int32_t sum[2];
      to->scale[at] = quantize_block(rows[at] + b * kQuantBlock, codes, sum);
      for (int j = 0; j < kQuantBlock / 4; ++j) memcpy(to->codes[j][at], codes + 4 * j, 4);
      to->first_sum[at] = sum[0];
      to->sum[at] = sum[0] + sum[1];
      to->scaled_sum[at] = to->scale[at] * static_cast<float>(sum[0] + sum[1]);
    }
  }
}

#endif

}  // namespace FARTHING_ISA
}  // namespace farthing
