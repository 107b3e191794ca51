// The inner loop of integer products with many tokens: tokens across the lanes, weights broadcast.
//
// One broadcast of four weights serves 2 or 3 vectors of 8 tokens, and activations come from memory within the product's
// own instruction: 140 instructions for 24 tokens x 2 rows x 32 columns, where rows across the lanes take 204. The
// arithmetic of one output is the same, operation for operation (law 1).
#pragma once
#include "expanded.h"
#include "row_tiles.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int kLanes = 8;  // tokens of a vector
typedef ActivationBlock<kLanes> TokenBlock;

// The first R rows of w times V vectors of tokens over n blocks, continuing the sums in acc [R][V * 8]. A function of its
// own, so that one register per stream reaches everything at fixed distances: inlined, gcc kept 16 pointers on the stack.
template <class E, int R, int V>
__attribute__((noinline)) void token_tile(const E* w, const TokenBlock* const* groups, int64_t n, int zero, bool is_first,
                                          float* acc) {
  constexpr int kParts = E::kParts, kSteps = 8 / kParts;
  f32x8 sum[R][V];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = is_first ? zero8() : load8(acc + (r * V + v) * kLanes);
  const TokenBlock* x[V];
  for (int v = 0; v < V; ++v) x[v] = groups[v];
  for (int64_t b = 0; b < n; ++b, ++w) {
    f32x8 both[R][V];
    unrolled<kParts>([&](auto part) FARTHING_INLINE_BODY {
      Running<E::kMostCode> running[R][V];
      unrolled<kSteps>([&](auto j) FARTHING_INLINE_BODY {
        const int s = part * kSteps + j;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          Codes codes[E::kPlanes];
          for (int plane = 0; plane < E::kPlanes; ++plane) codes[plane] = splat_four(w->codes[plane][s][r]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v)
            running[r][v].template add<decltype(j)::value, kSteps>(
                codes, load_codes(reinterpret_cast<const uint8_t*>(x[v]->codes[s][0])));
        }
      });
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const f32x8 scale = splat(w->scale[part][r]);
        const f32x8 minimum = splat(w->minimum[part][r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          i32x8 of_codes, of_first;
          memcpy(&of_codes, x[v]->sum, 32);
          memcpy(&of_first, x[v]->first_sum, 32);
          if (kParts == 2) of_codes = part == 0 ? of_first : of_codes - of_first;
          i32x8 dot = running[r][v].dot;
          if constexpr (!E::kHasMinimum) dot -= zero * of_codes;
          const PartOfToken of{load8(x[v]->scale), kParts == 1 ? load8(x[v]->scaled_sum) : to_f32(of_codes)};
          add_part<kParts, decltype(part)::value, E::kHasMinimum>(to_f32(dot), scale, minimum, of, both[r][v], sum[r][v]);
        }
      }
    });
    for (int v = 0; v < V; ++v) ++x[v];
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store8(acc + (r * V + v) * kLanes, sum[r][v]);
}

template <class E>
constexpr int kTokenVectors = row_tokens(E::kMostCode) == 6 ? 3 : 2;  // of a tile, at most

// P expanded panels times V vectors of tokens: acc [P][8 rows][V * 8]. Columns go in pieces that stay in the first-level
// cache, so that all rows share one reading of them.
template <class E, int V>
inline void token_tiles(const E* w, int64_t num_panels, const TokenBlock* const* groups, int64_t num_blocks, int zero,
                        float* acc) {
  constexpr int R = V == 1 && kTokenVectors<E> == 3 ? 4 : 2;
  constexpr int64_t kPiece = 12;  // blocks: 3 vectors of tokens in 15 KB, two panels in 8
  for (int64_t b = 0; b < num_blocks; b += kPiece) {
    const int64_t n = num_blocks - b < kPiece ? num_blocks - b : kPiece;
    const TokenBlock* x[V];
    for (int v = 0; v < V; ++v) x[v] = groups[v] + b;
    for (int64_t p = 0; p < num_panels; ++p)
      for (int row = 0; row < kPanel; row += R)
        token_tile<E, R, V>(from_row(w + p * num_blocks + b, row), x, n, zero, b == 0, acc + (p * kPanel + row) * V * kLanes);
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
