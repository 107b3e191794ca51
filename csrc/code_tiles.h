// Attention directly on the codes of pages (q8 and TurboQuant's): scores and weighted sums are integer products, exact
// whatever their order, so law 1 holds by itself and no page is expanded. AVX-512 has its own: wide_codes.h.
//
//   scores   q, scaled and rotated as keys are, becomes codes of 15 bits with a scale per row (8 bits would lose as much
//            again as keys of 8 bits do); sum over head_dim of q code * key code
//   values   softmax weight times the token's scale, in units of the row's largest / kWeightMax, rounded to 15 bits: scores
//            know their value's scale as a logarithm, so weights come out of the exponential as codes;
//            sum over a segment's tokens of weight * value code: at most 256 * 32767 * 127 < 2^31
//
// Both are one pattern: codes lie in groups of four (of head_dim, of tokens) for a vector of lanes (keys, columns):
//   K page of a head: [head_dim / 4][page_size][4] code + 128      V page of a head: [page_size / 4][head_dim][4] code
// Weights of 8 bits would drop tokens whose weight is under a 500th of the largest, and there are hundreds of them where
// one early token (a sink) takes most.
#pragma once
#include "attention_tile.h"
#include "code_loads.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr float kWeightMax = 32767.0f;

constexpr float kQueryMax = 127 * 128;

constexpr int kScoreRows = kIsPortable ? 2 : 6, kScoreVectors = kIsPortable ? 1 : 2;  // of a register tile
constexpr int kValueRows = kScoreRows, kValueVectors = kScoreVectors;

constexpr int64_t query_row_bytes(int64_t) { return 2 * kMostHeadDim; }  // fixed, so that one register reaches all rows of a tile

// Codes that meet a quad lie as its even places, then its odd ones: code_loads.h takes the bytes apart that way.
constexpr int kPlaceInFour[4] = {0, 2, 1, 3};
FARTHING_INLINE void store_fours(i32x8 codes, uint8_t* to) {
#if defined(FARTHING_HAS_AVX2)
  const __m256i v = reinterpret_cast<__m256i>(codes);
  const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(half, order));
#else
  int16_t half[8];
  for (int i = 0; i < 8; ++i) half[i / 4 * 4 + kPlaceInFour[i % 4]] = static_cast<int16_t>(codes[i]);
  memcpy(to, half, sizeof half);
#endif
}

// A row's queries, and its weights for one segment, as the products read them.
struct RowCodes {
  uint8_t* query;         // [rows][kMostHeadDim] of int16
  float* query_scale;     // [rows]
  int32_t* query_offset;  // [rows], -128 * sum of the codes: keys are stored 128 too high
  uint8_t* weights;       // [rows][kSegment] of int16
  float* weight_scale;    // [rows]
};
constexpr int64_t kWeightBytes = 2 * kSegment, kWeightScales = 1;  // of a row

// The codes of factor * q, rotated.
inline void quantize_query(const float* q, float factor, int64_t head_dim, int64_t row, const RowCodes& out) {
  uint8_t* codes = out.query + row * query_row_bytes(head_dim);
  alignas(32) float rotated[kMostHeadDim];
  hadamard(q, head_dim, rotated);
  const float max = largest_magnitude(rotated, head_dim);
  const f32x8 inverse = splat(max > 1e-30f ? kQueryMax / max : 0.0f), magic = splat(12582912.0f);
  i32x8 sum = {};
  for (int64_t d = 0; d < head_dim; d += 8) {
    const i32x8 code = recast<i32x8>(load8(rotated + d) * inverse + magic) - recast<i32x8>(magic);
    sum += code;
    store_fours(code, codes + 2 * d);
  }
  out.query_scale[row] = max * (factor / kQueryMax);
  out.query_offset[row] = -128 * (((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7])));
}

// ---- sums of products of codes ------------------------------------------------------------------------------------
//
// Plain arrays of sums, in functions that are inlined: as members of a struct gcc kept them on the stack.

// f(r, v) for each of R rows and N vectors, both constants: with loops, whose indices are known late, gcc keeps the sums of a
// tile on the stack.
template <int R, int N, class F>
FARTHING_INLINE void for_each_of(F&& f) {
  unrolled<R>([&](auto r) FARTHING_INLINE_BODY { unrolled<N>([&](auto v) FARTHING_INLINE_BODY { f(r, v); }); });
}

// Adds x, four codes to a lane, times the four numbers at `fours` of each row.
#if defined(FARTHING_HAS_AVX2)

