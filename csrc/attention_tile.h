// The arithmetic of one attention tile against one segment of keys: scores, softmax, weighted sum of values, and the
// merge of two segments. Rows are (token, head) pairs that share a kv head; a row's result depends on nothing but its
// own query and keys, because every sum runs in the order of its index whatever stands beside it (law 1).
#pragma once
#include <algorithm>

#include "code_loads.h"

namespace farthing {
namespace FARTHING_ISA {

#if defined(FARTHING_HAS_AVX2) || defined(__aarch64__)
constexpr int kAccumulators = 12;  // sums kept in registers
constexpr int kMaxRows = 6;        // rows of one register tile
#else
constexpr int kAccumulators = 6;
constexpr int kMaxRows = 3;
#endif
constexpr int kSegmentVectors = kSegment / 8;

// Vectors beside each other in a register tile of R rows: a power of two.
constexpr int vectors_for(int rows) {
  int n = 1;
  while (n * 2 * rows <= kAccumulators && n < 8) n *= 2;
  return n;
}

struct KeyRef {  // eight keys
  const char* head;
  int64_t slot;
};
struct Run {  // consecutive tokens of one page
  const char* head;
  int64_t slot, count;
};
// Where a segment's keys and values lie: in pages, or unpacked into the worker's scratch.
struct Segment {
  int64_t num_keys;
  int64_t k_page_size;
  KeyRef keys[kSegmentVectors];
  int64_t num_runs;
  Run runs[kSegment / 8 + 1];
  int64_t next_bytes;  // behind each run's keys, to be fetched meanwhile: those of the next kv head, where it is next
  const char* next[kSegment / 8 + 1];
  alignas(64) float k_scale[kSegment], v_scale[kSegment];  // of codecs that have them
  alignas(64) float v_log[kSegment], v_inverse[kSegment];   // of those scales, where weights are made by them
  ValueCodes quads[kSegment / 4];                            // where the first columns of four tokens lie, as codes
};
// Rows [first, end) see keys [lows[row], limits[row]) of the segment, one at least; both do not descend. lows is null
// where all rows see it from its beginning.
struct Rows {
  int64_t first, end;
  const int32_t *limits, *lows;
  int64_t low(int64_t row) const { return lows ? lows[row] : 0; }
};
struct Partial {  // softmax over part of the keys; room for kWide rows more
  float* max;     // [rows]
  float* sum;     // [rows], of 2^(score - max)
  float* value;   // [rows, head_dim], sum of 2^(score - max) * v
};

constexpr float kLog2E = 1.44269504088896341f;  // scores are in units of log 2: queries are scaled by it

// 2^x for x <= 0 to 2e-7, exactly 1 for 0; everything below -126 counts as -126, as good as 0 beside a sum of 1 or
// more. The polynomial is a minimax fit of (2^f - 1) / f on [-1/2, 1/2], made for this file.
FARTHING_INLINE f32xw exp2_w(f32xw x) {
  const f32xw magic = splatw(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  x = maxw(x, splatw(-126.0f));
  const f32xw shifted = x + magic;
  const f32xw f = x - (shifted - magic);
  f32xw p = splatw(1.326472731307149e-3f);
  p = fmadd(p, f, splatw(9.671512991189957e-3f));
  p = fmadd(p, f, splatw(5.550733581185341e-2f));
  p = fmadd(p, f, splatw(0.24022242426872253f));
  p = fmadd(p, f, splatw(0.6931470036506653f));
  p = fmadd(p, f, splatw(1.0f));
  i32xw bits, exponent;
  memcpy(&bits, &p, sizeof bits);
  memcpy(&exponent, &shifted, sizeof exponent);
  bits = bits + (exponent << 23);  // the magic's own bits are shifted out
  memcpy(&p, &bits, sizeof p);
  return p;
}

// A mask of the first n lanes of a wide vector.
FARTHING_INLINE i32xw lanes_below(int64_t n) {
#if defined(FARTHING_ISA_avx512)
  const f32xw lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
  const f32xw lane = {0, 1, 2, 3, 4, 5, 6, 7};
#endif
  return lessw(lane, splatw(static_cast<float>(n)));
}

// acc[r][v] += a[r] * b(v) at one index of the sum.
template <int R, int NV, class B>
FARTHING_INLINE void multiply_add(f32x8 (&acc)[R][NV], const float* a, int64_t lda, B&& b) {
  if constexpr (R > NV) {
    f32x8 bs[NV];
    for (int v = 0; v < NV; ++v) bs[v] = b(v);
    for (int r = 0; r < R; ++r) {
      const f32x8 ar = splat(a[r * lda]);
      for (int v = 0; v < NV; ++v) acc[r][v] = fmadd(ar, bs[v], acc[r][v]);
    }
  } else {
    f32x8 as[R];
    for (int r = 0; r < R; ++r) as[r] = splat(a[r * lda]);
    for (int v = 0; v < NV; ++v) {
      const f32x8 bv = b(v);
      for (int r = 0; r < R; ++r) acc[r][v] = fmadd(as[r], bv, acc[r][v]);
    }
  }
}

template <int R, int NV>
FARTHING_INLINE void store_tile(const f32x8 (&acc)[R][NV], float* dst, int64_t ldd) {
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < NV; ++v) store8(dst + r * ldd + v * 8, acc[r][v]);
}

// dst[r, 8 j ..] = q[r] . keys[j], for R rows and n vectors of keys. `ahead`, if any, are two pieces of memory per
// vector that are needed soon, as large as its keys: pages lie anywhere, and the hardware's own prefetching stops at
// the end of each.
template <class C, int R, int NV = vectors_for(R)>
void score_rows(const float* q, int64_t head_dim, const KeyRef* keys, int64_t n, int64_t page_size, float* dst,
                const char* const* ahead) {
  constexpr int64_t kStep = 8 * C::kBytes;     // bytes of eight keys' column
  constexpr int64_t kColumns = 8 / C::kBytes;  // columns to a cache line
  for (; n >= NV; n -= NV, keys += NV, dst += NV * 8) {
    typename C::Keys k[NV];
    for (int v = 0; v < NV; ++v) k[v] = typename C::Keys(keys[v].head, keys[v].slot);
    f32x8 acc[R][NV] = {};
    auto column = [&](int64_t d) {
      multiply_add<R, NV>(acc, q + d, head_dim, [&](int v) { return k[v].at(d, page_size); });
    };
    if (ahead) {
      for (int64_t d = 0; d < head_dim; d += kColumns) {
        for (int v = 0; v < 2 * NV; ++v) __builtin_prefetch(ahead[v] + d * kStep);
        for (int64_t i = 0; i < kColumns; ++i) column(d + i);
      }
      ahead += 2 * NV;
    } else {
      for (int64_t d = 0; d < head_dim; ++d) column(d);
    }
    store_tile<R, NV>(acc, dst, kSegment);
  }
  if constexpr (NV > 1) {
    if (n > 0) score_rows<C, R, NV / 2>(q, head_dim, keys, n, page_size, dst, ahead);
  }
}

// dst[r, d] = sum over tokens [first, num_keys) of p[r, token] * v[token, d], for R rows and columns [d, end); where
// first is not 0, they are added to what dst holds of the tokens before.
template <class C, int R, int NV = vectors_for(R)>
void value_rows(const float* p, const Segment& segment, int64_t first, int64_t num_keys, int64_t head_dim, int64_t d,
                int64_t end, float* dst, int64_t ldd) {
  for (; end - d >= NV * 8; d += NV * 8, dst += NV * 8) {
    f32x8 acc[R][NV] = {};
    if (first > 0)
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < NV; ++v) acc[r][v] = load8(dst + r * ldd + v * 8);
    const float* pk = p;
    int64_t left = num_keys, skipped = first;
    for (const Run* run = segment.runs; left > 0; ++run) {
      const typename C::Values values(run->head, run->slot, head_dim);
      const int64_t n = run->count < left ? run->count : left;
      for (int64_t i = skipped; i < n; ++i)
        multiply_add<R, NV>(acc, pk + i, kSegment, [&](int v) { return values.at(i, d + v * 8, head_dim); });
      skipped = skipped > n ? skipped - n : 0;
      pk += n;
      left -= n;
    }
    store_tile<R, NV>(acc, dst, ldd);
  }
  if constexpr (NV > 1) {
    if (d < end) value_rows<C, R, NV / 2>(p, segment, first, num_keys, head_dim, d, end, dst, ldd);
  }
}

// Calls f(std::integral_constant<int, rows>) for 1 <= rows <= R.
template <int R, class F>
FARTHING_INLINE void with_rows(int64_t rows, F&& f) {
  if constexpr (R > 1) {
    if (rows < R) return with_rows<R - 1>(rows, f);
  }
  f(std::integral_constant<int, R>{});
}

// Calls f(j, number of vectors) for pieces of at most NV that cover n, NV a power of two.
template <int NV, class F>
FARTHING_INLINE void for_vectors(int64_t n, F&& f, int64_t j = 0) {
  for (; n >= NV; n -= NV, j += NV) f(j, std::integral_constant<int, NV>{});
  if constexpr (NV > 1) for_vectors<NV / 2>(n, f, j);
}

// Calls f(first, num) for register tiles of at most R rows, of nearly equal height, that cover the rows.
template <int R, class F>
FARTHING_INLINE void for_row_groups(const Rows& rows, F&& f) {
  const int64_t n = rows.end - rows.first, groups = (n + R - 1) / R;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = n * g / groups, end = n * (g + 1) / groups;
    f(rows.first + begin, end - begin);
  }
}

