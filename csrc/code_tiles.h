// Attention directly on the 8-bit codes of pages (codec q8): scores and weighted sums are integer products, exact whatever
// their order, so law 1 holds by itself and nothing is expanded.
//
//   scores   q, scaled and rotated as keys are, becomes 8-bit codes with a scale per row;
//            sum over head_dim of q code * key code
//   values   softmax weight times the token's scale, in units of the row's largest / kWeightMax, rounded to 15 bits;
//            sum over a segment's tokens of weight * value code: at most 256 * 32767 * 127 < 2^31
//
// Both are one pattern: codes lie in groups of four (of head_dim, of tokens) for a vector of lanes (keys, columns):
//   K page of a head: [head_dim / 4][page_size][4] code + 128      V page of a head: [page_size / 4][head_dim][4] code
// Weights of 8 bits would drop tokens whose weight is under a 500th of the largest, and there are hundreds of them where
// one early token (a sink) takes most.
#pragma once
#include "attention_tile.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr float kWeightMax = 32767.0f;

#if defined(FARTHING_ISA_avx512)
typedef int8_t QueryCode;
constexpr int kScoreRows = 6, kValueRows = 3, kCodeVectors = 4;  // 24 sums in registers
constexpr int64_t kCodeLanes = 16;
#else
typedef int16_t QueryCode;
constexpr int kScoreRows = 3, kValueRows = 3, kCodeVectors = 2;  // with AVX2 each 8 lanes are two vectors of pairs of sums
constexpr int64_t kCodeLanes = 8;
#endif

// A row's queries, and its weights for one segment, as the products read them.
struct RowCodes {
  QueryCode* query;       // [rows][head_dim]
  float* query_scale;     // [rows]
  int32_t* query_offset;  // [rows], -128 * sum of the codes: keys are stored 128 too high
  uint8_t* weights;       // [rows][kWeightBytes]: with AVX-512 256 high bytes, 256 low bytes; else 256 of int16
  float* weight_scale;    // [rows]
};
constexpr int64_t kWeightBytes = 2 * kSegment;

inline void quantize_queries(const float* q, int64_t head_dim, int64_t num_rows, const RowCodes& out) {
  for (int64_t row = 0; row < num_rows; ++row) {
    QueryCode* codes = out.query + row * head_dim;
    int32_t sum = 0;
    alignas(32) float rotated[kMostHeadDim];
    hadamard(q + row * head_dim, head_dim, rotated);
    out.query_scale[row] = CodecQ8::encode(rotated, head_dim, [&](int64_t d, const int8_t* eight) {
      for (int i = 0; i < 8; ++i) {
        codes[d + i] = eight[i];
        sum += eight[i];
      }
    });
    out.query_offset[row] = -128 * sum;
  }
}

// ---- sums of products of codes ------------------------------------------------------------------------------------

#if defined(FARTHING_ISA_avx512)

// sum[v][lane] += four keys' codes of each lane times the row's four query codes
template <int R, int NV>
struct KeySums {
  __m512i sum[R][NV];
  FARTHING_INLINE void start(const int32_t* offset) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < NV; ++v) sum[r][v] = _mm512_set1_epi32(offset[r]);
  }
  FARTHING_INLINE void add(const uint8_t* const* keys, int64_t at, const QueryCode* q, int64_t head_dim) {
    __m512i k[NV];
    for (int v = 0; v < NV; ++v) k[v] = _mm512_loadu_si512(keys[v] + at);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      int32_t four;
      memcpy(&four, q + r * head_dim, 4);
      const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], k[v], x);
    }
  }
  FARTHING_INLINE f32xw get(int r, int v) const { return _mm512_cvtepi32_ps(sum[r][v]); }
};

template <int R, int NV>
struct ValueSums {
  __m512i high[R][NV], low[R][NV];
  FARTHING_INLINE void start() {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < NV; ++v) high[r][v] = low[r][v] = _mm512_setzero_si512();
  }
  FARTHING_INLINE void add(const uint8_t* values, const uint8_t* weights) {
    __m512i x[NV];
    for (int v = 0; v < NV; ++v) x[v] = _mm512_loadu_si512(values + 64 * v);
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) {
      int32_t four[2];
      memcpy(&four[0], weights + r * kWeightBytes, 4);
      memcpy(&four[1], weights + r * kWeightBytes + kSegment, 4);
      const __m512i h = _mm512_set1_epi32(four[0]), l = _mm512_set1_epi32(four[1]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        high[r][v] = _mm512_dpbusd_epi32(high[r][v], h, x[v]);
        low[r][v] = _mm512_dpbusd_epi32(low[r][v], l, x[v]);
      }
    }
  }
  FARTHING_INLINE f32xw get(int r, int v) const {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high[r][v], 8), low[r][v]));
  }
};
FARTHING_INLINE const uint8_t* weights_at(const uint8_t* row, int64_t token) { return row + token; }

#elif defined(FARTHING_HAS_AVX2)

