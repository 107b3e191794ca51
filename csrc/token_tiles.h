// The inner loop of integer products with many tokens: tokens across the lanes, weights broadcast.
//
// One broadcast of four weights serves 2 or 3 vectors of 8 tokens, and activations come from memory within the product's
// own instruction: 140 instructions for 24 tokens x 2 rows x 32 columns, where rows across the lanes take 204. The
// arithmetic of one output is the same, operation for operation (law 1).
#pragma once
#include "packed_block.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int kLanes = 8;  // tokens of a vector
typedef ActivationBlock<kLanes> TokenBlock;

// 32 columns of a panel with one code to a byte: codes [4-bit: 1, 8-bit: 2 planes][8 steps][8 rows][4], then the scales
// and minima of its 8 rows for each packed block.
template <Packed K>
struct Expanded {
  typedef Block<K> B;
  static constexpr int kParts = kQuantBlock / B::kCols;
  static constexpr int kPlanes = B::kBits / 4;  // low and high halves of codes of 8 bits
  uint8_t codes[kPlanes][kQuantBlock / 4][kPanel][4];
  float scale[kParts][kPanel];
  float minimum[kParts][kPanel];
};

template <Packed K>
inline void expand(const uint8_t* panel, int64_t cols, Expanded<K>* out) {
  typedef Block<K> B;
  static_assert(sizeof(Expanded<K>) <= kExpandedBytes, "linear_scratch() counts on it");
  for (int64_t b = 0; b < cols / kQuantBlock; ++b, ++out)
    for (int part = 0; part < Expanded<K>::kParts; ++part, panel += kBlockBytes<K>) {
      const uint8_t* w = panel + kHeader<K>;
      for (int line = 0; line < kBlockBytes<K>; line += 64) __builtin_prefetch(panel + 2048 + line);
      for (int j = 0; j < B::kCols * B::kBits / 32; ++j) {
        const Codes32 v = load_codes(w + 32 * j);
        if constexpr (B::kBits == 4) {
          store_codes(out->codes[0][j][0], low_half(v));
          store_codes(out->codes[0][j + 4][0], high_half(v));
        } else {
          store_codes(out->codes[0][part * B::kCols / 4 + j][0], low_half(v));
          store_codes(out->codes[1][part * B::kCols / 4 + j][0], high_half(v));
        }
      }
      store8(out->scale[part], block_scale<K>(panel));
      store8(out->minimum[part], block_minimum<K>(panel));
    }
}

// The same from row `row` on: codes, scales and minima of a row all lie 4 bytes after those of the row before.
template <Packed K>
FARTHING_INLINE const Expanded<K>* from_row(const Expanded<K>* w, int row) {
  return reinterpret_cast<const Expanded<K>*>(reinterpret_cast<const uint8_t*>(w) + 4 * row);
}

// The first R rows of w times V vectors of tokens over n blocks, continuing the sums in acc [R][V * 8]. A function of its
// own, so that one register per stream reaches everything at fixed distances: inlined, gcc kept 16 pointers on the stack.
template <Packed K, int R, int V>
__attribute__((noinline)) void token_tile(const Expanded<K>* w, const TokenBlock* const* groups, int64_t n, bool is_first,
                                          float* acc) {
  typedef Block<K> B;
  constexpr int kParts = Expanded<K>::kParts, kSteps = B::kCols / 4;
  f32x8 sum[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = is_first ? zero8() : load8(acc + (r * V + v) * kLanes);
  const TokenBlock* x[V];
  for (int v = 0; v < V; ++v) x[v] = groups[v];
  for (int64_t b = 0; b < n; ++b, ++w) {
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      Sums16 low[R][V], high[R][V];
#pragma GCC unroll 8
      for (int j = 0; j < kSteps; ++j) {
        const int step = part * kSteps + j;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const Codes32 a = splat4(w->codes[0][step][r]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) {
            const Sums16 product = dot32(a, x[v]->codes[step][0]);
            if (j == 0)
              low[r][v] = product;
            else
              add16(low[r][v], product);
          }
          if constexpr (B::kBits == 8) {
            const Codes32 c = splat4(w->codes[Expanded<K>::kPlanes - 1][step][r]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
              const Sums16 product = dot32(c, x[v]->codes[step][0]);
              if (j == 0)
                high[r][v] = product;
              else
                add16(high[r][v], product);
            }
          }
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const f32x8 scale = splat(w->scale[part][r]);
        const f32x8 minimum = splat(w->minimum[part][r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          i32x8 dot = widen<1>(low[r][v]);
          if constexpr (B::kBits == 8) dot += widen<16>(high[r][v]);
          if constexpr (B::kZero != 0) {
            i32x8 of_codes;
            memcpy(&of_codes, kParts == 1 ? x[v]->sum : x[v]->sum16[part], 32);
            dot -= B::kZero * of_codes;
          }
          const f32x8 x_scale = load8(x[v]->scale);
          sum[r][v] = fmadd(__builtin_convertvector(dot, f32x8), scale * x_scale, sum[r][v]);
          if constexpr (B::kHasMinimum) {
            f32x8 scaled_sum;
            if constexpr (kParts == 1) {
              scaled_sum = load8(x[v]->scaled_sum);
            } else {
              i32x8 of_codes;
              memcpy(&of_codes, x[v]->sum16[part], 32);
              scaled_sum = x_scale * __builtin_convertvector(of_codes, f32x8);
            }
            sum[r][v] = fmadd(minimum, scaled_sum, sum[r][v]);
          }
        }
      }
    }
    for (int v = 0; v < V; ++v) ++x[v];
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store8(acc + (r * V + v) * kLanes, sum[r][v]);
}

// P expanded panels times V vectors of tokens: acc [P][8 rows][V * 8]. Columns go in pieces that stay in the first-level
// cache, so that all rows share one reading of them.
template <Packed K, int V>
inline void token_tiles(const Expanded<K>* w, int64_t num_panels, const TokenBlock* const* groups, int64_t num_blocks,
                        float* acc) {
  constexpr int R = V == 1 && Block<K>::kBits == 4 ? 4 : 2;
  constexpr int64_t kPiece = 12;  // blocks: 3 vectors of tokens in 15 KB, two panels in 8
  for (int64_t b = 0; b < num_blocks; b += kPiece) {
    const int64_t n = num_blocks - b < kPiece ? num_blocks - b : kPiece;
    const TokenBlock* x[V];
    for (int v = 0; v < V; ++v) x[v] = groups[v] + b;
    for (int64_t p = 0; p < num_panels; ++p)
      for (int row = 0; row < kPanel; row += R)
        token_tile<K, R, V>(from_row(w + p * num_blocks + b, row), x, n, b == 0, acc + (p * kPanel + row) * V * kLanes);
  }
}

// Token `lane`'s 8 sums of a panel, from acc [8 rows][stride].
FARTHING_INLINE void transpose8(const float* acc, int64_t stride, f32x8* out) {
  f32x8 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = load8(acc + i * stride);
  for (int i = 0; i < 8; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      a[i + j] = __builtin_shufflevector(b[i + j], b[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      a[i + j + 2] = __builtin_shufflevector(b[i + j], b[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 4; ++i) {
    out[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    out[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