FARTHING_INLINE __m256i splat_pair(const int16_t* two) {
  int32_t v;
  memcpy(&v, two, 4);
  return _mm256_set1_epi32(v);
}
template <bool, int R, int NV>
FARTHING_INLINE void add_products(Sum (&sum)[R][NV], const Sum (&x)[NV * kParts], const int16_t* fours, int64_t stride) {
  unrolled<2 * R>([&](auto i) FARTHING_INLINE_BODY {
    constexpr int r = decltype(i)::value / 2, part = decltype(i)::value % 2;
    const __m256i y = splat_pair(fours + r * stride + 2 * part);
    unrolled<NV>([&](auto v) FARTHING_INLINE_BODY {
      sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(x[2 * v + part], y));
      asm("" : "+x"(sum[r][v]));  // as in add16()
    });
  });
}

#else

template <bool kIsSigned, int R, int NV>
FARTHING_INLINE void add_products(Sum (&sum)[R][NV], const Sum (&x)[NV], const int16_t* fours, int64_t stride) {
  for (int v = 0; v < NV; ++v)
    for (int i = 0; i < 4; ++i) {
      const i32x8 code = kIsSigned ? x[v] << (24 - 8 * i) >> 24 : (x[v] >> (8 * i)) & 255;
      for (int r = 0; r < R; ++r) sum[r][v] += code * fours[r * stride + kPlaceInFour[i]];
    }
}

#endif

// v_log = log2(v_scale) to 2e-6, v_inverse = 1 / v_scale. A scale of 0 is that of zeros, whose weight counts in the sum alone:
// any will do, so long as both are of the same. What is not finite makes NaN.
inline void find_logs(Segment& segment) {
  const i32xw one = recast<i32xw>(splatw(1.0f));
  for (int64_t i = 0; i < segment.num_keys; i += kWide) {
    const f32xw x = maxw(splatw(0x1p-60f), loadw(segment.v_scale + i));
    const i32xw bits = recast<i32xw>(x), exponent = (bits >> 23) - 127;
    const f32xw m = recast<f32xw>((bits & 0x7fffff) | one);
    const i32xw is_upper = lessw(splatw(1.5f), m);
    const f32xw t = selectw(is_upper, m * splatw(0.5f), m) - splatw(1.0f);  // (-1/4, 1/2]
    const f32xw e = __builtin_convertvector(exponent - is_upper, f32xw);      // a true comparison is -1
    const f32xw is_nan = x - x;  // 0 where it is finite
    storew(segment.v_log + i, fmadd(log2_slope(t), t, e) + is_nan);
    storew(segment.v_inverse + i, splatw(1.0f) / x + is_nan);
  }
}

// What softmax_codes() and values_of_codes() want to know of a segment, whatever the rows.
template <class C>
void prepare_values(Segment& segment, const KVShape& shape) {
  find_logs(segment);
  ValueCodes* at = segment.quads;
  for (int64_t r = 0; r < segment.num_runs; ++r)
    for (int64_t quad = 0; quad < (segment.runs[r].count + 3) / 4; ++quad)
      *at++ = value_codes<C>(segment.runs[r].head, quad, 0, shape.head_dim, shape.page_size);
}
constexpr int64_t kGranule = 8;  // tokens that a sum may begin at a multiple of

// ---- tiles ----------------------------------------------------------------------------------------------------------

constexpr int64_t kPieces = 2;  // of memory that look_ahead() names for a vector of lanes

