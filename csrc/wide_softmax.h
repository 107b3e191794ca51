// Softmax weights as codes with AVX-512, a scale for each granule of positions: wide_codes.h.
#pragma once
#include "wide_queries.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr float kWeightMax = 255, kLog2WeightMax = 7.994353436858858f;

// v_log = log2(v_scale) to 2e-6, v_inverse = 1 / v_scale. A scale of 0 is that of zeros, whose weight counts in the sum alone:
// any will do, so long as both are of the same.
inline void find_logs(Segment& segment) {
  for (int64_t i = 0; i < segment.num_keys; i += kWide) {
    const __m512 x = _mm512_max_ps(_mm512_set1_ps(0x1p-60f), loadw(segment.v_scale + i));  // NaN stays NaN
    const __m512 m = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
    const __mmask16 is_upper = _mm512_cmp_ps_mask(m, _mm512_set1_ps(1.5f), _CMP_GE_OQ);
    const __m512 t = _mm512_mask_mul_ps(m, is_upper, m, _mm512_set1_ps(0.5f)) - splatw(1.0f);  // [-1/4, 1/2)
    const __m512 exponent = _mm512_getexp_ps(x), e = _mm512_mask_add_ps(exponent, is_upper, exponent, _mm512_set1_ps(1.0f));
    storew(segment.v_log + i, fmadd(log2_slope(t), t, e));
    storew(segment.v_inverse + i, splatw(1.0f) / x);
  }
}

// The largest lane of each of 16 vectors, in their order.
FARTHING_INLINE __m512 largest_lanes(const float (*v)[kWide]) {
  __m512 a[8], b[4], c[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const __m512 x = loadw(v[2 * i]), y = loadw(v[2 * i + 1]);
    a[i] = _mm512_max_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
    b[i] = _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    c[i] = _mm512_max_ps(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x44), _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xee));
  return _mm512_max_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

// Lanes of positions [low, limit) of the vector that begins at i.
FARTHING_INLINE __mmask16 seen_lanes(int64_t i, int64_t low, int64_t limit) {
  const auto below = [&](int64_t n) { return n - i >= kWide ? 0xffffu : n <= i ? 0u : (1u << (n - i)) - 1; };
  return static_cast<__mmask16>(below(limit) & ~below(low));
}

constexpr int kGranuleVectors = kGranule / kWide;

template <class Mask>
FARTHING_INLINE __m512 largest_scores(const float* s, Mask&& mask) {
  __m512 max = splatw(kNoKeyMax);
#pragma GCC unroll 4
  for (int v = 0; v < kGranuleVectors; ++v) max = _mm512_mask_max_ps(max, mask(v), max, loadw(s + v * kWide));
  return max;
}

// A granule's weights 2^(s - base), at most kWeightMax, as codes; returns the lanes' sums of weight / scale of the token.
template <class Mask>
FARTHING_INLINE __m512 granule_weights(const float* s, float base, const float* inverse, uint8_t* codes, Mask&& mask) {
  __m512 sum = _mm512_setzero_ps();
  __m512i q[kGranuleVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kGranuleVectors; ++v) {
    const __m512 x = loadw(s + v * kWide) - splatw(base), f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
    f32xw p = splatw(0.07802452f);  // 2^f to 8e-5, a 25th of what codes round off; a minimax fit made for this file
    p = fmadd(p, f, splatw(0.22606716f));
    p = fmadd(p, f, splatw(0.69583354f));
    p = fmadd(p, f, splatw(0.99992522f));
    const __m512 w = _mm512_maskz_scalef_ps(mask(v), p, x);
    sum = _mm512_mask3_fmadd_ps(w, loadw(inverse + v * kWide), sum, mask(v));
    q[v] = _mm512_cvtps_epi32(w);
  }
  const __m512i low = _mm512_packus_epi32(q[0], q[1]), high = _mm512_packus_epi32(q[2], q[3]);
  _mm512_storeu_si512(codes, _mm512_packus_epi16(low, high));
  return sum;
}

// The sums of the lanes of 4 vectors, four times.
FARTHING_INLINE __m512 lane_sums(const __m512 (&v)[4]) {
  __m512 a[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    a[i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]) + _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
  const __m512d x = _mm512_castps_pd(a[0]), y = _mm512_castps_pd(a[1]);
  __m512 b = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y)) + _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
  b = b + _mm512_shuffle_f32x4(b, b, 0x4e);
  return b + _mm512_shuffle_f32x4(b, b, 0xb1);
}

constexpr int kSoftmaxRows = kWide / kGranules;  // whose granules fill a vector

// Calls f(granule, mask) for those that a row sees something of, mask(v) being the lanes of vector v that it sees.
template <bool kSeesAll, class F>
FARTHING_INLINE void for_granules(const Rows& rows, int64_t row, F&& f) {
  const auto all = [](int) { return static_cast<__mmask16>(0xffff); };
  if constexpr (kSeesAll) {
#pragma GCC unroll 4
    for (int64_t g = 0; g < kGranules; ++g) f(g, all);
  } else {
    const int64_t low = rows.low(row), limit = rows.limits[row];
    for (int64_t g = low / kGranule; g * kGranule < limit; ++g)
      if (low <= g * kGranule && limit >= (g + 1) * kGranule)
        f(g, all);
      else
        f(g, [&](int v) { return seen_lanes(g * kGranule + v * kWide, low, limit); });
  }
}

