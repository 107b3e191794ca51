// The inner loops of integer products with few tokens: rows across the lanes, products summed in 16 bits as far as that
// goes. The arithmetic of an output is the same with one token and with many, operation for operation (law 1).
#pragma once
#include "product_tiles.h"
#include "tile_weights.h"

namespace farthing {
namespace FARTHING_ISA {

// Integer sums of 8 rows: those of 16 bits that still run, and all that were widened.
template <int kMost>
struct Running {
  static constexpr int kPlanes = planes_of(kMost), kReach = steps_in_16_bits(kMost);
  Sums16 sums[kPlanes];
  i32x8 dot;

  // Step j of n in a row. Codes in one vector, or their halves in two.
  template <int j, int n>
  FARTHING_INLINE void add(const Codes* codes, Codes x) {
    for (int plane = 0; plane < kPlanes; ++plane) {
      const Sums16 product = dot_pairs(codes[plane], x);
      if constexpr (j % kReach == 0)
        sums[plane] = product;
      else
        add16(sums[plane], product);
    }
    if constexpr (j % kReach == kReach - 1 || j == n - 1) {
      i32x8 wide = widen<1>(sums[0]);
      if constexpr (kPlanes == 2) wide += widen<16>(sums[1]);
      if constexpr (j < kReach)
        dot = wide;
      else
        dot += wide;
    }
  }
};

template <int kMost>
struct Planes {
  Codes of[planes_of(kMost)];
};
template <int kMost>
FARTHING_INLINE Planes<kMost> in_planes(Codes v) {
  if constexpr (planes_of(kMost) == 2)
    return {{bits_of<0, 15>(v), bits_of<4, 15>(v)}};
  else
    return {{v}};
}

// One token: the whole dot product with each row of a panel, which is unpacked on the way.
template <Packed K>
__attribute__((noinline)) f32x8 lone_token(const uint8_t* panel, int64_t cols, const ActivationBlock<1>* x) {
  typedef Block<K> B;
  constexpr int kSteps = 8 / B::kParts;
  f32x8 acc = zero8();
  for (int64_t b = 0; b < cols / kQuantBlock; ++b, ++x) {
    const uint8_t* const block = B::at(panel, b);
#pragma GCC unroll 9
    for (int line = 0; line < B::kBytes; line += 64) __builtin_prefetch(block + kPrefetchBytes + line);
    Running<B::kMostCode> running[B::kParts];
    unrolled<8>([&](auto s) FARTHING_INLINE_BODY {
      const auto codes = in_planes<B::kMostCode>(codes_of_step<B::kBits, B::kShape.table, decltype(s)::value>(block + B::kHeader));
      running[s / kSteps].template add<s % kSteps, kSteps>(codes.of, splat_four(x->codes[s][0]));
    });
    const auto scales = scales_of<K>(B::super(panel, b), block);
    f32x8 both = zero8();
    unrolled<B::kParts>([&](auto part) FARTHING_INLINE_BODY {
      i32x8 dot = running[part].dot;
      if constexpr (B::kZero != 0) dot -= B::kZero * (B::kParts == 1 ? x->sum[0] : x->sum_of_half(part, 0));
      add_part<B::kParts, decltype(part)::value, B::kHasMinimum>(to_f32(dot), scales.scale[part], scales.minimum[part],
                                                                 part_of_token<B::kParts>(x, part, 0), both, acc);
    });
  }
  return acc;
}

// Tokens of a tile, with as many integer sums as registers hold. The float32 ones may lie in the first cache.
constexpr int row_tokens(int most_code) {
  return kIsPortable ? 2 : steps_in_16_bits(most_code) == 8 && planes_of(most_code) == 1 ? 8 : 4;
}

// T tokens x 8 rows, rows across the lanes: out[t] = the whole dot product of token t with each row of the panel. Not
// inlined, so that few pointers reach everything at fixed distances.
template <class L, int T, int G>
__attribute__((noinline)) void row_tile(const TileWeights<L::kParts>& weights, const ActivationBlock<G>* x, f32x8* out) {
  constexpr int kSteps = 8 / L::kParts;
  const uint8_t* w = weights.codes;
  const BlockScales<L::kParts>* scales = weights.scales;
  f32x8 acc[T];
  unrolled<T>([&](auto t) FARTHING_INLINE_BODY { acc[t] = zero8(); });
  for (int64_t b = 0; b < weights.num_blocks; ++b, ++x, ++scales) {
#pragma GCC unroll 9
    for (int line = 0; line < L::kBits * kPanel * 4; line += 64) __builtin_prefetch(w + kPrefetchBytes + line);
    f32x8 both[T];
    unrolled<L::kParts>([&](auto part) FARTHING_INLINE_BODY {
      Running<L::kMostCode> running[T];
      unrolled<kSteps>([&](auto j) FARTHING_INLINE_BODY {
        constexpr int s = decltype(part)::value * kSteps + decltype(j)::value;
        const auto codes = in_planes<L::kMostCode>(codes_of_step<L::kBits, L::kTable, s>(w));
        unrolled<T>([&](auto t) FARTHING_INLINE_BODY {
          running[t].template add<decltype(j)::value, kSteps>(codes.of, splat_four(x->codes[s][t]));
        });
      });
      const f32x8 scale = tile_scale<L>(w, *scales, part), minimum = tile_minimum<L>(w, *scales, part);
      unrolled<T>([&](auto t) FARTHING_INLINE_BODY {
        i32x8 dot = running[t].dot;
        if constexpr (!L::kHasMinimum) dot -= weights.zero * (L::kParts == 1 ? x->sum[t] : x->sum_of_half(part, t));
        add_part<L::kParts, decltype(part)::value, L::kHasMinimum>(to_f32(dot), scale, minimum,
                                                                   part_of_token<L::kParts>(x, part, t), both[t], acc[t]);
      });
    });
    w = weights.next(w, b);
  }
  unrolled<T>([&](auto t) FARTHING_INLINE_BODY { out[t] = acc[t]; });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