// dst[r][..] = scores of R rows and n vectors of keys, NV at a time, whose scales are `scale`, plus `shift` of each key. `ahead`,
// if any: what to fetch.
template <class C, int R, int NV, bool kIsAhead>
__attribute__((noinline)) void score_codes(const RowCodes& codes, int64_t row, int64_t head_dim, const KeyRef* refs, int64_t n,
                                           int64_t page_size, const Codebook* book, const float* scale, const float* shift,
                                           float* dst, const char* const* ahead) {
  constexpr int kPerLoad = pieces_of<C>();
  constexpr int64_t kColumns = C::kBits == 8 ? 8 : C::kBits == 2 ? 32 : 16;  // that take a cache line of eight keys, or less
  const Table table = table_of(book, true);
  for (int64_t i = 0; i < n; i += NV, refs += NV, scale += NV * kCodeLanes, shift += NV * kCodeLanes, dst += NV * kCodeLanes) {
    KeyCodes keys[NV];
    unrolled<NV>([&](auto v) FARTHING_INLINE_BODY { keys[v] = key_codes<C>(refs[v].head, refs[v].slot, head_dim, page_size); });
    Sum sum[R][NV];
    for_each_of<R, NV>([&](auto r, auto v) FARTHING_INLINE_BODY { sum[r][v] = recast<Sum>(i32x8{} + codes.query_offset[row + r]); });
    const int16_t* q = reinterpret_cast<const int16_t*>(codes.query + row * query_row_bytes(head_dim));
    for (int64_t quad = 0; quad < head_dim / 4; quad += kPerLoad) {
      unrolled<kPerLoad>([&](auto piece) FARTHING_INLINE_BODY {
        Sum k[NV * kParts];
        unrolled<NV>([&](auto v) FARTHING_INLINE_BODY { load_keys<C>(k + v * kParts, keys[v], quad + piece, piece, table); });
        add_products<false>(sum, k, q, kMostHeadDim);
        q += 4;
      });
      if constexpr (kIsAhead) {
        if (4 * quad % kColumns == 0)
          for (int64_t j = 0; j < NV * kPieces; ++j) __builtin_prefetch(ahead[j] + 4 * quad * C::kBits);
      }
    }
    if constexpr (kIsAhead) ahead += NV * kPieces;
    for_each_of<R, NV>([&](auto r, auto v) FARTHING_INLINE_BODY {
      const f32xw both = loadw(scale + v * kCodeLanes) * splatw(codes.query_scale[row + r]);
      const f32xw score = __builtin_convertvector(recast<i32x8>(sum[r][v]), f32x8);
      storew(dst + r * kSegment + v * kCodeLanes, fmadd(score, both, loadw(shift + v * kCodeLanes)));
    });
  }
}

// s[row, key] = scaled q[row] . key + the segment's v_log of the key, up to each row's limit; what stands beyond is undefined.
template <class C>
void scores_of_codes(const RowCodes& codes, int64_t head_dim, const Segment& segment, const Codebook* book, const Rows& rows,
                     float* s, const char* const* ahead) {
  for_row_groups<kScoreRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t n = (rows.limits[row + num - 1] + kCodeLanes - 1) / kCodeLanes;
    with_rows<kScoreRows>(num, [&](auto r) {
      const auto tiles = [&](auto nv, int64_t j, int64_t end) {
        if (j == end) return;
        const auto run = ahead ? score_codes<C, r, nv, true> : score_codes<C, r, nv, false>;
        run(codes, row, head_dim, segment.keys + j, end - j, segment.k_page_size, book, segment.k_scale + j * kCodeLanes,
            segment.v_log + j * kCodeLanes, s + row * kSegment + j * kCodeLanes, ahead ? ahead + j * kPieces : nullptr);
      };
      tiles(std::integral_constant<int, kScoreVectors>(), 0, n / kScoreVectors * kScoreVectors);
      tiles(std::integral_constant<int, 1>(), n / kScoreVectors * kScoreVectors, n);
    });
  });
}

// The same quad, so many vectors of columns further on.
template <class C>
FARTHING_INLINE ValueCodes further(const ValueCodes& at, int64_t vectors) {
  if constexpr (C::kBits == 8)
    return {at.low + 4 * kCodeLanes * vectors, nullptr, 0};
  else  // two vectors share a group
    return {at.low + vectors / 2 * 8 * C::kLow, at.high + vectors / 2 * 8, vectors % 2};
}

// value[r][..] = scale of the row * sum over num_quads quads of weight code * value code, for R rows and NV vectors of columns, the
// first `skipped` vectors further on than the quads say.
template <class C, int R, int NV>
__attribute__((noinline)) void sum_values(const uint8_t* weights, const float* scale, const ValueCodes* quads, int64_t num_quads,
                                          int64_t skipped, const Codebook* book, float* value, int64_t stride) {
  const Table table = table_of(book, false);
  Sum sum[R][NV];
  for_each_of<R, NV>([&](auto r, auto v) FARTHING_INLINE_BODY { sum[r][v] = Sum{}; });
  const int16_t* fours = reinterpret_cast<const int16_t*>(weights);
  for (const ValueCodes* const end = quads + num_quads; quads != end; ++quads, fours += 4) {
    Sum x[NV * kParts];
    unrolled<NV>([&](auto v) FARTHING_INLINE_BODY { load_values<C>(x + v * kParts, further<C>(*quads, skipped + v), table); });
    add_products<true>(sum, x, fours, kSegment);
  }
  for_each_of<R, NV>([&](auto r, auto v) FARTHING_INLINE_BODY {
    const f32xw of = __builtin_convertvector(recast<i32x8>(sum[r][v]), f32x8) * splatw(scale[r]);
    storew(value + r * stride + v * kCodeLanes, of);
  });
}