// 8 lanes are two vectors of int32: lane i is the sum of the pair 2 i, 2 i + 1 of both side by side.
FARTHING_INLINE f32x8 pair_sums(__m256i a, __m256i b) {
  return _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8));
}
FARTHING_INLINE __m256i splat_four16(const int16_t* four) {
  int64_t v;
  memcpy(&v, four, 8);
  return _mm256_set1_epi64x(v);
}
FARTHING_INLINE __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

template <int R, int NV>
struct PairSums {
  __m256i sum[R][2 * NV];
  FARTHING_INLINE void add(const __m256i (&x)[2 * NV], const int16_t* fours, int64_t stride) {
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) {
      const __m256i y = splat_four16(fours + r * stride);
#pragma GCC unroll 4
      for (int v = 0; v < 2 * NV; ++v) {
        sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(x[v], y));
        asm volatile("" : "+x"(sum[r][v]));  // or gcc regroups the sums and spills the products
      }
    }
  }
  FARTHING_INLINE f32x8 get(int r, int v) const { return pair_sums(sum[r][2 * v], sum[r][2 * v + 1]); }
};

template <int R, int NV>
struct KeySums : PairSums<R, NV> {
  FARTHING_INLINE void start(const int32_t* offset) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < 2 * NV; ++v) this->sum[r][v] = _mm256_and_si256(_mm256_set1_epi32(offset[r]), _mm256_set1_epi64x(0xffffffff));
  }
  FARTHING_INLINE void add(const uint8_t* const* keys, int64_t at, const QueryCode* q, int64_t head_dim) {
    __m256i x[2 * NV];
#pragma GCC unroll 4
    for (int v = 0; v < 2 * NV; ++v) x[v] = _mm256_cvtepu8_epi16(load16(keys[v / 2] + at + 16 * (v % 2)));
    PairSums<R, NV>::add(x, q, head_dim);
  }
};

template <int R, int NV>
struct ValueSums : PairSums<R, NV> {
  FARTHING_INLINE void start() {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < 2 * NV; ++v) this->sum[r][v] = _mm256_setzero_si256();
  }
  FARTHING_INLINE void add(const uint8_t* values, const uint8_t* weights) {
    __m256i x[2 * NV];
#pragma GCC unroll 4
    for (int v = 0; v < 2 * NV; ++v) x[v] = _mm256_cvtepi8_epi16(load16(values + 16 * v));
    PairSums<R, NV>::add(x, reinterpret_cast<const int16_t*>(weights), kSegment);
  }
};
FARTHING_INLINE const uint8_t* weights_at(const uint8_t* row, int64_t token) { return row + 2 * token; }

#else

template <int R, int NV>
struct LaneSums {
  i32x8 sum[R][NV];
  template <bool kIsSigned>
  FARTHING_INLINE void add(const uint8_t* codes, int v, const int16_t* fours, int64_t stride) {
    i32x8 word;
    memcpy(&word, codes, 32);
    for (int i = 0; i < 4; ++i) {
      const i32x8 x = kIsSigned ? word << (24 - 8 * i) >> 24 : (word >> (8 * i)) & 255;
      for (int r = 0; r < R; ++r) sum[r][v] += x * fours[r * stride + i];
    }
  }
  FARTHING_INLINE f32x8 get(int r, int v) const { return __builtin_convertvector(sum[r][v], f32x8); }
};

template <int R, int NV>
struct KeySums : LaneSums<R, NV> {
  FARTHING_INLINE void start(const int32_t* offset) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < NV; ++v) this->sum[r][v] = i32x8{} + offset[r];
  }
  FARTHING_INLINE void add(const uint8_t* const* keys, int64_t at, const QueryCode* q, int64_t head_dim) {
    for (int v = 0; v < NV; ++v) LaneSums<R, NV>::template add<false>(keys[v] + at, v, q, head_dim);
  }
};

template <int R, int NV>
struct ValueSums : LaneSums<R, NV> {
  FARTHING_INLINE void start() {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < NV; ++v) this->sum[r][v] = i32x8{};
  }
  FARTHING_INLINE void add(const uint8_t* values, const uint8_t* weights) {
    for (int v = 0; v < NV; ++v)
      LaneSums<R, NV>::template add<true>(values + 32 * v, v, reinterpret_cast<const int16_t*>(weights), kSegment);
  }
};
FARTHING_INLINE const uint8_t* weights_at(const uint8_t* row, int64_t token) { return row + 2 * token; }

#endif

// ---- tiles ----------------------------------------------------------------------------------------------------------

constexpr int64_t kPieces = kCodeLanes / 8 * 2;  // of memory that look_ahead() names for a vector of lanes

