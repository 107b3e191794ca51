// Packed weights as the tiles for several tokens see them: codes as they lie, to be unpacked in each tile, and float32 scales
// that were made once for all tiles. So a tile depends only on how codes lie, not on how scales are kept; only those that
// take a single instruction (f16) are read where they are.
#pragma once
#include "packed_block.h"

namespace farthing {
namespace FARTHING_ISA {

template <int bits, Table table, int parts, bool has_minimum, bool is_f16, bool is_words>
struct Layout {
  static constexpr int kBits = bits, kParts = parts;
  static constexpr Table kTable = table;
  static constexpr bool kHasMinimum = has_minimum, kIsF16 = is_f16, kIsWords = is_words;
  static constexpr int kMostCode = table == Table::none ? (1 << bits) - 1 : 255;
};
template <Packed K>
using LayoutOf = Layout<Block<K>::kBits, Block<K>::kShape.table, Block<K>::kParts, Block<K>::kHasMinimum,
                        Block<K>::kShape.has_f16(), Block<K>::kShape.scaling == Scaling::words>;

template <int kParts>
struct BlockScales {
  float scale[kParts][kPanel], minimum[kParts][kPanel];
};

// One panel, or two side by side: the codes of the second `other` bytes after those of the first, scales [panel][blocks].
template <int kParts>
struct TileWeights {
  const uint8_t* codes;
  int64_t other, num_blocks, block_bytes, super_bytes;
  const BlockScales<kParts>* scales;
  int zero;

  // From the codes of block b to those of the next.
  const uint8_t* next(const uint8_t* at, int64_t b) const {
    return at + block_bytes + (b % kSuperBlocks == kSuperBlocks - 1 ? super_bytes : 0);
  }
};

// Those of one block: w are its codes, made what was made of it.
template <class L>
FARTHING_INLINE f32xw tile_scale(const uint8_t* w, const BlockScales<L::kParts>& made, int part) {
  if constexpr (L::kIsF16)
    return loadw_f16(w - (L::kHasMinimum ? 4 : 2) * kPanel);
  else
    return loadw(made.scale[part]);
}
template <class L>
FARTHING_INLINE f32xw tile_minimum(const uint8_t* w, const BlockScales<L::kParts>& made, int part) {
  if constexpr (!L::kHasMinimum)
    return f32xw{};
  else if constexpr (L::kIsF16)
    return loadw_f16(w - 2 * kPanel);
  else
    return loadw(made.minimum[part]);
}

// Scales and minima of a panel.
template <Packed K>
__attribute__((noinline)) void make_scales(const uint8_t* panel, int64_t num_blocks, BlockScales<Block<K>::kParts>* out) {
  typedef Block<K> B;
  static_assert(sizeof(*out) <= kExpandedBytes, "linear_scratch() counts on it");
  for (int64_t b = 0; b < num_blocks; ++b) {
    const uint8_t* const block = B::at(panel, b);
    for (int line = 0; line < B::kBytes; line += 64) __builtin_prefetch(block + 2048 + line);
    const auto scales = scales_of<K>(B::super(panel, b), block);
    for (int part = 0; part < B::kParts; ++part) {
      storew(out[b].scale[part], scales.scale[part]);
      storew(out[b].minimum[part], scales.minimum[part]);
    }
  }
}

// Panel p, and p + 1 beside it where num_panels is 2 (otherwise p beside itself); their scales go to scratch.
template <Packed K>
TileWeights<Block<K>::kParts> tile_weights(const PackedMatrix& m, int64_t p, int64_t num_panels, uint8_t* scratch) {
  typedef Block<K> B;
  auto* const scales = reinterpret_cast<BlockScales<B::kParts>*>(scratch);
  const int64_t num_blocks = m.cols / kQuantBlock;
  if constexpr (!LayoutOf<K>::kIsF16 && !LayoutOf<K>::kIsWords)
    for (int64_t i = 0; i < num_panels; ++i) make_scales<K>(m.panel(p + i), num_blocks, scales + i * num_blocks);
  const uint8_t* const codes = B::at(m.panel(p), 0) + B::kHeader;
  return {codes, num_panels == 2 ? m.panel_bytes : 0, num_blocks, B::kBytes, B::kSuper, scales, B::kZero};
}

}  // namespace FARTHING_ISA
}  // namespace farthing
