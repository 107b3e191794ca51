// Attention directly on the codes of pages with AVX-512 VNNI, which multiplies codes of 8 bits four at a time: twice as fast
// as with the 15 bits of code_tiles.h, and as good where each scale covers little. Measured (KL divergence of the embedded
// model's 512 tokens from float32): 0.00348 with 15 bits for both, 0.00356 with 8 bits for queries, which are rotated as keys
// are, and 0.00358 with 8 bits for weights too.
//
//   scores   q, scaled and rotated, becomes codes of 8 bits with a scale per row; sum over head_dim of q code * key code
//   values   softmax weight times the token's scale, in 255ths of the largest of its granule of 64 positions. One scale for
//            all would lose the tokens behind an attention sink, which takes most of a row's weight; a granule's scale is
//            kept in logarithms, so weights of any size come out of the exponential as codes.
//
// Sums of codes are exact whatever their order, and granules begin at multiples of 64 positions, so law 1 holds by itself.
#pragma once
#include "attention_tile.h"
#include "code_loads.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int64_t kGranule = 64, kGranules = kSegment / kGranule;
constexpr int kScoreRows = 6, kScoreVectors = 4;  // of a register tile
constexpr int kValueRows = 6, kValueVectors = 4;
constexpr float kQueryMax = 127;
constexpr float kWeightMax = 255, kLog2WeightMax = 7.994353436858858f;

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

FARTHING_INLINE __m512i splat_codes(const void* four) {
  int32_t v;
  memcpy(&v, four, 4);
  return _mm512_set1_epi32(v);
}

// sum += four unsigned codes times four signed ones in each lane. Written out, because gcc 12 copies the sums of a loop from
// register to register, and to the stack, around the intrinsic: 14 % of a long prompt instead of 7.
FARTHING_INLINE void add_dot(Sum& sum, Sum codes, Sum four) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(four));
}

constexpr int64_t kPieces = kCodeLanes / 8 * 2;  // of memory that look_ahead() names for a vector of lanes

// dst[r][lanes * v ..] = scores of R rows and NV vectors of keys, whose scales are `scale`, plus `shift` of each key. `ahead`,
// if any: what to fetch. Plain arrays of sums: as members of a struct gcc kept them on the stack.
template <class C, int R, int NV, bool kIsAhead>
__attribute__((noinline)) void score_codes(const RowCodes& codes, int64_t row, int64_t head_dim, const KeyRef* refs,
                                           int64_t page_size, const Codebook* book, const float* scale, const float* shift,
                                           float* dst, const char* const* ahead) {
  constexpr int kPerLoad = pieces_of<C>();
  constexpr int64_t kColumns = C::kBits == 8 ? 8 : C::kBits == 2 ? 32 : 16;  // that take a cache line of eight keys, or less
  const Table table = table_of(book, true);
  KeyCodes keys[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) {
    const KeyRef& first = refs[v * (kCodeLanes / 8)];
    keys[v] = key_codes<C>(first.head, first.slot, head_dim, page_size);
  }
  Sum sum[R][NV];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[r][v] = _mm512_set1_epi32(codes.query_offset[row + r]);
  const uint8_t* q = codes.query + row * kMostHeadDim;
  for (int64_t quad = 0; quad < head_dim / 4; quad += kPerLoad) {
#pragma GCC unroll 8
    for (int piece = 0; piece < kPerLoad; ++piece, q += 4) {
      Sum k[NV];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) load_keys<C>(k + v, keys[v], quad + piece, piece, table);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Sum four = splat_codes(q + r * kMostHeadDim);
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) add_dot(sum[r][v], k[v], four);
      }
    }
    if constexpr (kIsAhead) {
      if (4 * quad % kColumns == 0)
        for (int64_t i = 0; i < NV * kPieces; ++i) __builtin_prefetch(ahead[i] + 4 * quad * C::kBits);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) {
    const f32xw of_key = loadw(scale + v * kCodeLanes), more = loadw(shift + v * kCodeLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      storew(dst + r * kSegment + v * kCodeLanes,
             fmadd(_mm512_cvtepi32_ps(sum[r][v]), of_key * splatw(codes.query_scale[row + r]), more));
  }
}

