// Attention directly on the codes of pages with AVX-512 VNNI, which multiplies codes of 8 bits four at a time: twice as fast
// as with the 15 bits of code_tiles.h, and as good where each scale covers little. Measured (KL divergence of the embedded
// model from float32, integer products, 2,736 tokens of windows of 512): 0.00348 with 15 bits for both, 0.00356 with 8 bits for
// queries, which are rotated as keys are, and 0.00358 with 8 bits for weights too.
//
//   scores   q, scaled and rotated, becomes codes of 8 bits with a scale per row; sum over head_dim of q code * key code
//   values   softmax weight times the token's scale, in 255ths of the largest of its granule of 64 positions. One scale for
//            all would lose the tokens behind an attention sink, which takes most of a row's weight; a granule's scale is
//            kept in logarithms, so weights of any size come out of the exponential as codes.
//
// Sums of codes are exact whatever their order, and granules begin at multiples of 64 positions, so law 1 holds by itself.
#pragma once
#include "code_loads.h"
#include "wide_softmax.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int kScoreRows = 6, kScoreVectors = 4;  // of a register tile
constexpr int kValueRows = 6, kValueVectors = 4;

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

// What values_of_codes() wants to know of a segment, whatever the rows.
template <class C>
void prepare_values(Segment& segment, const KVShape& shape) {
  find_logs(segment);
  ValueCodes* at = segment.quads;
  for (int64_t r = 0; r < segment.num_runs; ++r)
    for (int64_t quad = 0; quad < (segment.runs[r].count + 3) / 4; ++quad)
      *at++ = value_codes<C>(segment.runs[r].head, quad, 0, shape.head_dim, shape.page_size);
}

// The same quad, so many vectors of columns further on.
template <class C>
FARTHING_INLINE ValueCodes further(const ValueCodes& at, int64_t vectors) {
  if constexpr (C::kBits == 8)
    return {at.low + 4 * kCodeLanes * vectors, nullptr, 0};
  else
    return {at.low + 8 * C::kLow * vectors, at.high + 8 * vectors, 0};
}

// value[r][..] (kIsFirst: is new, else +=) scale of the granule * sum over its first num_quads quads of weight code * value
// code, for R rows and NV vectors of columns, the first `skipped` vectors further on than the quads say.
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
void sum_values(const RowCodes& codes, int64_t row, const ValueCodes* quads, const Codebook* book, int64_t num_tokens, int64_t d,
                float* value, int64_t stride) {
  for (int64_t g = 0; g * kGranule < num_tokens; ++g) {
    const auto add = g == 0 ? add_granule<C, R, NV, true> : add_granule<C, R, NV, false>;
    add(codes.weights + row * kWeightBytes + g * kGranule, codes.weight_scale + row * kGranules + g, quads + g * kGranule / 4,
        (std::min(num_tokens - g * kGranule, kGranule) + 3) / 4, d / kCodeLanes, book, value, stride);
  }
}

template <class C>
void values_of_codes(const RowCodes& codes, int64_t head_dim, const Segment& segment, const Codebook* book, const Rows& rows,
                     float* dst) {
  for (int64_t r = 0; r < segment.num_runs; ++r)
    for (int64_t line = 0; line < segment.next_bytes; line += 64) __builtin_prefetch(segment.next[r] + line);
  for_row_groups<kValueRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t n = rows.limits[row + num - 1], rest = head_dim % kCodeLanes;
    with_rows<kValueRows>(num, [&](auto r) {
      for_vectors<kValueVectors>(head_dim / kCodeLanes, [&](int64_t j, auto nv) {
        sum_values<C, r, nv>(codes, row, segment.quads, book, n, j * kCodeLanes, dst + row * head_dim + j * kCodeLanes, head_dim);
      });
      if (rest == 0) return;
      alignas(64) float last[r][kCodeLanes];  // half a vector; what it reads beyond its columns is still the page's
      sum_values<C, r, 1>(codes, row, segment.quads, book, n, head_dim - rest, last[0], kCodeLanes);
      for (int i = 0; i < r; ++i)
        memcpy(dst + (row + i + 1) * head_dim - rest, last[i], static_cast<size_t>(rest) * sizeof(float));
    });
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
