// The inner loop of integer products with few tokens: rows across the lanes, products summed in 16 bits over a block.
#pragma once
#include "product_tiles.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int kRowTokens4 = 6, kRowTokens8 = 4;  // tokens of a tile: as many as keep all sums in 16 registers

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
      const uint8_t* w = panel + kHeader<K>;
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

}  // namespace FARTHING_ISA
}  // namespace farthing
