// How attention is cut into pieces of work, and where their scratch lies. Nothing here can change a result: segments
// are fixed, and which member runs a piece, or how many queries share it, is invisible to the arithmetic.
#pragma once
#include <algorithm>
#include <vector>

#include "products.h"
#if defined(FARTHING_ISA_avx512)
#include "wide_codes.h"
#else
#include "code_tiles.h"
#endif

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
  int64_t column() const { return round_up(rows + 16, 16); }  // merge() works on kWide rows at a time
  int64_t partial() const { return 2 * column() + matrix(); }
  int64_t query_codes() const { return round_up(rows * query_row_bytes(head_dim), 64) / 4; }
  int64_t weights() const { return rows * kWeightBytes / 4; }
  int64_t worker() const {
    return matrix() + 2 * segment() + scores() + 2 * partial() + (4 + kWeightScales) * column() + query_codes() + weights();
  }
};

inline Partial partial_at(float* at, const Sizes& s) { return {at, at + s.column(), at + 2 * s.column()}; }

struct Sequence {
  int64_t index, first_token, num_tokens, position;
  int64_t first_segment, num_segments;  // all that the tokens see any of are [first_segment, num_segments)
  bool is_split;           // its segments are items of their own; otherwise its tiles are
  int64_t tile_tokens;
  int64_t first_item, num_items;  // of one that is not split
  int64_t first_partial;   // of a split one: offset of its partials in scratch, [segments from the first][num_kv_heads]
};

// About as many tokens as are wished for a tile, at most `most`, and whole groups of activations if a group is no more.
inline int64_t whole_groups(int64_t wished, int64_t most, int64_t num_tokens) {
  const int64_t g = group_size(num_tokens);
  return most < g ? std::max<int64_t>(1, std::min(wished, most)) : std::max(g, std::min(wished, most) / g * g);
}

struct Tile {
  const Sequence* sequence;
  int64_t kv_head, first_token, position, num_rows;  // position: that of its first token
};

// One segment of split sequences that have the same pages there and see all of it; or of one alone.
struct Shared {
  int64_t segment, num_rows, first_member, num_members;
  int64_t next;  // another one of the same segment, or -1
};

// The first position that a token at `position` sees; window 0 is the whole past.
inline int64_t first_seen(int64_t position, int64_t window) {
  return window ? std::max<int64_t>(0, position - window + 1) : 0;
}

class Schedule {
 public:
  std::vector<Sequence> sequences;  // those that are not split first: their items are the long ones
  std::vector<Shared> shared;
  int64_t num_whole_items = 0, first_split = 0;
  int64_t scratch = 0;  // floats
  Sizes tile;           // of the largest tile

  // What a window leaves out is not scheduled: a schedule without one needs the most scratch.
  Schedule(const BatchView& batch, const KVShape& shape, int64_t num_heads, int64_t window, int64_t num_threads)
      : num_kv_heads_(shape.num_kv_heads), group_(num_heads / shape.num_kv_heads), window_(window) {
    tile = {round_up(std::max(tile_rows(shape.head_dim), group_), 8), shape.head_dim};
    scratch = num_threads * tile.worker();
    sequences.reserve(batch.num_seqs);
    for (const bool is_split : {false, true}) {
      if (is_split) first_split = sequences.size();
      for (int64_t b = 0; b < batch.num_seqs; ++b) add(batch, b, is_split, num_threads);
    }
    share_segments(batch, kSegment / shape.page_size);
  }

  // The sequence's partial for (segment, kv head).
  Partial partial_of(float* scratch_at, const Sequence& s, int64_t segment, int64_t kv_head) const {
    const Sizes sizes{s.num_tokens * group_, tile.head_dim};
    const int64_t place = (segment - s.first_segment) * num_kv_heads_ + kv_head;
    return partial_at(scratch_at + s.first_partial + place * sizes.partial(), sizes);
  }
  const Sequence& member(const Shared& s, int64_t i) const { return sequences[members_[s.first_member + i]]; }
  Tile whole(const Sequence& s, int64_t kv_head) const {
    return {&s, kv_head, s.first_token, s.position, s.num_tokens * group_};
  }