// s[row, key] = q[row] . key, up to each row's limit; what stands beyond is undefined.
template <class C>
void scores(const float* q, int64_t head_dim, const Segment& segment, const Rows& rows, float* s,
            const char* const* ahead = nullptr) {
  const int64_t num_vectors = (segment.num_keys + 7) / 8;
  const int64_t step = rows.end - rows.first <= kMaxRows ? num_vectors : 2;
  for (int64_t j = 0; j < num_vectors; j += step) {
    for_row_groups<kMaxRows>(rows, [&](int64_t row, int64_t num) {
      const int64_t visible = (rows.limits[row + num - 1] + 7) / 8 - j;
      if (visible <= 0) return;
      with_rows<kMaxRows>(num, [&](auto r) {
        score_rows<C, r>(q + row * head_dim, head_dim, segment.keys + j, visible < step ? visible : step,
                         segment.k_page_size, s + row * kSegment + j * 8, ahead ? ahead + 2 * j : nullptr);
      });
    });
  }
}

// Calls f(i, score, is_last) for a row's scores, kWide at a time; those beyond its limit are -infinity, by selection, so
// that whatever the page holds there, NaN included, does not matter.
template <class F>
FARTHING_INLINE void for_scores(const float* x, int64_t limit, F&& f) {
  const int64_t last = (limit - 1) / kWide * kWide;
  for (int64_t i = 0; i < last; i += kWide) f(i, loadw(x + i), false);
  f(last, selectw(lanes_below(limit - last), loadw(x + last), splatw(-__builtin_inff())), true);
}

