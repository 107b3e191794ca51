// Attention directly on the codes of pages (q8 and TurboQuant's): scores and weighted sums are integer products, exact
// whatever their order, so law 1 holds by itself and no page is expanded. AVX-512 has its own: wide_codes.h.
//
//   scores   q, scaled and rotated as keys are, becomes codes of 15 bits with a scale per row (8 bits would lose as much
//            again as keys of 8 bits do); sum over head_dim of q code * key code
//   values   softmax weight times the token's scale, in units of the row's largest / kWeightMax, rounded to 15 bits;
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

constexpr int kScoreRows = 6, kScoreVectors = 1;  // of a register tile
constexpr int kValueRows = 6, kValueVectors = 1;

constexpr int64_t query_row_bytes(int64_t head_dim) { return 2 * head_dim; }

// A row's queries, and its weights for one segment, as the products read them.
struct RowCodes {
  uint8_t* query;         // [rows][head_dim] of int16
  float* query_scale;     // [rows]
  int32_t* query_offset;  // [rows], -128 * sum of the codes: keys are stored 128 too high
  uint8_t* weights;       // [rows][kSegment] of int16
  float* weight_scale;    // [rows]
};
constexpr int64_t kWeightBytes = 2 * kSegment, kWeightScales = 1;  // of a row

// The codes of factor * q, rotated.
inline void quantize_query(const float* q, float factor, int64_t head_dim, int64_t row, const RowCodes& out) {
  typedef int16_t i16x8 __attribute__((vector_size(16)));
  uint8_t* codes = out.query + row * query_row_bytes(head_dim);
  alignas(32) float rotated[kMostHeadDim];
  hadamard(q, head_dim, rotated);
  const float max = largest_magnitude(rotated, head_dim);
  const f32x8 inverse = splat(max > 1e-30f ? kQueryMax / max : 0.0f), magic = splat(12582912.0f);
  i32x8 sum = {};
  for (int64_t d = 0; d < head_dim; d += 8) {
    const i32x8 code = recast<i32x8>(load8(rotated + d) * inverse + magic) - recast<i32x8>(magic);
    sum += code;
    const i16x8 half = __builtin_convertvector(code, i16x8);
    memcpy(codes + 2 * d, &half, 16);
  }
  out.query_scale[row] = max * (factor / kQueryMax);
  out.query_offset[row] = -128 * (((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7])));
}

// ---- sums of products of codes ------------------------------------------------------------------------------------
//
// Plain arrays of sums, in functions that are inlined: as members of a struct gcc kept them on the stack.

#if defined(FARTHING_HAS_AVX2)

// Lane i is the sum of the pair 2 i, 2 i + 1 of both vectors side by side.
constexpr int kSumsPerKey = 2, kSumsPerValue = 2;

FARTHING_INLINE __m256i splat_codes(const int16_t* four) {
  int64_t v;
  memcpy(&v, four, 8);
  return _mm256_set1_epi64x(v);
}
template <int R, int N>
FARTHING_INLINE void add_products(Sum (&sum)[R][N], const Sum (&x)[N], const int16_t* fours, int64_t stride) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m256i y = splat_codes(fours + r * stride);
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(x[v], y));
  }
}
template <int R, int N>
FARTHING_INLINE void add_keys(Sum (&sum)[R][N], const Sum (&x)[N], const uint8_t* q, int64_t head_dim) {
  add_products(sum, x, reinterpret_cast<const int16_t*>(q), head_dim);
}
template <int R, int N>
FARTHING_INLINE void start_keys(Sum (&sum)[R][N], const int32_t* offset) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) sum[r][v] = _mm256_set1_epi64x(static_cast<uint32_t>(offset[r]));
}
FARTHING_INLINE f32x8 key_sum(const Sum* sum) {
  return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[0], sum[1]), 0xd8));
}
template <int R, int N>
FARTHING_INLINE void add_values(Sum (&sum)[R][N], const Sum (&x)[N], const uint8_t* weights) {
  add_products(sum, x, reinterpret_cast<const int16_t*>(weights), kSegment);
}
FARTHING_INLINE f32x8 value_sum(const Sum* sum) { return key_sum(sum); }
constexpr int64_t kQueryStep = 2, kWeightStep = 2;

#else

constexpr int kSumsPerKey = 1, kSumsPerValue = 1;

