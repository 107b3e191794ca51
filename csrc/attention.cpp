// Causal attention over paged keys and values, and the writing of pages.
//
//   a tile = some tokens of one sequence x the heads that share one kv head
//
//   many tokens:  one member runs a tile over all its segments, left to right, unpacking each segment once
//   few tokens:   (kv head, segment) pairs are spread over the team, partial sums go to scratch, then one member per
//                 kv head merges them left to right; sequences whose pages of a segment are the same read it together
//
// All paths call the same functions on the same segments, so which one ran cannot be seen in the result (law 1).
#include <utility>

#include "attention_schedule.h"
#include "ops.h"

namespace farthing {
namespace FARTHING_ISA {

namespace {

constexpr int64_t kDirectRows = 2 * kMaxRows;  // up to so many rows, pages are read without unpacking
constexpr int64_t kCodeRows = 12;              // of a tile that codes are multiplied with at a time
constexpr int64_t kPanel = 16;                 // keys or columns side by side in an unpacked segment

// One member's buffers.
struct Buffers {
  float *q, *keys, *values, *scores;
  Partial total, part;
  int32_t *limits, *lows;
  RowCodes codes;
  Buffers(float* at, const Sizes& s) {
    auto take = [&](int64_t n) { return std::exchange(at, at + n); };
    q = take(s.matrix());
    keys = take(s.segment());
    values = take(s.segment());
    scores = take(s.scores());
    total = partial_at(take(s.partial()), s);
    part = partial_at(take(s.partial()), s);
    limits = reinterpret_cast<int32_t*>(take(s.column()));
    lows = reinterpret_cast<int32_t*>(take(s.column()));
    codes.query_scale = take(s.column());
    codes.query_offset = reinterpret_cast<int32_t*>(take(s.column()));
    codes.weight_scale = take(kWeightScales * s.column());
    codes.query = reinterpret_cast<uint8_t*>(take(s.query_codes()));
    codes.weights = reinterpret_cast<uint8_t*>(take(s.weights()));
  }
};

// What attention does in the way of a codec, for keys and for values: chosen once per layer.
struct KeyOps {
  int64_t bits;
  bool is_codes;
  void (*copy_scales)(const char* head, const KVShape&, int64_t slot, int64_t count, float* to);
  // `ahead`: what to fetch meanwhile; null where there are rows enough to expand a segment of floats for.
  void (*scores)(int64_t head_dim, const Segment&, const SideCodec&, const Rows&, const Buffers&, const char* const* ahead);
};
struct ValueOps {
  int64_t bits;
  bool is_codes, is_rotated;
  void (*copy_scales)(const char* head, const KVShape&, int64_t slot, int64_t count, float* to);
  void (*prepare)(Segment&, const KVShape&);  // of codes, once they are located
  // softmax, and the sum of values by it.
  void (*values)(const KVShape&, const Segment&, const SideCodec&, const Rows&, const Buffers&, const Partial& out, bool is_direct);
};

struct Job {  // one layer's attention
  const AttentionArgs& a;
  const KeyOps& k;
  const ValueOps& v;
  int64_t k_bytes, v_bytes;  // of a head
};

// The keys and values of positions [start, start + num_keys) where they lie in pages. is_next_head: this member takes the
// same positions of the next kv head afterwards.
void locate_segment(const Job& job, const Tile& tile, int64_t start, int64_t num_keys, bool is_next_head, Segment& out) {
  const AttentionArgs& a = job.a;
  const int32_t* table = a.batch.page_tables + tile.sequence->index * a.batch.max_pages;
  const char* k = static_cast<const char*>(a.layer.k) + tile.kv_head * job.k_bytes;
  const char* v = static_cast<const char*>(a.layer.v) + tile.kv_head * job.v_bytes;
  out.num_keys = num_keys;
  out.k_page_size = a.shape.page_size;
  out.next_bytes = is_next_head ? job.k_bytes : 0;
  out.num_runs = 0;
  int64_t page = start / a.shape.page_size, slot = start % a.shape.page_size;
  KeyRef* keys = out.keys;
  for (int64_t key = 0; key < num_keys; ++page, slot = 0) {
    const int64_t count = std::min(a.shape.page_size - slot, num_keys - key);
    const char* k_head = k + table[page] * a.layer.page_bytes;
    const char* v_head = v + table[page] * a.layer.page_bytes;
    for (int64_t i = 0; i < count; i += 8) *keys++ = {k_head, slot + i};
    out.next[out.num_runs] = k_head + job.k_bytes;
    out.runs[out.num_runs++] = {v_head, slot, count};
    if (is_next_head) {  // its scales are read first
      __builtin_prefetch(k_head + 2 * job.k_bytes - 64);
      __builtin_prefetch(v_head + 2 * job.v_bytes - 64);
    }
    if (job.k.is_codes) job.k.copy_scales(k_head, a.shape, slot, count, out.k_scale + key);
    if (job.v.is_codes) job.v.copy_scales(v_head, a.shape, slot, count, out.v_scale + key);
    key += count;
  }
  if (job.v.is_codes)
    job.v.prepare(out, a.shape);
  else if (job.k.is_codes)
    without_values(out);
}

// K as [panel of 16 keys][head_dim][16], V as [panel of 16 columns][256][16]: both are read in the order they lie.
template <class CK>
void unpack_keys(const Segment& from, int64_t head_dim, float* dst, Segment& to) {
  to.num_keys = from.num_keys;
  to.k_page_size = kPanel;
  const int64_t last = (from.num_keys - 1) / 8;
  for (int64_t j = 0; j <= last; j += 2, dst += kPanel * head_dim) {
    const KeyRef &a = from.keys[j], &b = from.keys[std::min(j + 1, last)];
    const typename CK::Keys low(a.head, a.slot), high(b.head, b.slot);
    for (int64_t d = 0; d < head_dim; ++d) {
      store8(dst + d * kPanel, low.at(d, from.k_page_size));
      store8(dst + d * kPanel + 8, high.at(d, from.k_page_size));
    }
    to.keys[j] = {reinterpret_cast<const char*>(dst), 0};
    to.keys[j + 1] = {reinterpret_cast<const char*>(dst), 8};
  }
}

template <class CV>
void unpack_values(const Segment& from, int64_t head_dim, float* dst) {
  for (int64_t r = 0; r < from.num_runs; ++r) {
    const Run& run = from.runs[r];
    const typename CV::Values values(run.head, run.slot, head_dim);
    for (int64_t i = 0; i < run.count; ++i, dst += kPanel)
      for (int64_t d = 0; d < head_dim; d += 8)
        store8(dst + d / kPanel * kPanel * kSegment + d % kPanel, values.at(i, d, head_dim));
  }
}

// What to fetch while a segment's keys are scored, two pieces per vector of keys: keys further on, and the values.
void look_ahead(const Job& job, const Segment& pages, const char** ahead) {
  constexpr int64_t kDistance = 8;  // vectors
  const int64_t head_dim = job.a.shape.head_dim, num_vectors = (pages.num_keys + 7) / 8;
  int64_t next = 0;
  auto add_values = [&](const Run& run) {
    for (int64_t i = 0; i < run.count; i += 8, next += 2)
      ahead[next] = run.head + (run.slot + i) * head_dim * job.v.bits / 8;
  };
  for (int64_t r = 0; r < pages.num_runs; ++r) add_values(pages.runs[r]);
  auto first_of = [&](const KeyRef& k) { return k.head + k.slot * head_dim * job.k.bits / 8; };
  for (int64_t j = 0; j < num_vectors; ++j) ahead[2 * j + 1] = first_of(pages.keys[std::min(j + kDistance, num_vectors - 1)]);
  for (int64_t i = 2 * num_vectors; i % 4; ++i) ahead[i] = ahead[0];  // read where a vector has the keys of two
  for (int64_t j = 0; j < std::min(kDistance, num_vectors); ++j)
    for (int64_t byte = 0; byte < head_dim * job.k.bits; byte += 64) __builtin_prefetch(first_of(pages.keys[j]) + byte);
}

// Codes of pages that are too small for a vector of lanes, put together.
void join_key_codes(const Segment& from, int64_t head_dim, uint8_t* dst, Segment& to) {
  to.num_keys = from.num_keys;
  to.k_page_size = kPanel;
  memcpy(to.k_scale, from.k_scale, sizeof to.k_scale);
  memcpy(to.v_log, from.v_log, sizeof to.v_log);
  const int64_t last = (from.num_keys - 1) / 8;
  for (int64_t j = 0; j <= last; j += 2, dst += kPanel * head_dim) {
    const KeyRef halves[2] = {from.keys[j], from.keys[std::min(j + 1, last)]};
    for (int64_t d = 0; d < head_dim; d += 4)
      for (int64_t i = 0; i < 2; ++i)
        memcpy(dst + d * kPanel + i * 32, halves[i].head + d * from.k_page_size + halves[i].slot * 4, 32);
    to.keys[j] = {reinterpret_cast<const char*>(dst), 0};
    to.keys[j + 1] = {reinterpret_cast<const char*>(dst), 8};
  }
}

template <class C>
void scores_of(int64_t head_dim, const Segment& pages, const SideCodec& side, const Rows& rows, const Buffers& buf,
               const char* const* ahead) {
  if constexpr (C::kIsCodes) {
    if (pages.k_page_size % kCodeLanes == 0)
      return scores_of_codes<C>(buf.codes, head_dim, pages, side.book, rows, buf.scores, ahead);
    if constexpr (C::kBits == 8) {
      Segment joined;
      join_key_codes(pages, head_dim, reinterpret_cast<uint8_t*>(buf.keys), joined);
      scores_of_codes<C>(buf.codes, head_dim, joined, nullptr, rows, buf.scores, ahead);
    }
  } else if (ahead) {
    scores<C>(buf.q, head_dim, pages, rows, buf.scores, ahead);
  } else {
    Segment unpacked;
    unpack_keys<C>(pages, head_dim, buf.keys, unpacked);
    scores<CodecF32>(buf.q, head_dim, unpacked, rows, buf.scores);
  }
}

template <class C>
void values_of(const KVShape& shape, const Segment& pages, const SideCodec& side, const Rows& rows, const Buffers& buf,
               const Partial& out, bool is_direct) {
  const int64_t head_dim = shape.head_dim;
  if constexpr (C::kIsCodes) {
    softmax_codes(rows, pages, buf.scores, out, buf.codes);
    values_of_codes<C>(buf.codes, head_dim, pages, side.book, rows, out.value);
  } else if (is_direct) {
    softmax(rows, buf.scores, out);
    values<C>(buf.scores, pages, rows, head_dim, 0, head_dim, out.value, head_dim);
  } else {
    softmax(rows, buf.scores, out);
    unpack_values<C>(pages, head_dim, buf.values);
    Segment unpacked;
    unpacked.num_runs = 1;
    for (int64_t d = 0; d < head_dim; d += kPanel) {
      unpacked.runs[0] = {reinterpret_cast<const char*>(buf.values + d * kSegment), 0, pages.num_keys};
      values<CodecF32>(buf.scores, unpacked, rows, kPanel, 0, std::min(kPanel, head_dim - d), out.value + d, head_dim);
    }
  }
}

template <class C>
constexpr auto copy_scales_of() -> decltype(KeyOps::copy_scales) {
  if constexpr (C::kIsCodes) return C::copy_scales;
  else return nullptr;
}
template <class C>
constexpr auto prepare_of() -> decltype(ValueOps::prepare) {
  if constexpr (C::kIsCodes) return prepare_values<C>;
  else return nullptr;
}
const KeyOps& key_ops(Codec codec) {
  const KeyOps* found = nullptr;
  with_codec(codec, [&](auto c) {
    using C = decltype(c);
    static constexpr KeyOps kOps{C::kBits, C::kIsCodes, copy_scales_of<C>(), scores_of<C>};
    found = &kOps;
  });
  return *found;
}
const ValueOps& value_ops(Codec codec) {
  const ValueOps* found = nullptr;
  with_codec(codec, [&](auto c) {
    using C = decltype(c);
    static constexpr ValueOps kOps{C::kBits, C::kIsCodes, C::kIsRotated, copy_scales_of<C>(), prepare_of<C>(), values_of<C>};
    found = &kOps;
  });
  return *found;
}

// Rows against the segment that `pages` shows.
void attend(const Job& job, const Segment& pages, const Rows& rows, const Buffers& buf, const Partial& out) {
  const char* ahead[2 * kSegmentVectors];
  const bool is_direct = rows.end - rows.first <= kDirectRows;
  if (is_direct) look_ahead(job, pages, ahead);
  // Of codes some rows at a time, whose scores and weights lie in one place, in the nearest cache beside the segment's codes.
  const bool are_codes = job.k.is_codes && job.v.is_codes;
  const int64_t step = are_codes ? kCodeRows : rows.end - rows.first;
  for (int64_t row = rows.first; row < rows.end; row += step) {
    const Rows some{row, std::min(row + step, rows.end), rows.limits, rows.lows};
    Buffers at = buf;
    if (are_codes) {
      at.scores -= row * kSegment;
      at.codes.weights -= row * kWeightBytes;
      at.codes.weight_scale -= row * kWeightScales;
    }
    job.k.scores(job.a.shape.head_dim, pages, job.a.layer.k_codec, some, at, is_direct ? ahead : nullptr);
    if (job.v.is_codes && !job.k.is_codes) add_value_logs(some, pages, at.scores);
    job.v.values(job.a.shape, pages, job.a.layer.v_codec, some, at, out, is_direct);
  }
}

// The rows of a tile that see any of segment number `s`.
struct Span {
  int64_t first, end;
};
Span rows_of(const AttentionArgs& a, const Tile& tile, int64_t s) {
  const int64_t group = a.num_heads / a.shape.num_kv_heads, past = s * kSegment - tile.position;
  const int64_t end = a.window ? std::min(tile.num_rows, (past + kSegment + a.window - 1) * group) : tile.num_rows;
  return {std::max<int64_t>(0, past) * group, end};
}

// One tile against segment number `s`. What stands before all windows is left out in whole pages and vectors, so that
// sums begin at the same lane, and other tiles' beginnings differ by zeros alone.
void run_segment(const Job& job, const Tile& tile, int64_t s, bool is_next_head, const Buffers& buf, const Partial& out) {
  const AttentionArgs& a = job.a;
  const int64_t group = a.num_heads / a.shape.num_kv_heads;
  const Span span = rows_of(a, tile, s);
  const int64_t unit = std::max({a.shape.page_size, kPanel, kGranule}), first_token = span.first / group;
  const int64_t skipped = std::max<int64_t>(0, first_seen(tile.position + first_token, a.window) - s * kSegment) / unit * unit;
  const int64_t start = s * kSegment + skipped, past = start - tile.position;
  Rows rows{span.first, span.end, buf.limits, nullptr};
  for (int64_t row = rows.first; row < rows.end; row += group)
    std::fill_n(buf.limits + row, group, static_cast<int32_t>(std::min(kSegment - skipped, row / group + 1 - past)));
  if (first_seen(tile.position + span.end / group - 1, a.window) > start) {
    rows.lows = buf.lows;
    for (int64_t row = rows.first; row < rows.end; row += group) {
      const int64_t low = std::max<int64_t>(0, first_seen(tile.position + row / group, a.window) - start);
      std::fill_n(buf.lows + row, group, static_cast<int32_t>(low));
    }
  }
  Segment pages;
  locate_segment(job, tile, start, buf.limits[rows.end - 1], is_next_head, pages);
  attend(job, pages, rows, buf, out);
}

// Calls f(token, head column, row) for the rows of a tile.
template <class F>
void for_tile_rows(const AttentionArgs& a, const Tile& tile, F&& f) {
  const int64_t group = a.num_heads / a.shape.num_kv_heads;
  for (int64_t row = 0; row < tile.num_rows; ++row)
    f(tile.first_token + row / group, (tile.kv_head * group + row % group) * a.shape.head_dim, row);
}

// The tile's queries at `row` and below of the buffers: as codes where keys are.
void load_queries(const Job& job, const Tile& tile, int64_t first_row, const Buffers& buf) {
  const AttentionArgs& a = job.a;
  const int64_t head_dim = a.shape.head_dim;
  const float factor = a.scale * kLog2E;
  for_tile_rows(a, tile, [&](int64_t token, int64_t column, int64_t row) {
    const float* src = a.q.data + token * a.q.stride + column;
    if (job.k.is_codes) return quantize_query(src, factor, head_dim, first_row + row, buf.codes);
    float* q = buf.q + (first_row + row) * head_dim;
    for (int64_t d = 0; d < head_dim; d += 8) store8(q + d, load8(src + d) * splat(factor));
  });
}

// The tile's results, in place, and as codes: a token's heads lie side by side.
void store_codes(const Job& job, const Tile& tile, const Partial& total) {
  const AttentionArgs& a = job.a;
  const int64_t head_dim = a.shape.head_dim, width = a.num_heads / a.shape.num_kv_heads * head_dim, first = tile.kv_head * width;
  for (int64_t row = 0; row < tile.num_rows; ++row) {
    float* const value = total.value + row * head_dim;
    const float inverse = 1.0f / total.sum[row];
    for (int64_t d = 0; d < head_dim; d += 8) store8(value + d, load8(value + d) * splat(inverse));
    if (job.v.is_rotated) hadamard(value, head_dim, value);
  }
  LinearArgs of{};
  of.num_tokens = a.batch.num_tokens;
  of.src = {total.value - tile.first_token * width - first, width, a.num_heads * head_dim};
  const int64_t end = tile.first_token + tile.num_rows * head_dim / width, g = group_size(of.num_tokens);
  for (int64_t t = tile.first_token; t < end; t += g)
    quantize(of, a.codes, t, std::min(t + g, end), first / kQuantBlock, (first + width) / kQuantBlock);
}

void store_result(const Job& job, const Tile& tile, const Partial& total) {
  const AttentionArgs& a = job.a;
  if (a.codes) return store_codes(job, tile, total);
  const int64_t head_dim = a.shape.head_dim;
  for_tile_rows(a, tile, [&](int64_t token, int64_t column, int64_t row) {
    float* dst = a.dst.data + token * a.dst.stride + column;
    const float* value = total.value + row * head_dim;
    const float inverse = 1.0f / total.sum[row];
    for (int64_t d = 0; d + kWide <= head_dim; d += kWide) storew(dst + d, loadw(value + d) * splatw(inverse));
    if (const int64_t d = head_dim - 8; head_dim % kWide != 0) store8(dst + d, load8(value + d) * splat(inverse));
    if (job.v.is_rotated) hadamard(dst, head_dim, dst);  // its own inverse
  });
}

void run_whole_tile(const Job& job, const Tile& tile, const Buffers& buf) {
  const AttentionArgs& a = job.a;
  const int64_t group = a.num_heads / a.shape.num_kv_heads;
  const int64_t last = tile.position + tile.num_rows / group - 1;
  load_queries(job, tile, 0, buf);
  if (a.window) {  // the first segment of one row need not be that of another: all begin with none
    clear(buf.total, tile.num_rows, a.shape.head_dim);
    for (int64_t s = first_seen(tile.position, a.window) / kSegment; s * kSegment <= last; ++s) {
      run_segment(job, tile, s, false, buf, buf.part);
      const Span span = rows_of(a, tile, s);
      merge_some(buf.total, buf.part, span.first, span.end, a.shape.head_dim);
    }
  } else {
    run_segment(job, tile, 0, false, buf, buf.total);
    for (int64_t s = 1; s * kSegment <= last; ++s) {
      run_segment(job, tile, s, false, buf, buf.part);
      merge(buf.total, buf.part, rows_of(a, tile, s).first, tile.num_rows, a.shape.head_dim);
    }
  }
  store_result(job, tile, buf.total);
}

// A segment that several sequences share: the rows of all of them side by side, the pages read once.
void run_shared(const Job& job, const Schedule& schedule, const Shared& shared, int64_t kv_head, bool is_next_head,
                const Buffers& buf) {
  const int64_t head_dim = job.a.shape.head_dim;
  const Rows rows{0, shared.num_rows, buf.limits, nullptr};
  std::fill_n(buf.limits, rows.end, static_cast<int32_t>(kSegment));
  int64_t row = 0;
  for (int64_t i = 0; i < shared.num_members; ++i) {
    const Tile tile = schedule.whole(schedule.member(shared, i), kv_head);
    load_queries(job, tile, row, buf);
    row += tile.num_rows;
  }
  Segment pages;
  locate_segment(job, schedule.whole(schedule.member(shared, 0), kv_head), shared.segment * kSegment, kSegment, is_next_head,
                 pages);
  attend(job, pages, rows, buf, buf.part);
  row = 0;
  for (int64_t i = 0; i < shared.num_members; ++i) {
    const Sequence& s = schedule.member(shared, i);
    const int64_t num = schedule.whole(s, kv_head).num_rows;
    const Partial out = schedule.partial_of(job.a.scratch, s, shared.segment, kv_head);
    std::copy_n(buf.part.max + row, num, out.max);
    std::copy_n(buf.part.sum + row, num, out.sum);
    std::copy_n(buf.part.value + row * head_dim, num * head_dim, out.value);
    row += num;
  }
}

void run(const Job& job, Worker& worker) {
  const AttentionArgs& a = job.a;
  const int64_t num_kv_heads = a.shape.num_kv_heads;
  const Schedule schedule(a.batch, a.shape, a.num_heads, a.window, worker.count);
  const Buffers buf(a.scratch + worker.index * schedule.tile.worker(), schedule.tile);
  auto segment_of_head = [&](const Shared& shared, int64_t kv_head, bool is_next_head) {
    if (shared.num_members > 1) return run_shared(job, schedule, shared, kv_head, is_next_head, buf);
    const Sequence& s = schedule.member(shared, 0);
    const Tile tile = schedule.whole(s, kv_head);
    load_queries(job, tile, 0, buf);
    const Partial out = schedule.partial_of(a.scratch, s, shared.segment, kv_head);
    run_segment(job, tile, shared.segment, is_next_head, buf, out);
  };
  // Where there are segments enough for all, a member takes one with all its kv heads, which lie side by side in a page.
  const int64_t num_shared = static_cast<int64_t>(schedule.shared.size());
  const int64_t heads = num_shared >= 2 * worker.count ? num_kv_heads : 1, pieces = num_kv_heads / heads;
  worker.for_each(schedule.num_whole_items + num_shared * pieces, [&](int64_t item) {
    if (item < schedule.num_whole_items) {
      run_whole_tile(job, schedule.tile_of(item), buf);
      return;
    }
    const int64_t i = item - schedule.num_whole_items, first = i % pieces * heads;
    for (int64_t h = first; h < first + heads; ++h)
      segment_of_head(schedule.shared[i / pieces], h, h + 1 < first + heads);
  });
  const int64_t num_split = static_cast<int64_t>(schedule.sequences.size()) - schedule.first_split;
  if (num_split == 0) return;
  worker.for_each(num_split * num_kv_heads, [&](int64_t i) {
    const Sequence& s = schedule.sequences[schedule.first_split + i / num_kv_heads];
    const Tile tile = schedule.whole(s, i % num_kv_heads);
    auto partial = [&](int64_t segment) { return schedule.partial_of(a.scratch, s, segment, tile.kv_head); };
    if (a.window) clear(buf.total, tile.num_rows, a.shape.head_dim);
    const Partial total = a.window ? buf.total : partial(0);
    for (int64_t segment = a.window ? s.first_segment : 1; segment < s.num_segments; ++segment) {
      const Span span = rows_of(a, tile, segment);
      if (a.window)
        merge_some(total, partial(segment), span.first, span.end, a.shape.head_dim);
      else
        merge(total, partial(segment), span.first, span.end, a.shape.head_dim);
    }
    store_result(job, tile, total);
  });
}

}  // namespace

void attention(const AttentionArgs& a, Worker& worker) {
  const Codec k = a.layer.k_codec.codec, v = a.layer.v_codec.codec;
  run({a, key_ops(k), value_ops(v), codec_head_bytes(k, a.shape), codec_head_bytes(v, a.shape)}, worker);
}

bool attends_to_codes(const BatchView& batch, const KVShape& shape, int64_t num_heads) {
  const int64_t group = num_heads / shape.num_kv_heads, g = group_size(batch.num_tokens);
  const bool is_whole = batch.num_tokens * group > std::max(kSplitRows, group);
  return batch.num_seqs == 1 && is_whole && tile_rows(shape.head_dim) / group >= g && group * shape.head_dim % kQuantBlock == 0;
}

int64_t attention_scratch(const BatchView& batch, const KVShape& shape, int64_t num_heads, int num_threads) {
  return Schedule(batch, shape, num_heads, 0, num_threads).scratch;
}

void store_tokens(const BatchView& batch, const KVShape& shape, const KVLayer& layer, bool is_key, View x, int64_t head,
                  int64_t first, int64_t end) {
  const SideCodec& side = is_key ? layer.k_codec : layer.v_codec;
  void (*encode)(char* head, const KVShape&, const Codebook*, int64_t slot, const float* src) = nullptr;
  with_codec(side.codec, [&](auto c) { encode = is_key ? decltype(c)::encode_k : decltype(c)::encode_v; });
  const int64_t head_dim = shape.head_dim, head_bytes = codec_head_bytes(side.codec, shape);
  char* const pages = static_cast<char*>(is_key ? layer.k : layer.v) + head * head_bytes;
  const float* mean = side.mean ? side.mean + head * head_dim : nullptr;
  alignas(32) float centred[kMostHeadDim];
  int64_t b = std::upper_bound(batch.seq_starts, batch.seq_starts + batch.num_seqs, first) - batch.seq_starts - 1;
  for (int64_t t = first; t < end; ++t) {
    while (t >= batch.seq_starts[b + 1]) ++b;
    const int64_t slot = batch.positions[t] % shape.page_size;
    char* at = pages + batch.page_tables[b * batch.max_pages + batch.positions[t] / shape.page_size] * layer.page_bytes;
    const float* const row = x.data + t * x.stride;
    for (int64_t column = 0; column < x.width; column += head_dim, at += head_bytes) {
      const float* src = row + column;
      if (mean) {
        for (int64_t d = 0; d < head_dim; d += 8) store8(centred + d, load8(src + d) - load8(mean + column + d));
        src = centred;
      }
      encode(at, shape, side.book, slot, src);
    }
  }
}

void store_kv(const BatchView& batch, const KVShape& shape, const KVLayer& layer, View k, View v, Worker& worker) {
  // Of one item: about two pages, so that members seldom write to one cache line, or less where all must have some.
  const int64_t num_tokens = std::clamp<int64_t>(batch.num_tokens / (2 * worker.count), 1, 32);
  worker.for_each_near((batch.num_tokens + num_tokens - 1) / num_tokens, [&](int64_t item) {
    const int64_t first = item * num_tokens, end = std::min(batch.num_tokens, first + num_tokens);
    store_tokens(batch, shape, layer, true, k, 0, first, end);
    store_tokens(batch, shape, layer, false, v, 0, first, end);
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
