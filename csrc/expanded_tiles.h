// The inner loop of integer products with many tokens: of panels that were spread out to one code a byte, rows across the
// lanes. Two panels beside each other, so that a broadcast of activations serves two products and a load of weights four.
//
// Measured on Zen 3: 71 % of what multiplying and adding alone reaches, as do all shapes of tile that keep their sums in 16
// registers. With tokens across the lanes the inner loop is as fast, but what it leaves lies the wrong way round:
// transposing it took a tenth of a prompt.
#pragma once
#include "expanded.h"
#include "row_tiles.h"

namespace farthing {
namespace FARTHING_ISA {

// Tokens of a tile with two panels: as many as keep all integer sums in registers. The float32 ones stay in the first cache.
template <class E>
constexpr int kTileTokens = row_tokens(E::kMostCode) / 2;

constexpr int64_t kBlocksPerPiece = 18;  // of columns: two panels in 12 KB, a group of tokens in 11

// T tokens x P panels (`stride` blocks apart) over n blocks, continuing the sums in acc [T][P][8]. A function of its own, so
// that few registers reach everything at fixed distances.
template <class E, int T, int P, int G>
__attribute__((noinline)) void expanded_tile(const E* w, int64_t stride, const ActivationBlock<G>* x, int64_t n, int zero,
                                             float* acc) {
  constexpr int kParts = E::kParts, kSteps = 8 / kParts;
  const E* panels[2] = {w, w + stride};
  for (const E* const end = w + n; panels[0] != end; ++panels[0], ++panels[1], ++x) {
    f32x8 both[T * P];
    unrolled<kParts>([&](auto part) FARTHING_INLINE_BODY {
      Running<E::kMostCode> running[T * P];
      unrolled<kSteps>([&](auto j) FARTHING_INLINE_BODY {
        constexpr int s = decltype(part)::value * kSteps + decltype(j)::value;
        unrolled<T>([&](auto t) FARTHING_INLINE_BODY {
          const Codes four = splat_four(x->codes[s][t]);
          unrolled<P>([&](auto p) FARTHING_INLINE_BODY {
            Codes codes[E::kPlanes];
            for (int plane = 0; plane < E::kPlanes; ++plane) codes[plane] = load_codes(panels[p]->codes[plane][s][0]);
            running[t * P + p].template add<decltype(j)::value, kSteps>(codes, four);
          });
        });
      });
      unrolled<T>([&](auto t) FARTHING_INLINE_BODY {
        unrolled<P>([&](auto p) FARTHING_INLINE_BODY {
          constexpr int i = decltype(t)::value * P + decltype(p)::value;
          i32x8 dot = running[i].dot;
          if constexpr (!E::kHasMinimum) dot -= zero * (kParts == 1 ? x->sum[t] : x->sum_of_half(part, t));
          f32x8 sum = load8(acc + i * kPanel);
          const f32x8 minimum = E::kHasMinimum ? load8(panels[p]->minimum[part]) : zero8();
          add_part<kParts, decltype(part)::value, E::kHasMinimum>(to_f32(dot), load8(panels[p]->scale[part]), minimum,
                                                                  part_of_token<kParts>(x, part, t), both[i], sum);
          store8(acc + i * kPanel, sum);
        });
      });
    });
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