// dst[r, lanes * j ..] = scores of R rows and n vectors of keys.
template <int R, int NV = kCodeVectors>
void score_codes(const RowCodes& codes, int64_t row, int64_t head_dim, const Segment& segment, int64_t j, int64_t n, float* dst,
                 const char* const* ahead) {
  for (; n >= NV; n -= NV, j += NV) {
    const uint8_t* keys[NV];
    for (int v = 0; v < NV; ++v) {
      const KeyRef& k = segment.keys[(j + v) * (kCodeLanes / 8)];
      keys[v] = reinterpret_cast<const uint8_t*>(k.head) + 4 * k.slot;
    }
    KeySums<R, NV> sums;
    sums.start(codes.query_offset + row);
    const QueryCode* q = codes.query + row * head_dim;
    const int64_t step = 4 * segment.k_page_size;
    for (int64_t d = 0; d < head_dim; d += 4) {
      sums.add(keys, d / 4 * step, q + d, head_dim);
      if (ahead && d % 8 == 0)
        for (int64_t i = 0; i < NV * kPieces; ++i) __builtin_prefetch(ahead[j * kPieces + i] + d * 8);
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < NV; ++v) {
        const f32xw scale = loadw(segment.k_scale + (j + v) * kCodeLanes) * splatw(codes.query_scale[row + r]);
        storew(dst + r * kSegment + (j + v) * kCodeLanes, sums.get(r, v) * scale);
      }
  }
  if constexpr (NV > 1) {
    if (n > 0) score_codes<R, NV / 2>(codes, row, head_dim, segment, j, n, dst, ahead);
  }
}

// s[row, key] = scaled q[row] . key, up to each row's limit; what stands beyond is undefined.
inline void scores_of_codes(const RowCodes& codes, int64_t head_dim, const Segment& segment, const Rows& rows, float* s,
                            const char* const* ahead) {
  for_row_groups<kScoreRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t n = (rows.limits[row + num - 1] + kCodeLanes - 1) / kCodeLanes;
    with_rows<kScoreRows>(num, [&](auto r) { score_codes<r>(codes, row, head_dim, segment, 0, n, s + row * kSegment, ahead); });
  });
}

// Columns [d, end) of R rows: sum of weight * value code over the first num_tokens tokens, times the row's scale.
template <int R, int NV = kCodeVectors>
void sum_values(const RowCodes& codes, int64_t row, int64_t head_dim, const Segment& segment, int64_t num_tokens, int64_t d,
                int64_t end, float* dst) {
  auto columns = [&](int64_t width) {
    ValueSums<R, NV> sums;
    sums.start();
    const uint8_t* weights = codes.weights + row * kWeightBytes;
    int64_t left = num_tokens, token = 0;
    for (const Run* run = segment.runs; left > 0; left -= run->count, ++run) {
      const uint8_t* values = reinterpret_cast<const uint8_t*>(run->head) + 4 * d;
      const int64_t n = std::min(run->count, left);
      for (int64_t i = 0; i < n; i += 4, values += 4 * head_dim) sums.add(values, weights_at(weights, token + i));
      token += run->count;
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < NV; ++v) {
        const f32xw value = sums.get(r, v) * splatw(codes.weight_scale[row + r]);
        memcpy(dst + r * head_dim + d + v * kCodeLanes, &value, static_cast<size_t>(std::min(4 * kCodeLanes, 4 * width)));
      }
  };
  for (; end - d >= NV * kCodeLanes; d += NV * kCodeLanes) columns(kCodeLanes);
  if (d == end) return;
  if constexpr (NV > 1)
    sum_values<R, NV / 2>(codes, row, head_dim, segment, num_tokens, d, end, dst);
  else
    columns(end - d);  // of 16 lanes half: the others read what follows in the page, and are dropped
}

inline void values_of_codes(const RowCodes& codes, int64_t head_dim, const Segment& segment, const Rows& rows, float* dst) {
  for_row_groups<kValueRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t n = rows.limits[row + num - 1];
    with_rows<kValueRows>(num, [&](auto r) { sum_values<r>(codes, row, head_dim, segment, n, 0, head_dim, dst + row * head_dim); });
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
#if defined(FARTHING_ISA_avx512)
  const __m512i v = reinterpret_cast<__m512i>(q);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(row + i), _mm512_cvtepi32_epi8(_mm512_srli_epi32(v, 8)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(row + kSegment + i), _mm512_cvtepi32_epi8(v));
#else
  typedef int16_t i16x8 __attribute__((vector_size(16)));
  const i16x8 half = __builtin_convertvector(q, i16x8);
  memcpy(row + 2 * i, &half, 16);
#endif
}

// From scores to softmax weights in units of the tokens' scales. max and sum go to `out` as softmax() does it.
inline void softmax_codes(const Rows& rows, const Segment& segment, float* s, const Partial& out, const RowCodes& codes) {
  const int64_t filled = (rows.limits[rows.end - 1] + kWide - 1) / kWide * kWide;
  for (int64_t row = rows.first; row < rows.end; ++row) {
    float* x = s + row * kSegment;
    const int64_t limit = rows.limits[row], seen = (limit + kWide - 1) / kWide * kWide;
    f32xw max = splatw(-__builtin_inff()), sum = {}, largest = {}, total = {};
    for_scores(x, limit, [&](int64_t, f32xw score, bool) { max = maxw(max, score); });
    const float m = max_of_w(max);
    for_scores(x, limit, [&](int64_t i, f32xw score, bool is_last) {
      const f32xw e = exp2_w(score - splatw(m));
      f32xw w = e * loadw(segment.v_scale + i);
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
