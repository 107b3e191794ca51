// The inner loops of integer products with AVX-512 VNNI: rows across the lanes, 16 to a panel; one instruction multiplies
// four unsigned codes of 16 rows with four signed activations and adds to 32-bit sums. The float32 arithmetic of an output
// is that of row_tiles.h, operation for operation.
//
// Two panels x 6 tokens keep 12 integer and 12 float32 sums in the 32 registers: every broadcast of activations serves two
// products, every load of weights six. Codes are unpacked in each tile: the ports that do it are idle while others multiply
// (spreading them out first, as for expanded_tiles.h, was 7 to 20 % slower). Scales are made once per pass, so that tiles know
// only how codes lie.
#pragma once
#include "product_tiles.h"
#include "tile_weights.h"

namespace farthing {
namespace FARTHING_ISA {

// Weights that are needed next, fetched a few cache lines per block while these are multiplied.
struct Ahead {
  const uint8_t* at;
  int64_t num_lines;  // per block
};

// Where the sums of whole panels go, first token and first row: + bias, if there is one, + what is there already.
struct Target {
  float* at;
  int64_t stride;
  const float* bias;
  bool is_added;
};

FARTHING_INLINE f32xw to_floats(__m512i v) { return _mm512_cvtepi32_ps(v); }

// Of q4_words: sums that began with a token's word hold products with codes less 8 in their lower halves and eight times the
// sum of the token's codes in the upper (less 1 where the lower is negative, which is an eighth of a code).
FARTHING_INLINE void add_words(__m512i dot, __m512i words, float scale, f32xw& acc) {
  acc = fmadd(to_floats(_mm512_madd_epi16(dot, words)), splatw(scale), acc);
}

// One token: the whole dot product with each row of a panel, which is unpacked on the way.
template <Packed K>
__attribute__((noinline)) f32xw lone_token(const uint8_t* panel, int64_t cols, const ActivationBlock<1>* x) {
  typedef Block<K> B;
  constexpr int kSteps = 8 / B::kParts;
  constexpr bool kIsWords = LayoutOf<K>::kIsWords;
  f32xw acc{};
  for (int64_t b = 0; b < cols / kQuantBlock; ++b, ++x) {
    const uint8_t* const block = B::at(panel, b);
#pragma GCC unroll 9
    for (int line = 0; line < B::kBytes; line += 64) __builtin_prefetch(block + kPrefetchBytes + line);
    __m512i dot[B::kParts];
    for (int part = 0; part < B::kParts; ++part)
      dot[part] = _mm512_set1_epi32(kIsWords ? x->word[0] : -B::kZero * (B::kParts == 1 ? x->sum[0] : x->sum_of_half(part, 0)));
    unrolled<8>([&](auto s) FARTHING_INLINE_BODY {
      __m512i& sum = dot[s / kSteps];
      sum = _mm512_dpbusd_epi32(sum, codes_of_step<B::kBits, B::kShape.table, decltype(s)::value>(block + B::kHeader), splat_four(x->codes[s][0]));
    });
    if constexpr (kIsWords) {
      add_words(dot[0], load_codes(block), x->scale[0], acc);
    } else {
      const auto scales = scales_of<K>(B::super(panel, b), block);
      f32xw both{};
      unrolled<B::kParts>([&](auto part) FARTHING_INLINE_BODY {
        add_part<B::kParts, decltype(part)::value, B::kHasMinimum>(to_floats(dot[part]), scales.scale[part], scales.minimum[part],
                                                                   part_of_token<B::kParts>(x, part, 0), both, acc);
      });
    }
  }
  return kIsWords ? acc * loadw(reinterpret_cast<const float*>(panel)) : acc;
}

// T tokens x two panels: the whole dot product of token t with each row of panel p goes to row t, columns 16 p of the
// target. Not inlined, so that few pointers reach everything at fixed distances.
template <class L, int T, int G>
__attribute__((noinline)) void wide_tile(const TileWeights<L::kParts>& weights, const ActivationBlock<G>* x, Ahead ahead,
                                         const Target& to) {
  constexpr int P = 2, kSteps = 8 / L::kParts;
  const int64_t n = weights.num_blocks, other = weights.other, second = other ? n : 0;
  const __m512i minus_zero = _mm512_set1_epi32(-weights.zero);
  const uint8_t* w = weights.codes;
  const BlockScales<L::kParts>* scales = weights.scales;
  f32xw acc[T][P];
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) acc[t][p] = f32xw{};
  for (int64_t b = 0; b < n; ++b, ++x, ++scales) {
    for (int64_t i = 0; i < ahead.num_lines; ++i, ahead.at += 64) __builtin_prefetch(ahead.at);
    f32xw both[T][P];
    unrolled<L::kParts>([&](auto part) FARTHING_INLINE_BODY {
      __m512i dot[T][P];
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        __m512i first;
        if constexpr (L::kIsWords)
          first = _mm512_set1_epi32(x->word[t]);
        else if constexpr (L::kHasMinimum)
          first = _mm512_setzero_si512();
        else
          first = _mm512_mullo_epi32(_mm512_set1_epi32(L::kParts == 1 ? x->sum[t] : x->sum_of_half(part, t)), minus_zero);
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) dot[t][p] = first;
      }
      unrolled<kSteps>([&](auto j) FARTHING_INLINE_BODY {
        constexpr int s = decltype(part)::value * kSteps + decltype(j)::value;
        const __m512i v[P] = {codes_of_step<L::kBits, L::kTable, s>(w), codes_of_step<L::kBits, L::kTable, s>(w + other)};
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) {
          const __m512i four = splat_four(x->codes[s][t]);
#pragma GCC unroll 2
          for (int p = 0; p < P; ++p) dot[t][p] = _mm512_dpbusd_epi32(dot[t][p], v[p], four);
        }
      });
      if constexpr (L::kIsWords) {
        const __m512i words[P] = {load_codes(w - 4 * kPanel), load_codes(w + other - 4 * kPanel)};
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
          for (int p = 0; p < P; ++p) add_words(dot[t][p], words[p], x->scale[t], acc[t][p]);
        return;
      }
      const f32xw scale[P] = {tile_scale<L>(w, *scales, part), tile_scale<L>(w + other, scales[second], part)};
      const f32xw minimum[P] = {tile_minimum<L>(w, *scales, part), tile_minimum<L>(w + other, scales[second], part)};
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        const PartOfToken of = part_of_token<L::kParts>(x, part, t);
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p)
          add_part<L::kParts, decltype(part)::value, L::kHasMinimum>(to_floats(dot[t][p]), scale[p], minimum[p], of, both[t][p],
                                                                     acc[t][p]);
      }
    });
    w = weights.next(w, b);
  }
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      float* out = to.at + t * to.stride + p * kPanel;
      f32xw sum = L::kIsWords ? acc[t][p] * loadw(reinterpret_cast<const float*>(weights.codes - (4 + 4) * kPanel + p * other)) : acc[t][p];
      if (to.bias) sum = sum + loadw(to.bias + p * kPanel);
      if (to.is_added) sum = sum + loadw(out);
      storew(out, sum);
    }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
