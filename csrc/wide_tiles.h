// The inner loops of integer products with AVX-512 VNNI: rows across the lanes, 16 to a panel; one instruction multiplies
// four unsigned codes of 16 rows with four signed activations and adds to 32-bit sums. The float32 arithmetic of an output
// is that of row_tiles.h, operation for operation.
//
// Two panels x 6 tokens keep 12 integer and 12 float32 sums in the 32 registers: every broadcast of activations serves two
// products, every load of weights six.
#pragma once
#include "expanded.h"
#include "product_tiles.h"

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

// One token: the whole dot product with each row of a panel, which is unpacked on the way.
template <Packed K>
__attribute__((noinline)) f32xw lone_token(const uint8_t* panel, int64_t cols, const ActivationBlock<1>* x) {
  typedef Block<K> B;
  constexpr int kSteps = 8 / B::kParts;
  f32xw acc{};
  for (int64_t b = 0; b < cols / kQuantBlock; ++b, ++x) {
    const uint8_t* const block = B::at(panel, b);
#pragma GCC unroll 9
    for (int line = 0; line < B::kBytes; line += 64) __builtin_prefetch(block + kPrefetchBytes + line);
    const auto scales = scales_of<K>(B::super(panel, b), block);
    __m512i dot[B::kParts];
    for (int part = 0; part < B::kParts; ++part)
      dot[part] = _mm512_set1_epi32(-B::kZero * (B::kParts == 1 ? x->sum[0] : x->sum16[part][0]));
    unrolled<8>([&](auto s) {
      __m512i& sum = dot[s / kSteps];
      sum = _mm512_dpbusd_epi32(sum, codes_of_step<K, decltype(s)::value>(block + B::kHeader), splat_four(x->codes[s][0]));
    });
    for (int part = 0; part < B::kParts; ++part) {
      acc = fmadd(to_floats(dot[part]), scales.scale[part] * splatw(x->scale[0]), acc);
      const float sum = B::kParts == 1 ? x->scaled_sum[0] : x->scale[0] * static_cast<float>(x->sum16[part][0]);
      if constexpr (B::kHasMinimum) acc = fmadd(scales.minimum[part], splatw(sum), acc);
    }
  }
  return acc;
}

// T tokens x P expanded panels of n blocks each: the whole dot product of token t with each row of panel p goes to row t,
// columns 16 p of the target. Not inlined, so that few pointers reach everything at fixed distances.
template <class E, int P, int T, int G>
__attribute__((noinline)) void wide_tile(const E* weights, int64_t n, int zero, const ActivationBlock<G>* x, Ahead ahead,
                                         const Target& to) {
  constexpr int kSteps = 8 / E::kParts;
  const ActivationBlock<G>* const end = x + n;
  const E* w[P];
  for (int p = 0; p < P; ++p) w[p] = weights + p * n;
  f32xw acc[T][P];
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) acc[t][p] = f32xw{};
  for (; x != end; ++x) {
    for (int64_t i = 0; i < ahead.num_lines; ++i, ahead.at += 64) __builtin_prefetch(ahead.at);
#pragma GCC unroll 2
    for (int part = 0; part < E::kParts; ++part) {
      __m512i dot[T][P];
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        const __m512i first = _mm512_set1_epi32(-zero * (E::kParts == 1 ? x->sum[t] : x->sum16[part][t]));
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) dot[t][p] = first;
      }
#pragma GCC unroll 8
      for (int s = part * kSteps; s < (part + 1) * kSteps; ++s) {
        __m512i v[P];
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) v[p] = load_codes(w[p]->codes[0][s][0]);
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) {
          const __m512i four = splat_four(x->codes[s][t]);
#pragma GCC unroll 2
          for (int p = 0; p < P; ++p) dot[t][p] = _mm512_dpbusd_epi32(dot[t][p], v[p], four);
        }
      }
      f32xw scale[P], minimum[P];
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) {
        scale[p] = loadw(w[p]->scale[part]);
        minimum[p] = loadw(w[p]->minimum[part]);
      }
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        const f32xw x_scale = splatw(x->scale[t]);
        const float sum = E::kParts == 1 ? x->scaled_sum[t] : x->scale[t] * static_cast<float>(x->sum16[part][t]);
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) {
          acc[t][p] = fmadd(to_floats(dot[t][p]), scale[p] * x_scale, acc[t][p]);
          if constexpr (E::kHasMinimum) acc[t][p] = fmadd(minimum[p], splatw(sum), acc[t][p]);
        }
      }
    }
    for (int p = 0; p < P; ++p) ++w[p];
  }
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      float* out = to.at + t * to.stride + p * kPanel;
      f32xw sum = acc[t][p];
      if (to.bias) sum = sum + loadw(to.bias + p * kPanel);
      if (to.is_added) sum = sum + loadw(out);
      storew(out, sum);
    }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