// Scores before a row's first key become -infinity, so that they do not count for its largest.
inline void hide_before(float* x, int64_t low) {
  for (int64_t i = 0; i < low; ++i) x[i] = -__builtin_inff();
}

// e with zeros in the lanes before `low`, i being that of the first.
FARTHING_INLINE f32xw seen_from(int64_t low, int64_t i, f32xw e) {
  return i < low ? selectw(lanes_below(low - i), f32xw{}, e) : e;
}

// s becomes 2^(s - max) of each row's keys, and next to nothing up to a whole vector.
inline void softmax(const Rows& rows, float* s, const Partial& out) {
  for (int64_t row = rows.first; row < rows.end; ++row) {
    float* x = s + row * kSegment;
    f32xw max = splatw(-__builtin_inff()), sum = {};
    const int64_t low = rows.low(row);
    hide_before(x, low);
    for_scores(x, rows.limits[row], [&](int64_t, f32xw score, bool) { max = maxw(max, score); });
    const float m = max_of_w(max);
    for_scores(x, rows.limits[row], [&](int64_t i, f32xw score, bool) {
      const f32xw e = seen_from(low, i, exp2_w(score - splatw(m)));
      sum = sum + e;
      storew(x + i, e);
    });
    out.max[row] = m;
    out.sum[row] = sum_of_w(sum);
  }
}

// value[row] += p[row, token] * v[token], columns [d, end), for tokens [first, most) one by one and those of the rows
// [row, row + num) that see them.
template <class C>
void add_values_singly(const float* p, const Segment& segment, const Rows& rows, int64_t row, int64_t num, int64_t first,
                       int64_t most, int64_t head_dim, int64_t d, int64_t end, float* dst, int64_t ldd) {
  int64_t key = 0;
  for (const Run* run = segment.runs; key < most; key += run->count, ++run) {
    if (key + run->count <= first) continue;
    const typename C::Values v(run->head, run->slot, head_dim);
    for (int64_t i = first > key ? first - key : 0; i < run->count && key + i < most; ++i)
      for (int64_t r = row; r < row + num; ++r) {
        if (rows.limits[r] <= key + i || rows.low(r) > key + i) continue;
        for (int64_t c = d; c < end; c += 8) {
          float* out = dst + r * ldd + c - d;
          store8(out, fmadd(splat(p[r * kSegment + key + i]), v.at(i, c, head_dim), load8(out)));
        }
      }
  }
}