// Calls f(j, number of vectors) for pieces of at most NV that cover n, NV a power of two.
template <int NV, class F>
FARTHING_INLINE void for_vectors(int64_t n, F&& f, int64_t j = 0) {
  for (; n >= NV; n -= NV, j += NV) f(j, std::integral_constant<int, NV>{});
  if constexpr (NV > 1) for_vectors<NV / 2>(n, f, j);
}

// s[row, key] = scaled q[row] . key + the segment's v_log of the key, up to each row's limit; what stands beyond is undefined.
template <class C>
void scores_of_codes(const RowCodes& codes, int64_t head_dim, const Segment& segment, const Codebook* book, const Rows& rows,
                     float* s, const char* const* ahead) {
  for_row_groups<kScoreRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t n = (rows.limits[row + num - 1] + kCodeLanes - 1) / kCodeLanes;
    with_rows<kScoreRows>(num, [&](auto r) {
      for_vectors<kScoreVectors>(n, [&](int64_t j, auto nv) {
        const auto tile = ahead ? score_codes<C, r, nv, true> : score_codes<C, r, nv, false>;
        tile(codes, row, head_dim, segment.keys + j * (kCodeLanes / 8), segment.k_page_size, book,
             segment.k_scale + j * kCodeLanes, segment.v_log + j * kCodeLanes, s + row * kSegment + j * kCodeLanes,
             ahead ? ahead + j * kPieces : nullptr);
      });
    });
  });
}

// Where the quads of a segment's tokens lie, their first columns.
struct Quads {
  ValueCodes at[kSegment / 4];
};
template <class C>
void find_quads(const Segment& segment, int64_t head_dim, int64_t page_size, Quads& out) {
  ValueCodes* at = out.at;
  for (int64_t r = 0; r < segment.num_runs; ++r)
    for (int64_t quad = 0; quad < (segment.runs[r].count + 3) / 4; ++quad)
      *at++ = value_codes<C>(segment.runs[r].head, quad, 0, head_dim, page_size);
}

// The same quad, so many vectors of columns further on.
template <class C>
FARTHING_INLINE ValueCodes further(const ValueCodes& at, int64_t vectors) {
  if constexpr (C::kBits == 8)
    return {at.low + 4 * kCodeLanes * vectors, nullptr, 0};
  else
    return {at.low + 8 * C::kLow * vectors, at.high + 8 * vectors, 0};
}

