// Products of activations with packed weights, and the embedding's row look-up: how the work is cut for the team.
//
// Cuts go between panels and tokens, never through a sum, so which worker runs a part does not change a bit of it.
#include <algorithm>

#include "activations.h"
#include "block_max.h"
#include "norms.h"
#include "products.h"
#if defined(FARTHING_ISA_avx512)
#include "wide_tiles.h"
#else
#include "expanded_tiles.h"
#endif

namespace farthing {
namespace FARTHING_ISA {

namespace {

// Writes one token's sums of panel `panel` to dst columns [first + kPanel * panel, ...).
FARTHING_INLINE void write_row(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, int64_t panel,
                               int64_t token, f32xw sum) {
  float* out = a.dst.data + token * a.dst.stride + first + panel * kPanel;
  const int64_t rows = std::min(kPanel, m.rows - panel * kPanel);
  if (rows == kPanel) {
    if (bias) sum = sum + loadw(bias + panel * kPanel);
    if (a.is_added) sum = sum + loadw(out);
    storew(out, sum);
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      float v = sum[r];
      if (bias) v += bias[panel * kPanel + r];
      out[r] = a.is_added ? v + out[r] : v;
    }
  }
}

// body(n) with n, from 1 to kMost, as a constant.
template <int kMost, class F>
FARTHING_INLINE void with_count(int64_t n, F&& body) {
  unrolled<kMost>([&](auto i) {
    if (n == i + 1) body(std::integral_constant<int, decltype(i)::value + 1>());
  });
}

// Panels [begin, end) for one token, each unpacked as it is multiplied.
template <Packed K>
void lone_panels(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, const uint8_t* x, int64_t begin,
                 int64_t end, int64_t token) {
  const auto* blocks = reinterpret_cast<const ActivationBlock<1>*>(x) + token * (m.cols / kQuantBlock);
  for (int64_t p = begin; p < end; ++p) write_row(a, m, bias, first, p, token, lone_token<K>(m.panel(p), m.cols, blocks));
}

#if defined(FARTHING_ISA_avx512)

// Panel p and, where num_panels is 2, the next, for tokens [t0, t1), t0 a multiple of the group.
template <class L, int G>
void wide_panels(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first,
                 const TileWeights<L::kParts>& weights, const uint8_t* x, int64_t p, int64_t num_panels, int64_t t0, int64_t t1) {
  const ActivationBlock<G>* blocks = reinterpret_cast<const ActivationBlock<G>*>(x);
  // All tiles together fetch the next panels, each the same share. The tokens of a group are cut into tiles of equal height.
  constexpr int kRows = L::kParts == 2 ? 4 : std::min(6, G);
  const int64_t num_blocks = weights.num_blocks, num_tiles = (t1 - t0 + kRows - 1) / kRows;
  const int64_t steps = num_tiles * num_blocks, lines = (2 * m.panel_bytes / 64 + steps - 1) / steps;
  const uint8_t* const next = m.panel(p + 2);
  int64_t fetched = 0;
  for (int64_t t = t0; t < t1;) {
    const int64_t left = std::min<int64_t>(G - t % G, t1 - t), tiles = (left + kRows - 1) / kRows, n = (left + tiles - 1) / tiles;
    const Ahead ahead{next + fetched, fetched < 2 * m.panel_bytes ? lines : 0};
    fetched += num_blocks * lines * 64;
    const auto* const from = from_token(blocks + t / G * num_blocks, t % G);
    with_count<kRows>(n, [&](auto num_tokens) {
      constexpr int T = decltype(num_tokens)::value;
      if (num_panels == 2 && (p + 2) * kPanel <= m.rows) {
        float* const at = a.dst.data + t * a.dst.stride + first + p * kPanel;
        return wide_tile<L, T, G>(weights, from, ahead, {at, a.dst.stride, bias ? bias + p * kPanel : nullptr, a.is_added});
      }
      alignas(64) float sums[T][2 * kPanel];
      wide_tile<L, T, G>(weights, from, ahead, {sums[0], 2 * kPanel, nullptr, false});
      for (int i = 0; i < T; ++i)
        for (int64_t j = 0; j < num_panels; ++j) write_row(a, m, bias, first, p + j, t + i, loadw(sums[i] + j * kPanel));
    });
    t += n;
  }
}

template <Packed K>
void int8_panels(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, const uint8_t* x,
                 int64_t begin, int64_t end, int64_t t0, int64_t t1, uint8_t* scratch) {
  typedef LayoutOf<K> L;
  const int group = group_size(a.num_tokens);
  if (group == 1) return lone_panels<K>(a, m, bias, first, x, begin, end, t0);
  for (int64_t p = begin; p < end; p += 2) {
    const int64_t num_panels = std::min<int64_t>(2, end - p);
    const auto weights = tile_weights<K>(m, p, num_panels, scratch);
    if (group == 4)
      wide_panels<L, 4>(a, m, bias, first, weights, x, p, num_panels, t0, t1);
    else
      wide_panels<L, 12>(a, m, bias, first, weights, x, p, num_panels, t0, t1);
  }
}

#else

// Panel p for tokens [t0, t1), t0 a multiple of the group, rows across the lanes.
template <class L>
void row_panel(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first,
               const TileWeights<L::kParts>& weights, const uint8_t* x, int64_t p, int64_t t0, int64_t t1) {
  constexpr int G = kMostGroup, kMost = std::min(G, row_tokens(L::kMostCode));
  const ActivationBlock<G>* blocks = reinterpret_cast<const ActivationBlock<G>*>(x);
  for (int64_t t = t0; t < t1;) {
    const int64_t n = std::min<int64_t>(std::min<int64_t>(kMost, G - t % G), t1 - t);
    with_count<kMost>(n, [&](auto num_tokens) {
      constexpr int T = decltype(num_tokens)::value;
      f32x8 sums[T];
      row_tile<L, T, G>(weights, from_token(blocks + t / G * weights.num_blocks, t % G), sums);
      for (int j = 0; j < T; ++j) write_row(a, m, bias, first, p, t + j, sums[j]);
    });
    t += n;
  }
}

// Expanded panel p and, where P is 2, the next, for tokens [t0, t1), t0 a multiple of the group. Columns go in pieces that stay
// in the first-level cache while some tokens pass by.
template <class E, int P>
void expanded_panels(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, const E* weights, int zero,
                     const uint8_t* x, int64_t p, int64_t t0, int64_t t1) {
  constexpr int G = kMostGroup, kMost = kTileTokens<E>;
  constexpr int64_t kChunk = 6 * G;
  const ActivationBlock<G>* blocks = reinterpret_cast<const ActivationBlock<G>*>(x);
  const int64_t num_blocks = m.cols / kQuantBlock, pieces = (num_blocks + kBlocksPerPiece - 1) / kBlocksPerPiece;
  alignas(64) float acc[kChunk][P][kPanel];
  for (int64_t c = t0; c < t1; c += kChunk) {
    const int64_t end = std::min(t1, c + kChunk);
    memset(acc, 0, static_cast<size_t>(end - c) * sizeof acc[0]);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t b = num_blocks * piece / pieces, n = num_blocks * (piece + 1) / pieces - b;
      for (int64_t t = c; t < end; t += kMost) {
        const int64_t num = std::min<int64_t>(kMost, end - t);
        const bool is_last = piece == pieces - 1;
        if (is_last)  // where the sums will go: lines that other caches may have
          for (int64_t i = 0; i < num; ++i) __builtin_prefetch(a.dst.data + (t + i) * a.dst.stride + first + p * kPanel, 1);
        with_count<kMost>(num, [&](auto num_tokens) {
          constexpr int T = decltype(num_tokens)::value;
          expanded_tile<E, T, P, G>(weights + b, num_blocks, from_token(blocks + t / G * num_blocks + b, t % G), n, zero,
                                    acc[t - c][0]);
          if (is_last)
            for (int j = 0; j < T; ++j)
              for (int i = 0; i < P; ++i) write_row(a, m, bias, first, p + i, t + j, load8(acc[t - c + j][i]));
        });
      }
    }
  }
}

// Panels [begin, end) for tokens [t0, t1), t0 a multiple of the group.
template <Packed K>
void int8_panels(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, const uint8_t* x,
                 int64_t begin, int64_t end, int64_t t0, int64_t t1, uint8_t* scratch) {
  typedef LayoutOf<K> L;
  typedef ExpandedOf<K> E;
  if (a.num_tokens == 1) return lone_panels<K>(a, m, bias, first, x, begin, end, t0);
  if (a.num_tokens < kManyTokens) {
    for (int64_t p = begin; p < end; ++p) row_panel<L>(a, m, bias, first, tile_weights<K>(m, p, 1, scratch), x, p, t0, t1);
    return;
  }
  E* const weights = reinterpret_cast<E*>(scratch);
  const int64_t num_blocks = m.cols / kQuantBlock;
  for (int64_t p = begin; p < end; p += kPanelsPerTile) {
    const int64_t num_panels = std::min(kPanelsPerTile, end - p);
    for (int64_t i = 0; i < num_panels; ++i) expand<K>(m.panel(p + i), m.cols, weights + i * num_blocks);
    if (num_panels == 2)
      expanded_panels<E, 2>(a, m, bias, first, weights, Block<K>::kZero, x, p, t0, t1);
    else
      expanded_panels<E, 1>(a, m, bias, first, weights, Block<K>::kZero, x, p, t0, t1);
  }
}

#endif

// A pair of panels for tokens [t0, t1), t1 - t0 <= kTokensPerPass, unpacked to float32.
template <Packed K, int P>
void f32_panels(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, int64_t panel, int64_t t0,
                int64_t t1, float* scratch) {
  float* unpacked = scratch;
  float* acc = scratch + P * kPanel * kColsPerPass;
  memset(acc, 0, static_cast<size_t>((t1 - t0) * P * kPanel) * sizeof(float));
  const float* x = a.src.data + t0 * a.src.stride;
  for (int64_t c = 0; c < m.cols; c += kColsPerPass) {
    const int64_t n = std::min(kColsPerPass, m.cols - c);
    const float* w[P];
    for (int p = 0; p < P; ++p) {
      if constexpr (K == Packed::f32) {
        w[p] = reinterpret_cast<const float*>(m.panel(panel + p)) + c * kPanel;
      } else {
        w[p] = unpacked + p * kPanel * kColsPerPass;
        unpack<K>(m.panel(panel + p), c, n, unpacked + p * kPanel * kColsPerPass);
      }
    }
    f32_tiles<P>(w, x + c, a.src.stride, n, t1 - t0, acc);
  }
  for (int64_t t = t0; t < t1; ++t)
    for (int p = 0; p < P; ++p) write_row(a, m, bias, first, panel + p, t, loadw(acc + ((t - t0) * P + p) * kPanel));
}

template <class F>
FARTHING_INLINE void with_kind(Packed kind, F&& f) {
  switch (kind) {
    case Packed::f32: return f(std::integral_constant<Packed, Packed::f32>());
    case Packed::f16: return f(std::integral_constant<Packed, Packed::f16>());
    case Packed::bf16: return f(std::integral_constant<Packed, Packed::bf16>());
    case Packed::q8_0: return f(std::integral_constant<Packed, Packed::q8_0>());
    case Packed::q4_0: return f(std::integral_constant<Packed, Packed::q4_0>());
    case Packed::q4_1: return f(std::integral_constant<Packed, Packed::q4_1>());
    case Packed::q5_0: return f(std::integral_constant<Packed, Packed::q5_0>());
    case Packed::q5_1: return f(std::integral_constant<Packed, Packed::q5_1>());
    case Packed::iq4_nl: return f(std::integral_constant<Packed, Packed::iq4_nl>());
    case Packed::q4_k: return f(std::integral_constant<Packed, Packed::q4_k>());
    case Packed::q5_k: return f(std::integral_constant<Packed, Packed::q5_k>());
    case Packed::q6_k: return f(std::integral_constant<Packed, Packed::q6_k>());
    case Packed::q3_k: return f(std::integral_constant<Packed, Packed::q3_k>());
    case Packed::q2_k: return f(std::integral_constant<Packed, Packed::q2_k>());
    case Packed::tq2_0: return f(std::integral_constant<Packed, Packed::tq2_0>());
    case Packed::iq4_xs: return f(std::integral_constant<Packed, Packed::iq4_xs>());
    case Packed::q6: return f(std::integral_constant<Packed, Packed::q6>());
    case Packed::q5: return f(std::integral_constant<Packed, Packed::q5>());
    case Packed::q4: return f(std::integral_constant<Packed, Packed::q4>());
    case Packed::q3: return f(std::integral_constant<Packed, Packed::q3>());
    case Packed::q2: return f(std::integral_constant<Packed, Packed::q2>());
    case Packed::c4: return f(std::integral_constant<Packed, Packed::c4>());
    case Packed::c3: return f(std::integral_constant<Packed, Packed::c3>());
    case Packed::t2: return f(std::integral_constant<Packed, Packed::t2>());
#if defined(FARTHING_ISA_avx512)
    case Packed::q4_words: return f(std::integral_constant<Packed, Packed::q4_words>());
#else
    case Packed::q4_words: return;  // not packed here
#endif
  }
}

// Work is cut into chunks of panels of one weight; `weight` and its first dst column for a chunk's number.
struct Chunks {
  int64_t panels_per_chunk;
  const LinearArgs& a;
  int64_t count() const {
    int64_t n = 0;
    for (int i = 0; i < a.num_weights; ++i) n += (a.weights[i]->num_panels() + panels_per_chunk - 1) / panels_per_chunk;
    return n;
  }
  template <class F>
  void with(int64_t chunk, F&& f) const {
    int64_t first = 0;
    for (int i = 0; i < a.num_weights; ++i) {
      const int64_t panels = a.weights[i]->num_panels();
      const int64_t n = (panels + panels_per_chunk - 1) / panels_per_chunk;
      if (chunk < n) {
        const int64_t begin = chunk * panels_per_chunk;
        return f(*a.weights[i], a.biases[i], first, begin, std::min(begin + panels_per_chunk, panels));
      }
      chunk -= n;
      first += a.weights[i]->rows;
    }
  }
};

// Of outputs [first, end) of n, while they are still in this worker's cache.
void note_block_max(const LinearArgs& a, int64_t n, int64_t first, int64_t end, int64_t t0, int64_t t1) {
  for (int64_t t = t0; t < t1; ++t)
    find_block_max(a.dst.data + t * a.dst.stride, n, first / kLogitBlock, blocks_of(end), a.block_max + t * blocks_of(n));
}

int64_t total_panels(const LinearArgs& a) {
  int64_t n = 0;
  for (int i = 0; i < a.num_weights; ++i) n += a.weights[i]->num_panels();
  return n;
}

// quantize() of rows that are normed on the way, a few columns at a time, which stay in the first cache. Measured: 1.4 % of
// the time of a prompt, 1 % of a step of 16 sequences, for rows that are neither written nor read and a barrier less.
void quantize_normed(const LinearArgs& a, uint8_t* x, int64_t t0, int64_t t1, int64_t first, int64_t end) {
  constexpr int64_t kColumns = kBlocksPerItem * kQuantBlock;
  alignas(64) float normed[kMostGroup * kColumns];
  f32xw scales[kMostGroup];
  for (int64_t t = t0; t < t1; ++t) scales[t - t0] = norm_scale(a.src.data + t * a.src.stride, a.src.width, a.norm_eps);
  LinearArgs of = a;
  of.norm_weight = nullptr;
  for (int64_t b = first; b < end; b += kBlocksPerItem) {
    const int64_t to_block = std::min(end, b + kBlocksPerItem), c = b * kQuantBlock, n = to_block * kQuantBlock - c;
    for (int64_t t = t0; t < t1; ++t) {
      const float *from = a.src.data + t * a.src.stride + c, *weight = a.norm_weight + c;
      float* const to = normed + (t - t0) * kColumns;
      for (int64_t i = 0; i < n; i += kWide) storew(to + i, loadw(from + i) * scales[t - t0] * loadw(weight + i));
    }
    of.src = {normed - t0 * kColumns - c, kColumns, a.src.width};
    quantize(of, x, t0, t1, b, to_block);
  }
}

}  // namespace