// What the weights of at most kSoftmaxRows rows are taken from: of their granules, one lane each.
struct Bases {
  alignas(64) float base[kWide], scale[kWide];  // weights are 2^(score - base), times scale they are those of the row
  __m512 of_row;                                // the largest score, four times
};

// kSeesAll: of so many rows that see the whole segment.
template <bool kSeesAll>
__attribute__((noinline)) void find_bases(const Rows& rows, int64_t first, int64_t num_rows, const float* s, Bases& out) {
  const float* const x = s + first * kSegment;
  alignas(64) float most[kWide][kWide];
  if constexpr (kSeesAll)
    num_rows = kSoftmaxRows;
  else
    std::fill_n(most[0], kWide * kWide, kNoKeyMax);
  for (int64_t r = 0; r < num_rows; ++r)
    for_granules<kSeesAll>(rows, first + r, [&](int64_t g, auto mask) {
      storew(most[r * kGranules + g], largest_scores(x + r * kSegment + g * kGranule, mask));
    });
  const __m512 of_granule = largest_lanes(most);
  __m512 of_row = _mm512_max_ps(of_granule, _mm512_permute_ps(of_granule, 0x4e));
  of_row = _mm512_max_ps(of_row, _mm512_permute_ps(of_row, 0xb1));
  storew(out.base, of_granule - splatw(kLog2WeightMax));
  storew(out.scale, exp2_w(of_granule - of_row) * splatw(1 / kWeightMax));
  out.of_row = of_row;
}

template <bool kSeesAll>
__attribute__((noinline)) void make_weights(const Rows& rows, int64_t first, int64_t num_rows, const Segment& segment,
                                            const float* s, const Bases& bases, const Partial& out, const RowCodes& codes) {
  const float* const x = s + first * kSegment;
  uint8_t* const weights = codes.weights + first * kWeightBytes;
  if constexpr (kSeesAll) {
    num_rows = kSoftmaxRows;
  } else {
    const int64_t filled = (rows.limits[rows.end - 1] + kGranule - 1) / kGranule * kGranule;  // that any row's sum reads
    for (int64_t r = 0; r < num_rows; ++r) {
      uint8_t* const row = weights + r * kWeightBytes;
      const int64_t low = rows.low(first + r) / kGranule * kGranule, limit = rows.limits[first + r] / kGranule * kGranule;
      std::fill_n(row, low, static_cast<uint8_t>(0));
      std::fill_n(row + limit, filled - limit, static_cast<uint8_t>(0));
    }
  }
  __m512 sums[kSoftmaxRows] = {};
#pragma GCC unroll 4
  for (int r = 0; r < kSoftmaxRows; ++r)
    if (r < num_rows)
      for_granules<kSeesAll>(rows, first + r, [&](int64_t g, auto mask) {
        const __m512 part = granule_weights(x + r * kSegment + g * kGranule, bases.base[r * kGranules + g],
                                            segment.v_inverse + g * kGranule, weights + r * kWeightBytes + g * kGranule, mask);
        sums[r] = fmadd(part, splatw(bases.scale[r * kGranules + g]), sums[r]);
      });
  const __m512 sum = lane_sums(sums);
  const __mmask16 is_row = static_cast<__mmask16>((1 << num_rows) - 1);
  const __m512i each_fourth = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm512_mask_storeu_ps(out.max + first, is_row, _mm512_permutexvar_ps(each_fourth, bases.of_row));
  _mm512_mask_storeu_ps(out.sum + first, is_row, sum);
  // What is not finite has no codes: the whole row becomes NaN, as a sum with it would.
  const __m512 of_each = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3), sum);
  const __m512 is_nan = of_each - of_each;  // 0 where it is finite
  _mm512_mask_storeu_ps(codes.weight_scale + first * kGranules, static_cast<__mmask16>((1 << num_rows * kGranules) - 1),
                        loadw(bases.scale) + is_nan);
}

// From scores, which know their values' scales, to weights. max and sum go to `out` as softmax() does it, but both of weights
// times scales: merge() wants no more than that all parts of a row are alike. Bases of several groups of rows are found first:
// each ends in a chain across lanes, which the next one's loads fill.
inline void softmax_codes(const Rows& rows, const Segment& segment, const float* s, const Partial& out, const RowCodes& codes) {
  constexpr int64_t kGroups = 3;
  Bases bases[kGroups];
  for (int64_t begin = rows.first; begin < rows.end; begin += kGroups * kSoftmaxRows) {
    const auto with = [&](auto&& f) {
      for (int64_t i = 0, row = begin; i < kGroups && row < rows.end; ++i, row += kSoftmaxRows) {
        const int64_t num_rows = std::min<int64_t>(kSoftmaxRows, rows.end - row);
        if (num_rows == kSoftmaxRows && rows.limits[row] == kSegment && rows.low(row + num_rows - 1) == 0)
          f(std::true_type(), row, num_rows, bases[i]);
        else
          f(std::false_type(), row, num_rows, bases[i]);
      }
    };
    with([&](auto sees_all, int64_t row, int64_t n, Bases& of) { find_bases<sees_all>(rows, row, n, s, of); });
    with([&](auto sees_all, int64_t row, int64_t n, Bases& of) { make_weights<sees_all>(rows, row, n, segment, s, of, out, codes); });
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