// value[r][..] (kIsFirst: is new, else +=) scale of the granule * sum over its first num_quads quads of weight code * value code, for R rows and NV
// vectors of columns, the first `skipped` vectors further on than the quads say.
template <class C, int R, int NV, bool kIsFirst>
__attribute__((noinline)) void add_granule(const uint8_t* weights, const float* scale, const ValueCodes* quads,
                                           int64_t num_quads, int64_t skipped, const Codebook* book, float* value,
                                           int64_t stride) {
  const Table table = table_of(book, false);
  Sum sum[R][NV];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[r][v] = Sum{};
  for (int64_t i = 0; i < num_quads; ++i) {
    const uint8_t* four = weights + (i % 4 * 4 + i / 4) * 4;
    Sum x[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) load_values<C>(x + v, further<C>(quads[i], skipped + v), table);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Sum w = splat_codes(four + r * kWeightBytes);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) add_dot(sum[r][v], w, x[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      float* const to = value + r * stride + v * kCodeLanes;
      const f32xw of_granule = _mm512_cvtepi32_ps(sum[r][v]), by = splatw(scale[r * kGranules]);
      storew(to, kIsFirst ? of_granule * by : fmadd(of_granule, by, loadw(to)));
    }
}

// Columns [d, d + NV * lanes) of R rows over the first num_tokens tokens, a granule after the other.
template <class C, int R, int NV>
void sum_values(const RowCodes& codes, int64_t row, const Quads& quads, const Codebook* book, int64_t num_tokens, int64_t d,
                float* value, int64_t stride) {
  for (int64_t g = 0; g * kGranule < num_tokens; ++g) {
    const auto add = g == 0 ? add_granule<C, R, NV, true> : add_granule<C, R, NV, false>;
    add(codes.weights + row * kWeightBytes + g * kGranule, codes.weight_scale + row * kGranules + g, quads.at + g * kGranule / 4,
        (std::min(num_tokens - g * kGranule, kGranule) + 3) / 4, d / kCodeLanes, book, value, stride);
  }
}

template <class C>
void values_of_codes(const RowCodes& codes, int64_t head_dim, int64_t page_size, const Segment& segment, const Codebook* book,
                     const Rows& rows, float* dst) {
  Quads quads;
  find_quads<C>(segment, head_dim, page_size, quads);
  for (int64_t r = 0; r < segment.num_runs; ++r)
    for (int64_t line = 0; line < segment.next_bytes; line += 64) __builtin_prefetch(segment.next[r] + line);
  for_row_groups<kValueRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t n = rows.limits[row + num - 1], rest = head_dim % kCodeLanes;
    with_rows<kValueRows>(num, [&](auto r) {
      for_vectors<kValueVectors>(head_dim / kCodeLanes, [&](int64_t j, auto nv) {
        sum_values<C, r, nv>(codes, row, quads, book, n, j * kCodeLanes, dst + row * head_dim + j * kCodeLanes, head_dim);
      });
      if (rest == 0) return;
      alignas(64) float last[r][kCodeLanes];  // half a vector; what it reads beyond its columns is still the page's
      sum_values<C, r, 1>(codes, row, quads, book, n, head_dim - rest, last[0], kCodeLanes);
      for (int i = 0; i < r; ++i)
        memcpy(dst + (row + i + 1) * head_dim - rest, last[i], static_cast<size_t>(rest) * sizeof(float));
    });
  });
}

// ---- softmax --------------------------------------------------------------------------------------------------------

// v_log = log2(v_scale) to 2e-6, v_inverse = 1 / v_scale. A scale of 0 is that of zeros, whose weight counts in the sum alone:
// any will do, so long as both are of the same.
inline void prepare_values(Segment& segment) {
  for (int64_t i = 0; i < segment.num_keys; i += kWide) {
    const __m512 x = _mm512_max_ps(_mm512_set1_ps(0x1p-60f), loadw(segment.v_scale + i));  // NaN stays NaN
    const __m512 m = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
    const __mmask16 is_upper = _mm512_cmp_ps_mask(m, _mm512_set1_ps(1.5f), _CMP_GE_OQ);
    const __m512 t = _mm512_mask_mul_ps(m, is_upper, m, _mm512_set1_ps(0.5f)) - splatw(1.0f);  // [-1/4, 1/2)
    const __m512 exponent = _mm512_getexp_ps(x), e = _mm512_mask_add_ps(exponent, is_upper, exponent, _mm512_set1_ps(1.0f));
    f32xw p = splatw(0.1196033f);  // log2(1 + t) / t, a minimax fit made for this file
    p = fmadd(p, t, splatw(-0.24247587f));
    p = fmadd(p, t, splatw(0.29828023f));
    p = fmadd(p, t, splatw(-0.36157263f));
    p = fmadd(p, t, splatw(0.48062612f));
    p = fmadd(p, t, splatw(-0.72132777f));
    p = fmadd(p, t, splatw(1.44269632f));
    storew(segment.v_log + i, fmadd(p, t, e));
    storew(segment.v_inverse + i, splatw(1.0f) / x);
  }
}

// Values are no codes: scores stay what they are.
inline void without_values(Segment& segment) {
  std::fill_n(segment.v_log, (segment.num_keys + kWide - 1) / kWide * kWide, 0.0f);
}