void quantize(const LinearArgs& a, uint8_t* x, int64_t t0, int64_t t1, int64_t first, int64_t end) {
  if (a.norm_weight) return quantize_normed(a, x, t0, t1, first, end);
  const int64_t num_blocks = a.src.width / kQuantBlock, num_rows = t1 - t0;
  if (num_rows == 0) return;  // a head of no rows
  const float* rows[kMostGroup];
  for (int64_t i = 0; i < num_rows; ++i) rows[i] = a.src.data + (a.rows ? a.rows[t0 + i] : t0 + i) * a.src.stride;
  auto group = [&](auto size) {
    constexpr int G = decltype(size)::value;
    quantize_group(rows, num_rows, first, end, reinterpret_cast<ActivationBlock<G>*>(x) + t0 / G * num_blocks);
  };
  const int g = group_size(a.num_tokens);
  if (g == 1) return group(std::integral_constant<int, 1>());
  if constexpr (kSmallGroup > 1)
    if (g == kSmallGroup) return group(std::integral_constant<int, kSmallGroup>());
  group(std::integral_constant<int, kMostGroup>());
}

void multiply(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, const uint8_t* x, int64_t begin,
              int64_t end, int64_t t0, int64_t t1, uint8_t* own) {
  with_kind(m.kind, [&](auto kind) {
    constexpr Packed K = decltype(kind)::value;
    if constexpr (K >= Packed::q8_0) {
      if (x) return int8_panels<K>(a, m, bias, first, x, begin, end, t0, t1, own);
    }
    float* own_f32 = reinterpret_cast<float*>(own);
    for (int64_t s = t0; s < t1; s += kTokensPerPass) {
      const int64_t e = std::min(s + kTokensPerPass, t1);
      int64_t p = begin;
      for (; p + 2 <= end; p += 2) f32_panels<K, 2>(a, m, bias, first, p, s, e, own_f32);
      if (p < end) f32_panels<K, 1>(a, m, bias, first, p, s, e, own_f32);
    }
  });
}

