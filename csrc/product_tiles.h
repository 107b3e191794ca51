// The inner loops of the products, rows across the lanes: a few tokens times one or two panels.
//
// Each output is one sum in one fixed order: float32 products run through the columns one by one, integer products
// through blocks of 32. How many tokens stand in a tile never changes a bit of it.
#pragma once
#include "packed_block.h"

namespace farthing {
namespace FARTHING_ISA {

// ---- integer products ----------------------------------------------------------------------------------------------

// One row of activations in 8 bits: token `at` of the group whose blocks begin at `out`.
template <int G>
inline void quantize_row(const float* x, int64_t cols, ActivationBlock<G>* out, int64_t at) {
  const f32x8 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, ties to even
  const i32x8 is_positive_mask = i32x8{} + 0x7fffffff;
  for (int64_t b = 0; b < cols / kQuantBlock; ++b, ++out) {
    const float* p = x + b * kQuantBlock;
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
    alignas(32) int8_t codes[kQuantBlock];
    pack32(q, codes);
    for (int j = 0; j < kQuantBlock / 4; ++j) memcpy(out->codes[j][at], codes + 4 * j, 4);
    int32_t sum[2];
    for (int half = 0; half < 2; ++half) {
      const i32x8 both = q[2 * half] + q[2 * half + 1];
      sum[half] = ((both[0] + both[4]) + (both[2] + both[6])) + ((both[1] + both[5]) + (both[3] + both[7]));
      out->sum16[half][at] = sum[half];
    }
    out->scale[at] = max / 127.0f;
    out->sum[at] = sum[0] + sum[1];
    out->scaled_sum[at] = out->scale[at] * static_cast<float>(sum[0] + sum[1]);
  }
}

// With so few tokens the weights' memory is what is waited for. Measured: reading 4 KiB ahead takes one thread from 11 to
// 18-21 GB/s, as fast as it reads at all; two panels side by side, or 1 KiB, are slower.
constexpr int kPrefetchBytes = 4096;
constexpr int kRowTokens4 = 6, kRowTokens8 = 4;  // tokens of a tile: as many as keep all sums in 16 registers

// The same blocks from token `first` of the group on: whatever belongs to a token lies 4 bytes after the one before.
template <int G>
FARTHING_INLINE const ActivationBlock<G>* from_token(const ActivationBlock<G>* x, int64_t first) {
  return reinterpret_cast<const ActivationBlock<G>*>(reinterpret_cast<const uint8_t*>(x) + 4 * first);
}

// T tokens x 8 rows, rows across the lanes: out[t] = the whole dot product of token t with each row of the panel. Not
// inlined, so that two pointers reach everything at fixed distances.
template <Packed K, int T, int G>
__attribute__((noinline)) void row_tile(const uint8_t* panel, int64_t cols, const ActivationBlock<G>* x, f32x8* out) {
  typedef Block<K> B;
  constexpr int kParts = kQuantBlock / B::kCols;  // packed blocks to one block of activations
  const ActivationBlock<G>* const end = x + cols / kQuantBlock;
  f32x8 acc[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) acc[t] = zero8();
  for (; x != end; ++x) {
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part, panel += kBlockBytes<K>) {
      const uint8_t* w = panel + B::kHeader;
      const int8_t* codes = x->codes[part * B::kCols / 4][0];
#pragma GCC unroll 8
      for (int line = 0; line < kBlockBytes<K>; line += 64) __builtin_prefetch(panel + kPrefetchBytes + line);
      Sums16 low[T], high[T];
      if constexpr (B::kBits == 4) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const Codes32 v = load_codes(w + 32 * j);
          const Codes32 a = low_half(v), c = high_half(v);
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) {
            const Sums16 product = dot4(a, codes + 4 * (j * G + t));
            if (j == 0)
              low[t] = product;
            else
              add16(low[t], product);
          }
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) add16(low[t], dot4(c, codes + 4 * ((j + 4) * G + t)));
        }
      } else {
#pragma GCC unroll 8
        for (int s = 0; s < B::kCols / 4; ++s) {
          const Codes32 v = load_codes(w + 32 * s);
          const Codes32 a = low_half(v), c = high_half(v);
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) {
            const int8_t* four = codes + 4 * (s * G + t);
            const Sums16 low_product = dot4(a, four), high_product = dot4(c, four);
            if (s == 0) {
              low[t] = low_product;
              high[t] = high_product;
            } else {
              add16(low[t], low_product);
              add16(high[t], high_product);
            }
          }
        }
      }
      const f32x8 scale = block_scale<K>(panel), minimum = block_minimum<K>(panel);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        i32x8 dot = widen<1>(low[t]);
        if constexpr (B::kBits == 8) dot += widen<16>(high[t]);
        if constexpr (B::kZero != 0) dot -= B::kZero * (kParts == 1 ? x->sum[t] : x->sum16[part][t]);
        acc[t] = fmadd(__builtin_convertvector(dot, f32x8), scale * splat(x->scale[t]), acc[t]);
        if constexpr (B::kHasMinimum) {
          const float sum = kParts == 1 ? x->scaled_sum[t] : x->scale[t] * static_cast<float>(x->sum16[part][t]);
          acc[t] = fmadd(minimum, splat(sum), acc[t]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) out[t] = acc[t];
}

// ---- float32 products ----------------------------------------------------------------------------------------------

// T tokens x P panels over n columns, continuing the sums in acc [T][P * 8].
template <int T, int P>
FARTHING_INLINE void f32_tile(const float* const* w, const float* x, int64_t stride, int64_t n, float* acc) {
  f32x8 sum[T][P];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) sum[t][p] = load8(acc + (t * P + p) * 8);
  for (int64_t c = 0; c < n; ++c) {
    f32x8 v[P];
    for (int p = 0; p < P; ++p) v[p] = load8(w[p] + 8 * c);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const f32x8 xt = splat(x[t * stride + c]);
      for (int p = 0; p < P; ++p) sum[t][p] = fmadd(v[p], xt, sum[t][p]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) store8(acc + (t * P + p) * 8, sum[t][p]);
}

template <int P>
void f32_tiles(const float* const* w, const float* x, int64_t stride, int64_t n, int64_t num_tokens, float* acc) {
  int64_t t = 0;
  for (; t + 6 <= num_tokens; t += 6) f32_tile<6, P>(w, x + t * stride, stride, n, acc + t * P * 8);
  x += t * stride;
  acc += t * P * 8;
  switch (num_tokens - t) {
    case 5: f32_tile<5, P>(w, x, stride, n, acc); break;
    case 4: f32_tile<4, P>(w, x, stride, n, acc); break;
    case 3: f32_tile<3, P>(w, x, stride, n, acc); break;
    case 2: f32_tile<2, P>(w, x, stride, n, acc); break;
    case 1: f32_tile<1, P>(w, x, stride, n, acc); break;
    default: break;
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