template <bool kIsSigned, int R, int NV>
FARTHING_INLINE void add_products(Sum (&sum)[R][NV], const Sum (&x)[NV], const int16_t* fours, int64_t stride) {
  for (int v = 0; v < NV; ++v)
    for (int i = 0; i < 4; ++i) {
      const i32x8 code = kIsSigned ? x[v] << (24 - 8 * i) >> 24 : (x[v] >> (8 * i)) & 255;
      for (int r = 0; r < R; ++r) sum[r][v] += code * fours[r * stride + i];
    }
}
template <int R, int NV>
FARTHING_INLINE void add_keys(Sum (&sum)[R][NV], const Sum (&x)[NV], const uint8_t* q, int64_t head_dim) {
  add_products<false>(sum, x, reinterpret_cast<const int16_t*>(q), head_dim);
}
template <int R, int NV>
FARTHING_INLINE void start_keys(Sum (&sum)[R][NV], const int32_t* offset) {
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < NV; ++v) sum[r][v] = i32x8{} + offset[r];
}
FARTHING_INLINE f32x8 key_sum(const Sum* sum) { return __builtin_convertvector(*sum, f32x8); }
template <int R, int NV>
FARTHING_INLINE void add_values(Sum (&sum)[R][NV], const Sum (&x)[NV], const uint8_t* weights) {
  add_products<true>(sum, x, reinterpret_cast<const int16_t*>(weights), kSegment);
}
FARTHING_INLINE f32x8 value_sum(const Sum* sum) { return key_sum(sum); }
constexpr int64_t kQueryStep = 2, kWeightStep = 2;

#endif

// What AVX-512 does with values' scales here, these weights do not need.
template <class C>
void prepare_values(Segment&, const KVShape&) {}
inline void without_values(Segment&) {}
inline void add_value_logs(const Rows&, const Segment&, float*) {}
constexpr int64_t kGranule = 8;  // tokens that a sum may begin at a multiple of

// ---- tiles ----------------------------------------------------------------------------------------------------------

constexpr int64_t kPieces = kCodeLanes / 8 * 2;  // of memory that look_ahead() names for a vector of lanes

// dst[r][lanes * v ..] = scores of R rows and NV vectors of keys, `scale` being the keys' and `ahead`, if any, what to fetch.
template <class C, int R, int NV>
__attribute__((noinline)) void score_codes(const RowCodes& codes, int64_t row, int64_t head_dim, const KeyRef* refs,
                                           int64_t page_size, const Codebook* book, const float* scale, float* dst,
                                           const char* const* ahead) {
  constexpr int kPerLoad = pieces_of<C>();
  constexpr int64_t kColumns = C::kBits == 8 ? 8 : C::kBits == 2 ? 32 : 16;  // that take a cache line of eight keys, or less
  const Table table = table_of(book, true);
  KeyCodes keys[NV];
#pragma GCC unroll 8
  for (int v = 0; v < NV; ++v) {
    const KeyRef& first = refs[v * (kCodeLanes / 8)];
    keys[v] = key_codes<C>(first.head, first.slot, head_dim, page_size);
  }
  Sum sum[R][NV * kSumsPerKey];
  start_keys(sum, codes.query_offset + row);
  const uint8_t* q = codes.query + row * query_row_bytes(head_dim);
  for (int64_t quad = 0; quad < head_dim / 4; quad += kPerLoad) {
#pragma GCC unroll 8
    for (int piece = 0; piece < kPerLoad; ++piece, q += 4 * kQueryStep) {
      Sum k[NV * kParts];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) load_keys<C>(k + v * kParts, keys[v], quad + piece, piece, table);
      add_keys(sum, k, q, head_dim);
    }
    if (ahead && 4 * quad % kColumns == 0)
      for (int64_t i = 0; i < NV * kPieces; ++i) __builtin_prefetch(ahead[i] + 4 * quad * C::kBits);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const f32xw both = loadw(scale + v * kCodeLanes) * splatw(codes.query_scale[row + r]);
      storew(dst + r * kSegment + v * kCodeLanes, key_sum(sum[r] + v * kSumsPerKey) * both);
    }
}

// s[row, key] = scaled q[row] . key, up to each row's limit; what stands beyond is undefined.
template <class C>
void scores_of_codes(const RowCodes& codes, int64_t head_dim, const Segment& segment, const Codebook* book, const Rows& rows,
                     float* s, const char* const* ahead) {
  for_row_groups<kScoreRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t n = (rows.limits[row + num - 1] + kCodeLanes - 1) / kCodeLanes;
    with_rows<kScoreRows>(num, [&](auto r) {
      for_vectors<kScoreVectors>(n, [&](int64_t j, auto nv) {
        score_codes<C, r, nv>(codes, row, head_dim, segment.keys + j * (kCodeLanes / 8), segment.k_page_size, book,
                              segment.k_scale + j * kCodeLanes, s + row * kSegment + j * kCodeLanes,
                              ahead ? ahead + j * kPieces : nullptr);
      });
    });
  });
}