void quantize_all(const LinearArgs& a, uint8_t* x, Worker& worker) {
  const int64_t num_tokens = a.num_tokens, g = group_size(num_tokens), num_blocks = a.src.width / kQuantBlock;
  const int64_t groups = (num_tokens + g - 1) / g;
  // Every piece of a group computes its norms anew: where groups are many they stay whole.
  const int64_t per_item = a.norm_weight && groups >= 4 * worker.count ? num_blocks : kBlocksPerItem;
  const int64_t pieces = (num_blocks + per_item - 1) / per_item;
  worker.for_each_near(groups * pieces, [&](int64_t i) {
    const int64_t t = i / pieces * g, first = i % pieces * per_item;
    quantize(a, x, t, std::min(num_tokens, t + g), first, std::min(num_blocks, first + per_item));
  });
}

void linear(const LinearArgs& a, Worker& worker) {
  const int64_t cols = a.weights[0]->cols, num_tokens = a.num_tokens;
  const LinearScratch sizes = linear_scratch(num_tokens, cols);
  uint8_t* own = a.scratch + sizes.shared + worker.index * a.scratch_per_worker;
  uint8_t* expanded = own + (activation_bytes(kTokensQuantizedByEach, cols) + 63) / 64 * 64;
  bool has_codes = false;
  for (int i = 0; i < a.num_weights; ++i) has_codes |= a.weights[i]->has_codes();
  const bool is_int8 = a.is_int8 && has_codes;
  const uint8_t* x = is_int8 ? a.scratch : nullptr;
  if (is_int8 && !a.is_quantized) {
    if (num_tokens <= kTokensQuantizedByEach) {
      quantize(a, own, 0, num_tokens, 0, cols / kQuantBlock);
      x = own;
    } else {
      quantize_all(a, a.scratch, worker);
    }
  }
  const int64_t per_pass = tokens_per_pass(num_tokens, cols, is_int8, worker.count);
  const int64_t passes = (num_tokens + per_pass - 1) / per_pass;
  int64_t per_chunk = panels_per_chunk(total_panels(a), num_tokens, worker.count);
  if (a.block_max) per_chunk = (per_chunk + kLogitBlock / kPanel - 1) / (kLogitBlock / kPanel) * (kLogitBlock / kPanel);  // whole blocks
  if (const int64_t unit = a.after ? a.after->unit / kPanel : 1; unit > 1) per_chunk = std::max(unit, per_chunk / unit * unit);
  const Chunks chunks{per_chunk, a};
  const int64_t n = chunks.count();
  worker.for_each_near(passes * n, [&](int64_t i) {
    const int64_t t0 = i / n * per_pass, t1 = std::min(t0 + per_pass, num_tokens);
    chunks.with(i % n, [&](const PackedMatrix& m, const float* bias, int64_t first, int64_t begin, int64_t end) {
      multiply(a, m, bias, first, x, begin, end, t0, t1, expanded);
      if (a.block_max) note_block_max(a, m.rows, begin * kPanel, std::min(end * kPanel, m.rows), t0, t1);
      if (a.after) a.after->run(a.after->context, t0, t1, first + begin * kPanel, first + end * kPanel);
    });
  });
}

void embed(const BatchView& batch, const PackedMatrix& m, float scale, View dst, Worker& worker) {
  worker.for_each_near(batch.num_tokens, [&](int64_t t) {
    const int64_t row = batch.token_ids[t];
    const uint8_t* panel = m.panel(row / kPanel);
    float* out = dst.data + t * dst.stride;
    with_kind(m.kind, [&](auto kind) {
      alignas(64) float columns[32 * kPanel];
      for (int64_t c = 0; c < m.cols; c += 32) {
        const int64_t n = std::min<int64_t>(32, m.cols - c);
        unpack<decltype(kind)::value>(panel, c, n, columns);
        for (int64_t i = 0; i < n; ++i) out[c + i] = scale * columns[i * kPanel + row % kPanel];
      }
    });
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