template <class C>
void values_of_codes(const RowCodes& codes, int64_t head_dim, const Segment& segment, const Codebook* book, const Rows& rows,
                     float* dst) {
  for (int64_t r = 0; r < segment.num_runs; ++r)
    for (int64_t line = 0; line < segment.next_bytes; line += 64) __builtin_prefetch(segment.next[r] + line);
  for_row_groups<kValueRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t num_quads = (rows.limits[row + num - 1] + 3) / 4;
    with_rows<kValueRows>(num, [&](auto r) {
      for_vectors<kValueVectors>(head_dim / kCodeLanes, [&](int64_t j, auto nv) {
        sum_values<C, r, nv>(codes.weights + row * kWeightBytes, codes.weight_scale + row, segment.quads, num_quads, j, book,
                             dst + row * head_dim + j * kCodeLanes, head_dim);
      });
    });
  });
}

// 2^x to 3e-6, a fifth of what codes round off, for x <= 15; everything below -126 counts as -126. Its polynomial is a minimax
// fit made for this file.
FARTHING_INLINE f32xw weight_of(f32xw x) {
  const f32xw magic = splatw(12582912.0f);  // as in exp2_w()
  x = maxw(x, splatw(-126.0f));
  const f32xw shifted = x + magic, f = x - (shifted - magic);
  f32xw p = splatw(9.57010221e-3f);
  p = fmadd(p, f, splatw(5.59178591e-2f));
  p = fmadd(p, f, splatw(0.240247443f));
  p = fmadd(p, f, splatw(0.693121791f));
  p = fmadd(p, f, splatw(0.999999285f));
  return recast<f32xw>(recast<i32xw>(p) + (recast<i32xw>(shifted) << 23));
}

// Whole numbers 0 <= w <= kWeightMax as codes.
FARTHING_INLINE void store_weights(f32xw w, uint8_t* to) {
#if defined(FARTHING_HAS_AVX2)
  store_fours(recast<i32xw>(_mm256_cvtps_epi32(w)), to);
#else
  const f32xw magic = splatw(12582912.0f);
  store_fours(recast<i32xw>(w + magic) - recast<i32xw>(magic), to);
#endif
}

// From scores, which know their values' scales, to weights as codes: 2^(score - the row's largest), times kWeightMax. max and sum
// go to `out` as softmax() does it, but both of weights times scales: merge() wants no more than that all parts of a row are alike.
inline void softmax_codes(const Rows& rows, const Segment& segment, float* s, const Partial& out, const RowCodes& codes) {
  constexpr float kLog2WeightMax = 14.999956f;
  const int64_t filled = (rows.limits[rows.end - 1] + kWide - 1) / kWide * kWide;
  for (int64_t row = rows.first; row < rows.end; ++row) {
    float* x = s + row * kSegment;
    uint8_t* const weights = codes.weights + row * kWeightBytes;
    const int64_t limit = rows.limits[row], low = rows.low(row), seen = (limit + kWide - 1) / kWide * kWide;
    f32xw max = splatw(-__builtin_inff()), sum = {};
    hide_before(x, low);
    for_scores(x, limit, [&](int64_t, f32xw score, bool) { max = maxw(max, score); });
    const float m = max_of_w(max);
    const f32xw base = splatw(m - kLog2WeightMax);
    for_scores(x, limit, [&](int64_t i, f32xw score, bool is_last) {
      f32xw w = weight_of(score - base), inverse = loadw(segment.v_inverse + i);
      if (is_last) {
        const i32xw is_seen = lanes_below(limit - i);
        w = selectw(is_seen, w, f32xw{});
        inverse = selectw(is_seen, inverse, f32xw{});
      }
      w = seen_from(low, i, w);
      sum = fmadd(w, seen_from(low, i, inverse), sum);
      store_weights(w, weights + 2 * i);
    });
    memset(weights + 2 * seen, 0, static_cast<size_t>(2 * (filled - seen)));
    out.max[row] = m;
    out.sum[row] = sum_of_w(sum) * (1 / kWeightMax);
    // What is not finite has no codes: the whole row becomes NaN, as a sum with it would.
    const bool is_finite = out.sum[row] - out.sum[row] == 0.0f;
    codes.weight_scale[row] = is_finite ? 1 / kWeightMax : __builtin_nanf("");
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
