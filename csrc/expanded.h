// Weights of a panel with one code to a byte, spread out once for many tokens (expanded_tiles.h).
#pragma once
#include "packed_block.h"

namespace farthing {
namespace FARTHING_ISA {

// 32 columns of a panel. Codes [plane][8 steps][rows][4]: codes of 8 bits lie in two planes, their low and high halves,
// where products are summed in 16 bits.
template <int kMost, int parts, bool has_minimum>
struct Expanded {
  static constexpr int kPlanes = planes_of(kMost);
  static constexpr int kMostCode = kMost, kParts = parts;
  static constexpr bool kHasMinimum = has_minimum;
  uint8_t codes[kPlanes][kQuantBlock / 4][kPanel][4];
  float scale[kParts][kPanel];
  float minimum[kParts][kPanel];
};

constexpr int expanded_most(int most) { return most <= 15 ? 15 : most <= 31 ? 31 : most <= 63 ? 63 : 255; }
template <Packed K>
using ExpandedOf = Expanded<expanded_most(Block<K>::kMostCode), Block<K>::kParts, Block<K>::kHasMinimum>;

// A whole panel.
template <Packed K>
__attribute__((noinline)) void expand(const uint8_t* panel, int64_t cols, ExpandedOf<K>* out) {
  typedef Block<K> B;
  static_assert(sizeof(ExpandedOf<K>) <= kExpandedBytes, "linear_scratch() counts on it");
  for (int64_t b = 0; b < cols / kQuantBlock; ++b, ++out) {
    const uint8_t* const block = B::at(panel, b);
    for (int line = 0; line < B::kBytes; line += 64) __builtin_prefetch(block + 2048 + line);
    unrolled<8>([&](auto s) FARTHING_INLINE_BODY {
      const Codes v = codes_of_step<B::kBits, B::kShape.table, decltype(s)::value>(block + B::kHeader);
      if constexpr (ExpandedOf<K>::kPlanes == 2) {
        store_codes(out->codes[0][s][0], bits_of<0, 15>(v));
        store_codes(out->codes[1][s][0], bits_of<4, 15>(v));
      } else {
        store_codes(out->codes[0][s][0], v);
      }
    });
    const auto scales = scales_of<K>(B::super(panel, b), block);
    for (int part = 0; part < B::kParts; ++part) {
      storew(out->scale[part], scales.scale[part]);
      if constexpr (B::kHasMinimum) storew(out->minimum[part], scales.minimum[part]);
    }
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