// Columns [d, end) of value[row] = sum of p[row, token] * v[token] over each row's own tokens. Rows of a register tile
// share the tokens that all of them see; the few that only some see come one by one, in the same order, so that
// another's token's value, infinite perhaps, cannot reach a row as 0 * inf.
template <class C>
void values(const float* p, const Segment& segment, const Rows& rows, int64_t head_dim, int64_t d, int64_t end,
            float* dst, int64_t ldd) {
  for_row_groups<kMaxRows>(rows, [&](int64_t row, int64_t num) {
    const int64_t most = rows.limits[row + num - 1];
    int64_t first = rows.low(row + num - 1), common = rows.limits[row];  // all rows of the tile see [first, common)
    if (first >= common) first = common = most;
    if (first > 0) {
      for (int64_t r = row; r < row + num; ++r)
        for (int64_t c = d; c < end; c += 8) store8(dst + r * ldd + c - d, zero8());
      add_values_singly<C>(p, segment, rows, row, num, rows.low(row), first, head_dim, d, end, dst, ldd);
    }
    if (first == most) return;
    with_rows<kMaxRows>(num, [&](auto r) {
      value_rows<C, r>(p + row * kSegment, segment, first, common, head_dim, d, end, dst + row * ldd, ldd);
    });
    add_values_singly<C>(p, segment, rows, row, num, common, most, head_dim, d, end, dst, ldd);
  });
}

// Of no keys: merging another into it gives that one. Finite, so that two of them do not make a NaN.
constexpr float kNoKeyMax = -3e38f;

inline void clear(const Partial& out, int64_t num_rows, int64_t head_dim) {
  std::fill_n(out.max, num_rows + kWide, kNoKeyMax);
  std::fill_n(out.sum, num_rows + kWide, 0.0f);
  std::fill_n(out.value, num_rows * head_dim, 0.0f);
}

// Adds the keys of `from`, which stand right of those of `into`, for rows [first, end).
inline void merge(const Partial& into, const Partial& from, int64_t first, int64_t end, int64_t head_dim) {
  float old_weight[kWide], new_weight[kWide];
  for (int64_t row = first; row < end; ++row) {
    const int64_t lane = (row - first) % kWide;
    if (lane == 0) {
      const f32xw a = loadw(into.max + row), b = loadw(from.max + row), m = maxw(a, b);
      const f32xw wa = exp2_w(a - m), wb = exp2_w(b - m);
      storew(old_weight, wa);
      storew(new_weight, wb);
      storew(into.max + row, m);
      storew(into.sum + row, fmadd(loadw(from.sum + row), wb, loadw(into.sum + row) * wa));
    }
    const f32xw wa = splatw(old_weight[lane]), wb = splatw(new_weight[lane]);
    float* a = into.value + row * head_dim;
    const float* b = from.value + row * head_dim;
    for (int64_t d = 0; d + kWide <= head_dim; d += kWide) storew(a + d, fmadd(loadw(b + d), wb, loadw(a + d) * wa));
    if (const int64_t d = head_dim - 8; head_dim % kWide != 0)
      store8(a + d, fmadd(load8(b + d), splat(new_weight[lane]), load8(a + d) * splat(old_weight[lane])));
  }
}

// The same where rows of `into` go on behind end, which must stay as they are; those of `from` need not.
inline void merge_some(const Partial& into, const Partial& from, int64_t first, int64_t end, int64_t head_dim) {
  std::fill_n(from.max + end, kWide, kNoKeyMax);  // merge() takes kWide rows at a time
  std::fill_n(from.sum + end, kWide, 0.0f);
  merge(into, from, first, end, head_dim);
}

// ---- codes whose scores know their values' scales (code_tiles.h, wide_softmax.h) ----

// log2(1 + t) / t for t in [-1/4, 1/2], a minimax fit made for this file: times t it is off by at most 2e-6.
FARTHING_INLINE f32xw log2_slope(f32xw t) {
  f32xw p = splatw(0.1196033f);
  p = fmadd(p, t, splatw(-0.24247587f));
  p = fmadd(p, t, splatw(0.29828023f));
  p = fmadd(p, t, splatw(-0.36157263f));
  p = fmadd(p, t, splatw(0.48062612f));
  p = fmadd(p, t, splatw(-0.72132777f));
  return fmadd(p, t, splatw(1.44269632f));
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

}  // namespace FARTHING_ISA
}  // namespace farthing