// Columns [d, d + NV * lanes) of R rows: sum of weight * value code over the first num_tokens tokens, times the row's
// scale; of the last vector only `width` columns are written (a head_dim may end with half a vector; what it reads beyond
// its columns is still the page's).
template <class C, int R, int NV>
__attribute__((noinline)) void sum_values(const RowCodes& codes, int64_t row, int64_t head_dim, const Run* run,
                                          int64_t page_size, const Codebook* book, int64_t num_tokens, int64_t d,
                                          int64_t width, float* dst, const char* const* next, int64_t next_bytes) {
  const Table table = table_of(book, false);
  Sum sum[R][NV * kSumsPerValue];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV * kSumsPerValue; ++v) sum[r][v] = Sum{};
  const uint8_t* weights = codes.weights + row * kWeightBytes;
  for (int64_t left = num_tokens; left > 0; left -= run->count, ++run) {
    const int64_t n = std::min(run->count, left);
    for (int64_t line = 0; line < next_bytes; line += 64) __builtin_prefetch(*next + line);
    ++next;
    for (int64_t i = 0; i < n; i += 4, weights += 4 * kWeightStep) {
      Sum x[NV * kParts];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v)
        load_values<C>(x + v * kParts, value_codes<C>(run->head, i / 4, d + v * kCodeLanes, head_dim, page_size), table);
      add_values(sum, x, weights);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      const f32xw value = value_sum(sum[r] + v * kSumsPerValue) * splatw(codes.weight_scale[row + r]);
      float* out = dst + r * head_dim + d + v * kCodeLanes;
      if (width == kCodeLanes)
        storew(out, value);
      else
        memcpy(out, &value, static_cast<size_t>(width) * sizeof(float));
    }
}

template <class C>
void values_of_codes(const RowCodes& codes, int64_t head_dim, int64_t page_size, const Segment& segment, const Codebook* book,
                     const Rows& rows, float* dst) {
  for_row_groups<kValueRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t n = rows.limits[row + num - 1];
    with_rows<kValueRows>(num, [&](auto r) {
      for_vectors<kValueVectors>(head_dim / kCodeLanes, [&](int64_t j, auto nv) {
        const int64_t next_bytes = row == rows.first && j == 0 ? segment.next_bytes : 0;
        sum_values<C, r, nv>(codes, row, head_dim, segment.runs, page_size, book, n, j * kCodeLanes, kCodeLanes,
                             dst + row * head_dim, segment.next, next_bytes);
      });
      const int64_t rest = head_dim % kCodeLanes;
      if (rest)
        sum_values<C, r, 1>(codes, row, head_dim, segment.runs, page_size, book, n, head_dim - rest, rest,
                            dst + row * head_dim, segment.next, 0);
    });
  });
}

// Weights 0 <= w of tokens i .. i + kWide - 1 as codes.
FARTHING_INLINE void store_weights(f32xw w, f32xw inverse, uint8_t* row, int64_t i) {
  const f32xw magic = splatw(12582912.0f);
  const f32xw shifted = fmadd(w, inverse, magic);
  i32xw q, base;
  memcpy(&q, &shifted, sizeof q);
  memcpy(&base, &magic, sizeof base);
  q -= base;
  typedef int16_t i16x8 __attribute__((vector_size(16)));
  const i16x8 half = __builtin_convertvector(q, i16x8);
  memcpy(row + 2 * i, &half, 16);
}

// From scores to softmax weights in units of the tokens' scales. max and sum go to `out` as softmax() does it.
inline void softmax_codes(const Rows& rows, const Segment& segment, float* s, const Partial& out, const RowCodes& codes) {
  const int64_t filled = (rows.limits[rows.end - 1] + kWide - 1) / kWide * kWide;
  for (int64_t row = rows.first; row < rows.end; ++row) {
    float* x = s + row * kSegment;
    const int64_t limit = rows.limits[row], low = rows.low(row), seen = (limit + kWide - 1) / kWide * kWide;
    f32xw max = splatw(-__builtin_inff()), sum = {}, largest = {}, total = {};
    hide_before(x, low);
    for_scores(x, limit, [&](int64_t, f32xw score, bool) { max = maxw(max, score); });
    const float m = max_of_w(max);
    for_scores(x, limit, [&](int64_t i, f32xw score, bool is_last) {
      const f32xw e = seen_from(low, i, exp2_w(score - splatw(m)));
      f32xw w = seen_from(low, i, e * loadw(segment.v_scale + i));
      if (is_last) w = selectw(lanes_below(limit - i), w, f32xw{});
      sum = sum + e;
      largest = maxw(largest, w);
      total = total + w;
      storew(x + i, w);
    });
    out.max[row] = m;
    out.sum[row] = sum_of_w(sum);
    const float most = max_of_w(largest), all = sum_of_w(total);
    // What is not finite has no codes: the whole row becomes NaN, as a sum with it would.
    const bool is_finite = all - all == 0.0f;
    codes.weight_scale[row] = is_finite ? most / kWeightMax : __builtin_nanf("");
    const f32xw inverse = splatw(is_finite && most > 1e-30f ? kWeightMax / most : 0.0f);
    uint8_t* weights = codes.weights + row * kWeightBytes;
    for (int64_t i = 0; i < filled; i += kWide) store_weights(i < seen ? loadw(x + i) : f32xw{}, inverse, weights, i);
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