// Scores of keys that are no codes do not know their values' scales yet.
inline void add_value_logs(const Rows& rows, const Segment& segment, float* s) {
  for (int64_t row = rows.first; row < rows.end; ++row)
    for (int64_t i = 0; i < rows.limits[row]; i += kWide)
      storew(s + row * kSegment + i, loadw(s + row * kSegment + i) + loadw(segment.v_log + i));
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
      f(g, [&](int v) { return seen_lanes(g * kGranule + v * kWide, low, limit); });
  }
}

// softmax_codes() of rows [first, first + num_rows), at most kSoftmaxRows, kSeesAll: of so many rows that see the whole
// segment.
template <bool kSeesAll>
__attribute__((noinline)) void softmax_few(const Rows& rows, int64_t first, int64_t num_rows, const Segment& segment,
                                           const float* s, const Partial& out, const RowCodes& codes) {
  const float* const x = s + first * kSegment;
  uint8_t* const weights = codes.weights + first * kWeightBytes;
  alignas(64) float most[kWide][kWide], base[kWide], scale[kWide];
  if constexpr (kSeesAll) {
    num_rows = kSoftmaxRows;
  } else {
    std::fill_n(most[0], kWide * kWide, kNoKeyMax);
    std::fill_n(weights, num_rows * kWeightBytes, static_cast<uint8_t>(0));
  }
  for (int64_t r = 0; r < num_rows; ++r)
    for_granules<kSeesAll>(rows, first + r, [&](int64_t g, auto mask) {
      storew(most[r * kGranules + g], largest_scores(x + r * kSegment + g * kGranule, mask));
    });
  const __m512 of_granule = largest_lanes(most);
  __m512 of_row = _mm512_max_ps(of_granule, _mm512_permute_ps(of_granule, 0x4e));
  of_row = _mm512_max_ps(of_row, _mm512_permute_ps(of_row, 0xb1));
  storew(base, of_granule - splatw(kLog2WeightMax));
  storew(scale, exp2_w(of_granule - of_row) * splatw(1 / kWeightMax));
  __m512 sums[kSoftmaxRows] = {};
#pragma GCC unroll 4
  for (int r = 0; r < kSoftmaxRows; ++r)
    if (r < num_rows)
      for_granules<kSeesAll>(rows, first + r, [&](int64_t g, auto mask) {
        const __m512 part = granule_weights(x + r * kSegment + g * kGranule, base[r * kGranules + g],
                                            segment.v_inverse + g * kGranule, weights + r * kWeightBytes + g * kGranule, mask);
        sums[r] = fmadd(part, splatw(scale[r * kGranules + g]), sums[r]);
      });
  const __m512 sum = lane_sums(sums);
  const __mmask16 is_row = static_cast<__mmask16>((1 << num_rows) - 1);
  const __m512i each_fourth = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm512_mask_storeu_ps(out.max + first, is_row, _mm512_permutexvar_ps(each_fourth, of_row));
  _mm512_mask_storeu_ps(out.sum + first, is_row, sum);
  // What is not finite has no codes: the whole row becomes NaN, as a sum with it would.
  const __m512 of_each = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3), sum);
  const __m512 is_nan = of_each - of_each;  // 0 where it is finite
  _mm512_mask_storeu_ps(codes.weight_scale + first * kGranules, static_cast<__mmask16>((1 << num_rows * kGranules) - 1),
                        loadw(scale) + is_nan);
}

// From scores, which know their values' scales, to weights. max and sum go to `out` as softmax() does it, but both of weights
// times scales: merge() wants no more than that all parts of a row are alike.
inline void softmax_codes(const Rows& rows, const Segment& segment, const float* s, const Partial& out, const RowCodes& codes) {
  for (int64_t row = rows.first; row < rows.end; row += kSoftmaxRows) {
    const int64_t num_rows = std::min<int64_t>(kSoftmaxRows, rows.end - row);
    if (num_rows == kSoftmaxRows && rows.limits[row] == kSegment && rows.low(row + num_rows - 1) == 0)
      softmax_few<true>(rows, row, num_rows, segment, s, out, codes);
    else
      softmax_few<false>(rows, row, num_rows, segment, s, out, codes);
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
