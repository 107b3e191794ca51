// How attention is cut into pieces of work, and where their scratch lies. Nothing here can change a result: segments
// are fixed, and which member runs a piece, or how many queries share it, is invisible to the arithmetic.
#pragma once
#include <algorithm>
#include <vector>

#include "attention_tile.h"

namespace farthing {
namespace FARTHING_ISA {

// Rows that share one unpacking of a segment: more make it cheaper, until tile and segment no longer fit in 512 KB.
inline int64_t tile_rows(int64_t head_dim) { return std::clamp<int64_t>(12288 / head_dim, 48, 192); }
constexpr int64_t kSplitRows = 24;  // up to so many rows, segments are spread over the team
constexpr int64_t kItemsPerThread = 4;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Sizes {  // in floats, whole cache lines
  int64_t rows, head_dim;
  int64_t matrix() const { return round_up(rows * head_dim, 16); }
  int64_t segment() const { return kSegment * round_up(head_dim, 16); }
  int64_t scores() const { return rows * kSegment; }
  int64_t column() const { return round_up(rows + 8, 16); }  // merge() works on eight rows at a time
  int64_t partial() const { return 2 * column() + matrix(); }
  int64_t worker() const { return matrix() + 2 * segment() + scores() + 2 * partial() + column(); }
};

inline Partial partial_at(float* at, const Sizes& s) { return {at, at + s.column(), at + 2 * s.column()}; }

struct Sequence {
  int64_t index, first_token, num_tokens, position, num_segments;
  bool is_split;         // items are (segment, kv head); otherwise (tile, kv head)
  int64_t tile_tokens;
  int64_t first_item, num_items;
  int64_t first_partial;  // of a split sequence: offset of its partials in scratch, one per item
};

struct Tile {
  const Sequence* sequence;
  int64_t kv_head, first_token, position, num_rows;  // position: that of its first token
};

class Schedule {
 public:
  std::vector<Sequence> sequences;  // those that are not split first: their items are the long ones
  int64_t num_items = 0, first_split = 0;
  int64_t scratch = 0;  // floats
  Sizes tile;           // of the largest tile

  Schedule(const BatchView& batch, const KVShape& shape, int64_t num_heads, int64_t num_threads)
      : num_kv_heads_(shape.num_kv_heads), group_(num_heads / shape.num_kv_heads) {
    tile = {round_up(std::max(tile_rows(shape.head_dim), group_), 8), shape.head_dim};
    scratch = num_threads * tile.worker();
    sequences.reserve(batch.num_seqs);
    for (const bool is_split : {false, true}) {
      if (is_split) first_split = sequences.size();
      for (int64_t b = 0; b < batch.num_seqs; ++b) add(batch, b, is_split, num_threads);
    }
  }

  // Offset of the sequence's partial for (segment, kv head).
  int64_t partial(const Sequence& s, int64_t segment, int64_t kv_head) const {
    return s.first_partial + (segment * num_kv_heads_ + kv_head) * split_sizes(s).partial();
  }
  Sizes split_sizes(const Sequence& s) const { return {s.num_tokens * group_, tile.head_dim}; }

  const Sequence& sequence_of(int64_t item) const {
    return *std::prev(std::upper_bound(sequences.begin(), sequences.end(), item,
                                       [](int64_t i, const Sequence& s) { return i < s.first_item; }));
  }
  // Kv heads lie beside each other; the tiles with the most keys come first.
  Tile tile_of(const Sequence& s, int64_t item) const {
    const int64_t i = item - s.first_item;
    const int64_t skipped = s.is_split ? 0 : (s.num_items - 1 - i) / num_kv_heads_ * s.tile_tokens;
    return {&s, i % num_kv_heads_, s.first_token + skipped, s.position + skipped,
            std::min(s.tile_tokens, s.num_tokens - skipped) * group_};
  }
  int64_t segment_of(const Sequence& s, int64_t item) const { return (item - s.first_item) / num_kv_heads_; }

 private:
  int64_t num_kv_heads_, group_;

  void add(const BatchView& batch, int64_t b, bool is_split, int64_t num_threads) {
    Sequence s{};
    s.index = b;
    s.first_token = batch.seq_starts[b];
    s.num_tokens = batch.seq_starts[b + 1] - s.first_token;
    if (s.num_tokens == 0) return;
    s.position = batch.positions[s.first_token];
    s.num_segments = (s.position + s.num_tokens - 1) / kSegment + 1;
    s.is_split = s.num_segments > 1 && s.num_tokens * group_ <= std::max(kSplitRows, group_);
    if (s.is_split != is_split) return;
    s.first_item = num_items;
    if (is_split) {
      s.tile_tokens = s.num_tokens;
      s.num_items = num_kv_heads_ * s.num_segments;
      s.first_partial = scratch;
      scratch += s.num_items * split_sizes(s).partial();
    } else {
      const int64_t tiles = std::max<int64_t>(1, kItemsPerThread * num_threads / num_kv_heads_);
      const int64_t fair = std::max<int64_t>((s.num_tokens + tiles - 1) / tiles, kSplitRows / group_);
      s.tile_tokens = std::max<int64_t>(1, std::min<int64_t>(tile_rows(tile.head_dim) / group_, fair));
      s.num_items = num_kv_heads_ * ((s.num_tokens + s.tile_tokens - 1) / s.tile_tokens);
    }
    num_items += s.num_items;
    sequences.push_back(s);
  }
};

}  // namespace FARTHING_ISA
}  // namespace farthing
