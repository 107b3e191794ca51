// The inner loop of integer products with AVX-512 VNNI: rows across the lanes, 16 to a panel; one instruction multiplies
// four unsigned codes of 16 rows with four signed activations and adds to 32-bit sums. The float32 arithmetic of an output
// is that of row_tiles.h, operation for operation.
//
// Two panels x 6 tokens keep 12 integer and 12 float32 sums in the 32 registers: every broadcast of activations serves two
// products, every load of weights six.
#pragma once
#include "product_tiles.h"

namespace farthing {
namespace FARTHING_ISA {

FARTHING_INLINE __m512i splat_four(const int8_t* four) {
  int32_t v;
  memcpy(&v, four, 4);
  return _mm512_set1_epi32(v);
}

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

// T tokens x P panels: the whole dot product of token t with each row of panel p goes to row t, columns 16 p of the target.
// Not inlined, so that few pointers reach everything at fixed distances.
template <Packed K, int P, int T, int G>
__attribute__((noinline)) void wide_tile(const uint8_t* panel, int64_t panel_bytes, int64_t cols, const ActivationBlock<G>* x,
                                         Ahead ahead, const Target& to) {
  typedef Block<K> B;
  constexpr int kParts = kQuantBlock / B::kCols;  // packed blocks to one block of activations
  const ActivationBlock<G>* const end = x + cols / kQuantBlock;
  const uint8_t* w[P];
  for (int p = 0; p < P; ++p) w[p] = panel + p * panel_bytes;
  f32xw acc[T][P];
#pragma GCC unroll 12
  for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) acc[t][p] = f32xw{};
  for (; x != end; ++x) {
    if constexpr (G > 1) {
      for (int64_t i = 0; i < ahead.num_lines; ++i, ahead.at += 64) __builtin_prefetch(ahead.at);
    }
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part) {
      const int8_t* codes = x->codes[part * B::kCols / 4][0];
      __m512i dot[T][P];
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t)
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) dot[t][p] = _mm512_setzero_si512();
      auto step = [&](int s, const __m512i* v) {
#pragma GCC unroll 12
        for (int t = 0; t < T; ++t) {
          const __m512i four = splat_four(codes + 4 * (s * G + t));
#pragma GCC unroll 2
          for (int p = 0; p < P; ++p) dot[t][p] = _mm512_dpbusd_epi32(dot[t][p], v[p], four);
        }
      };
      constexpr int kVectors = B::kCols * B::kBits / 32;
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) {
        __m512i v[P], high[P];
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) {
          v[p] = _mm512_loadu_si512(w[p] + kHeader<K> + 64 * j);
          if constexpr (G == 1) __builtin_prefetch(w[p] + kPrefetchBytes + 64 * j);
          if constexpr (B::kBits == 4) {
            high[p] = _mm512_and_si512(_mm512_srli_epi16(v[p], 4), _mm512_set1_epi8(15));
            v[p] = _mm512_and_si512(v[p], _mm512_set1_epi8(15));
          }
        }
        step(j, v);
        if constexpr (B::kBits == 4) step(j + 4, high);
      }
      f32xw scale[P], minimum[P];
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) {
        scale[p] = block_scale<K>(w[p]);
        minimum[p] = block_minimum<K>(w[p]);
        w[p] += kBlockBytes<K>;
      }
#pragma GCC unroll 12
      for (int t = 0; t < T; ++t) {
        const f32xw x_scale = splatw(x->scale[t]);
        const float sum = kParts == 1 ? x->scaled_sum[t] : x->scale[t] * static_cast<float>(x->sum16[part][t]);
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) {
          __m512i d = dot[t][p];
          if constexpr (B::kZero != 0)
            d = _mm512_sub_epi32(d, _mm512_set1_epi32(B::kZero * (kParts == 1 ? x->sum[t] : x->sum16[part][t])));
          acc[t][p] = fmadd(_mm512_cvtepi32_ps(d), scale[p] * x_scale, acc[t][p]);
          if constexpr (B::kHasMinimum) acc[t][p] = fmadd(minimum[p], splatw(sum), acc[t][p]);
        }
      }
    }
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