  // Of sequences that are not split. A kv head after the other, so that its keys and values stay in a member's cache; of its
  // tiles those with the most keys come first.
  Tile tile_of(int64_t item) const {
    const auto end = sequences.begin() + first_split;
    const Sequence& s = *std::prev(
        std::upper_bound(sequences.begin(), end, item, [](int64_t i, const Sequence& x) { return i < x.first_item; }));
    const int64_t i = item - s.first_item;
    const int64_t num_tiles = s.num_items / num_kv_heads_, skipped = (num_tiles - 1 - i % num_tiles) * s.tile_tokens;
    return {&s, i / num_tiles, s.first_token + skipped, s.position + skipped,
            std::min(s.tile_tokens, s.num_tokens - skipped) * group_};
  }

 private:
  int64_t num_kv_heads_, group_, window_;
  std::vector<int64_t> members_;  // indices of sequences, those of a Shared side by side

  void add(const BatchView& batch, int64_t b, bool is_split, int64_t num_threads) {
    Sequence s{};
    s.index = b;
    s.first_token = batch.seq_starts[b];
    s.num_tokens = batch.seq_starts[b + 1] - s.first_token;
    if (s.num_tokens == 0) return;
    s.position = batch.positions[s.first_token];
    s.num_segments = (s.position + s.num_tokens - 1) / kSegment + 1;
    s.first_segment = first_seen(s.position, window_) / kSegment;
    const int64_t num_seen = s.num_segments - s.first_segment;
    s.is_split = num_seen > 1 && s.num_tokens * group_ <= std::max(kSplitRows, group_);
    if (s.is_split != is_split) return;
    if (is_split) {
      s.first_partial = scratch;
      scratch += num_kv_heads_ * num_seen * Sizes{s.num_tokens * group_, tile.head_dim}.partial();
    } else {
      const int64_t tiles = std::max<int64_t>(1, kItemsPerThread * num_threads / num_kv_heads_);
      const int64_t fair = std::max<int64_t>((s.num_tokens + tiles - 1) / tiles, kSplitRows / group_);
      s.tile_tokens = whole_groups(fair, tile_rows(tile.head_dim) / group_, batch.num_tokens);
      s.first_item = num_whole_items;
      s.num_items = num_kv_heads_ * ((s.num_tokens + s.tile_tokens - 1) / s.tile_tokens);
      num_whole_items += s.num_items;
    }
    sequences.push_back(s);
  }

  // Puts every segment of the split sequences into a Shared: an earlier one with the same pages, or one of its own.
  void share_segments(const BatchView& batch, int64_t pages_per_segment) {
    struct Choice {
      int64_t sequence, shared;
    };
    std::vector<Choice> choices;
    std::vector<int64_t> newest;  // [segments], of each: the Shared that was made last
    for (int64_t i = first_split; i < static_cast<int64_t>(sequences.size()); ++i) {
      const Sequence& s = sequences[i];
      newest.resize(std::max<size_t>(newest.size(), static_cast<size_t>(s.num_segments)), -1);
      for (int64_t segment = s.first_segment; segment < s.num_segments; ++segment) {
        const bool is_seen_whole = (segment + 1) * kSegment <= s.position + 1 &&
                                   first_seen(s.position + s.num_tokens - 1, window_) <= segment * kSegment;
        int64_t at = is_seen_whole ? find(batch, s, newest[segment], pages_per_segment) : -1;
        if (at < 0) {
          at = shared.size();
          shared.push_back({segment, 0, i, 0, newest[segment]});  // first_member: for now the one whose pages count
          if (is_seen_whole) newest[segment] = at;
        }
        if (is_seen_whole) shared[at].num_rows += s.num_tokens * group_;
        ++shared[at].num_members;
        choices.push_back({i, at});
      }
    }
    int64_t next = 0;
    std::vector<int64_t> places;
    for (Shared& s : shared) {
      s.first_member = next;
      places.push_back(next);
      next += s.num_members;
    }
    members_.resize(choices.size());
    for (const Choice& c : choices) members_[places[c.shared]++] = c.sequence;
  }

  // Of `at` and its next ones, that with the same pages and room for the sequence's rows; -1 if there is none.
  int64_t find(const BatchView& batch, const Sequence& s, int64_t at, int64_t pages_per_segment) const {
    for (; at >= 0; at = shared[at].next) {
      const Shared& other = shared[at];
      if (other.num_rows + s.num_tokens * group_ > tile.rows) continue;
      const int64_t offset = other.segment * pages_per_segment;
      const int32_t* pages = batch.page_tables + s.index * batch.max_pages + offset;
      const int32_t* others = batch.page_tables + sequences[other.first_member].index * batch.max_pages + offset;
      if (std::equal(pages, pages + pages_per_segment, others)) return at;
    }
    return -1;
  }
};

}  // namespace FARTHING_ISA
}  // namespace farthing
