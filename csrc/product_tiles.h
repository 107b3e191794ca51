// What the inner loops of products share, and that of float32 products.
//
// Each output is one sum in one fixed order: float32 products run through the columns one by one, integer products
// (row_tiles.h, expanded_tiles.h, wide_tiles.h) through blocks of 32. How many tokens stand in a tile never changes a bit of it.
#pragma once
#include "packed_block.h"

namespace farthing {
namespace FARTHING_ISA {

// With so few tokens the weights' memory is what is waited for. Measured: reading 4 KiB ahead takes one thread from 11 to
// 18-21 GB/s, as fast as it reads at all; two panels side by side, or 1 KiB, are slower.
constexpr int kPrefetchBytes = 4096;

// The same blocks from token `first` of the group on: whatever belongs to a token lies 4 bytes after the one before.
template <int G>
FARTHING_INLINE const ActivationBlock<G>* from_token(const ActivationBlock<G>* x, int64_t first) {
  return reinterpret_cast<const ActivationBlock<G>*>(reinterpret_cast<const uint8_t*>(x) + 4 * first);
}

// T tokens x P panels over n columns, continuing the sums in acc [T][P * kPanel].
template <int T, int P>
FARTHING_INLINE void f32_tile(const float* const* w, const float* x, int64_t stride, int64_t n, float* acc) {
  f32xw sum[T][P];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) sum[t][p] = loadw(acc + (t * P + p) * kPanel);
  for (int64_t c = 0; c < n; ++c) {
    f32xw v[P];
    for (int p = 0; p < P; ++p) v[p] = loadw(w[p] + kPanel * c);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const f32xw xt = splatw(x[t * stride + c]);
      for (int p = 0; p < P; ++p) sum[t][p] = fmadd(v[p], xt, sum[t][p]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) storew(acc + (t * P + p) * kPanel, sum[t][p]);
}

template <int P>
void f32_tiles(const float* const* w, const float* x, int64_t stride, int64_t n, int64_t num_tokens, float* acc) {
  int64_t t = 0;
  for (; t + 6 <= num_tokens; t += 6) f32_tile<6, P>(w, x + t * stride, stride, n, acc + t * P * kPanel);
  x += t * stride;
  acc += t * P * kPanel;
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
