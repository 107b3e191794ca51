// Products of activations with packed weights, and the embedding's row look-up.
//
// Each output is one sum in one fixed order: float32 products run through the columns one by one, integer products
// through blocks of 32. How many tokens stand in a tile, and which worker runs it, never changes a bit of it.
#include <algorithm>

#include "ops.h"
#include "pack.h"
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

namespace {

// ---- codes ---------------------------------------------------------------------------------------------------------

#if defined(FARTHING_ISA_avx2)

typedef __m256i Codes32;  // 32 unsigned codes: 8 rows x 4 columns
typedef __m256i Sums16;   // int16 sums of pairs of products

FARTHING_INLINE Codes32 load_codes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
FARTHING_INLINE Codes32 low_half(Codes32 v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
FARTHING_INLINE Codes32 high_half(Codes32 v) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15)); }
FARTHING_INLINE Sums16 dot4(Codes32 w, const int8_t* x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm256_maddubs_epi16(w, _mm256_set1_epi32(four));
}
// The empty asm keeps each sum in its register: gcc would otherwise reassociate the unrolled sums and spill products.
FARTHING_INLINE void add16(Sums16& sum, Sums16 v) {
  sum = _mm256_add_epi16(sum, v);
  asm volatile("" : "+x"(sum));
}
template <int kWeight>
FARTHING_INLINE i32x8 widen(Sums16 s) {
  return reinterpret_cast<i32x8>(_mm256_madd_epi16(s, _mm256_set1_epi16(kWeight)));
}

#else

typedef uint8_t Codes32 __attribute__((vector_size(32)));
typedef int16_t Sums16 __attribute__((vector_size(64)));

FARTHING_INLINE Codes32 load_codes(const uint8_t* p) {
  Codes32 v;
  memcpy(&v, p, 32);
  return v;
}
FARTHING_INLINE Codes32 low_half(Codes32 v) { return v & 15; }
FARTHING_INLINE Codes32 high_half(Codes32 v) { return v >> 4; }
FARTHING_INLINE Sums16 dot4(Codes32 w, const int8_t* x) {
  const int16_t a = x[0], b = x[1], c = x[2], d = x[3];
  const Sums16 four = {a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d};
  return __builtin_convertvector(w, Sums16) * four;
}
FARTHING_INLINE void add16(Sums16& sum, Sums16 v) { sum += v; }
template <int kWeight>
FARTHING_INLINE i32x8 widen(Sums16 s) {
  i32x8 out;
  for (int r = 0; r < 8; ++r) out[r] = (s[4 * r] + s[4 * r + 1] + s[4 * r + 2] + s[4 * r + 3]) * kWeight;
  return out;
}

#endif

FARTHING_INLINE f32x8 load8_bf16(const uint16_t* p) {
  uint16_t half[8];
  memcpy(half, p, 16);
  i32x8 bits;
  for (int i = 0; i < 8; ++i) bits[i] = static_cast<int32_t>(static_cast<uint32_t>(half[i]) << 16);
  f32x8 v;
  memcpy(&v, &bits, 32);
  return v;
}

// What a packed block looks like, for each kind with codes.
template <Packed K>
struct Block;
template <>
struct Block<Packed::q4_0> {
  static constexpr int kBits = 4, kCols = 32, kHeader = 16, kZero = 8;
  static constexpr bool kHasMinimum = false, kIsF16 = true;
};
template <>
struct Block<Packed::q4_1> {
  static constexpr int kBits = 4, kCols = 32, kHeader = 32, kZero = 0;
  static constexpr bool kHasMinimum = true, kIsF16 = true;
};
template <>
struct Block<Packed::q4_k> {
  static constexpr int kBits = 4, kCols = 32, kHeader = 64, kZero = 0;
  static constexpr bool kHasMinimum = true, kIsF16 = false;
};
template <>
struct Block<Packed::q8_0> {
  static constexpr int kBits = 8, kCols = 32, kHeader = 16, kZero = 128;
  static constexpr bool kHasMinimum = false, kIsF16 = true;
};
template <>
struct Block<Packed::q8_16> {
  static constexpr int kBits = 8, kCols = 16, kHeader = 64, kZero = 128;
  static constexpr bool kHasMinimum = true, kIsF16 = false;
};
template <Packed K>
constexpr int kBlockBytes = Block<K>::kHeader + Block<K>::kCols * Block<K>::kBits;

template <Packed K>
FARTHING_INLINE f32x8 block_scale(const uint8_t* p) {
  if constexpr (Block<K>::kIsF16)
    return load8_f16(reinterpret_cast<const uint16_t*>(p));
  else
    return load8(reinterpret_cast<const float*>(p));
}
template <Packed K>
FARTHING_INLINE f32x8 block_minimum(const uint8_t* p) {
  if constexpr (!Block<K>::kHasMinimum)
    return zero8();
  else if constexpr (Block<K>::kIsF16)
    return load8_f16(reinterpret_cast<const uint16_t*>(p + 16));
  else
    return load8(reinterpret_cast<const float*>(p + 32));
}

// ---- integer products ----------------------------------------------------------------------------------------------

// One row of activations in 8 bits, into the blocks of its group.
void quantize_row(const float* x, int64_t cols, ActivationBlock* blocks, int64_t token) {
  const f32x8 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, ties to even
  const i32x8 is_positive_mask = i32x8{} + 0x7fffffff;
  const int64_t at = token % kGroup;
  ActivationBlock* out = blocks + token / kGroup * (cols / kQuantBlock);
  for (int64_t b = 0; b < cols / kQuantBlock; ++b, ++out) {
    const float* p = x + b * kQuantBlock;
    f32x8 v[4], largest = zero8();
    for (int i = 0; i < 4; ++i) {
      v[i] = load8(p + 8 * i);
      largest = max8(largest, reinterpret_cast<f32x8>(reinterpret_cast<i32x8>(v[i]) & is_positive_mask));
    }
    const float max = max_of8(largest);
    const float inverse = max > 0 ? 127.0f / max : 0.0f;
    int32_t sum[2];
    for (int half = 0; half < 2; ++half) {
      i32x8 q[2];
      for (int i = 0; i < 2; ++i) {
        q[i] = reinterpret_cast<i32x8>(v[2 * half + i] * splat(inverse) + magic) - reinterpret_cast<i32x8>(magic);
        typedef int8_t i8x8 __attribute__((vector_size(8)));
        const i8x8 codes = __builtin_convertvector(q[i], i8x8);
        memcpy(out->codes[at] + 16 * half + 8 * i, &codes, 8);
      }
      const i32x8 both = q[0] + q[1];
      sum[half] = ((both[0] + both[4]) + (both[2] + both[6])) + ((both[1] + both[5]) + (both[3] + both[7]));
      out->sum16[half][at] = sum[half];
    }
    out->scale[at] = max / 127.0f;
    out->sum[at] = sum[0] + sum[1];
    out->scaled_sum[at] = out->scale[at] * static_cast<float>(sum[0] + sum[1]);
  }
}

// With so few tokens the weights' memory is what is waited for. Measured: reading 4 KiB ahead takes one thread from 11 to
// 18-21 GB/s, as fast as it reads at all; two panels side by side, or 1 KiB, are slower.
constexpr int kPrefetchTokens = 6, kPrefetchBytes = 4096;
constexpr int kTokens4 = 6, kTokens8 = 4;  // tokens of a tile: as many as keep all sums in 16 registers

// T tokens x 8 rows: out[t] = the whole dot product of token `first` + t of the group with each row of the panel.
template <Packed K, int T>
FARTHING_INLINE void int8_tile(const uint8_t* panel, int64_t cols, const ActivationBlock* x, int64_t first, f32x8* out) {
  typedef Block<K> B;
  constexpr int kParts = kQuantBlock / B::kCols;  // packed blocks to one block of activations
  const ActivationBlock* const end = x + cols / kQuantBlock;
  f32x8 acc[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) acc[t] = zero8();
  for (; x != end; ++x) {
#pragma GCC unroll 2
    for (int part = 0; part < kParts; ++part, panel += kBlockBytes<K>) {
      const uint8_t* w = panel + B::kHeader;
      const int8_t* codes = x->codes[first] + part * B::kCols;
      if constexpr (T <= kPrefetchTokens) {
#pragma GCC unroll 8
        for (int line = 0; line < kBlockBytes<K>; line += 64) __builtin_prefetch(panel + kPrefetchBytes + line);
      }
      Sums16 low[T], high[T];
      if constexpr (B::kBits == 4) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const Codes32 v = load_codes(w + 32 * j);
          const Codes32 a = low_half(v), c = high_half(v);
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) {
            const Sums16 product = dot4(a, codes + t * kQuantBlock + 4 * j);
            if (j == 0)
              low[t] = product;
            else
              add16(low[t], product);
          }
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) add16(low[t], dot4(c, codes + t * kQuantBlock + 16 + 4 * j));
        }
      } else {
#pragma GCC unroll 8
        for (int s = 0; s < B::kCols / 4; ++s) {
          const Codes32 v = load_codes(w + 32 * s);
          const Codes32 a = low_half(v), c = high_half(v);
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) {
            const int8_t* four = codes + t * kQuantBlock + 4 * s;
            const Sums16 low_product = dot4(a, four), high_product = dot4(c, four);
            if (s == 0) {
              low[t] = low_product;
              high[t] = high_product;
            } else {
              add16(low[t], low_product);
              add16(high[t], high_product);
            }
          }
        }
      }
      const f32x8 scale = block_scale<K>(panel), minimum = block_minimum<K>(panel);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const int64_t at = first + t;
        i32x8 dot = widen<1>(low[t]);
        if constexpr (B::kBits == 8) dot += widen<16>(high[t]);
        if constexpr (B::kZero != 0) dot -= B::kZero * (kParts == 1 ? x->sum[at] : x->sum16[part][at]);
        acc[t] = fmadd(__builtin_convertvector(dot, f32x8), scale * splat(x->scale[at]), acc[t]);
        if constexpr (B::kHasMinimum) {
          const float sum = kParts == 1 ? x->scaled_sum[at] : x->scale[at] * static_cast<float>(x->sum16[part][at]);
          acc[t] = fmadd(minimum, splat(sum), acc[t]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) out[t] = acc[t];
}

// ---- float32 products ----------------------------------------------------------------------------------------------

// Unpacks columns [first, first + n) of a panel to out [n][8]; both multiples of the block.
template <Packed K>
void unpack(const uint8_t* panel, int64_t first, int64_t n, float* out) {
  if constexpr (K == Packed::f32) {
    memcpy(out, panel + first * 32, static_cast<size_t>(n) * 32);
  } else if constexpr (K == Packed::f16 || K == Packed::bf16) {
    const uint16_t* p = reinterpret_cast<const uint16_t*>(panel) + first * 8;
    for (int64_t c = 0; c < n; ++c, p += 8) store8(out + 8 * c, K == Packed::f16 ? load8_f16(p) : load8_bf16(p));
  } else {
    typedef Block<K> B;
    const uint8_t* p = panel + first / B::kCols * kBlockBytes<K>;
    for (int64_t b = 0; b < n / B::kCols; ++b, p += kBlockBytes<K>, out += 8 * B::kCols) {
      const f32x8 scale = block_scale<K>(p), minimum = block_minimum<K>(p);
      const uint8_t* w = p + B::kHeader;
      auto put = [&](int column, i32x8 code) {
        store8(out + 8 * column, fmadd(__builtin_convertvector(code - B::kZero, f32x8), scale, minimum));
      };
      for (int s = 0; s < B::kCols / 4 * B::kBits / 8; ++s) {
        i32x8 v;
        memcpy(&v, w + 32 * s, 32);
        for (int c = 0; c < 4; ++c) {
          const i32x8 byte = (v >> (8 * c)) & 255;
          if constexpr (B::kBits == 4) {
            put(4 * s + c, byte & 15);
            put(4 * (s + 4) + c, byte >> 4);
          } else {
            put(4 * s + c, byte);
          }
        }
      }
    }
  }
}

// T tokens x P panels over n columns, continuing the sums in acc [T][P * 8].
template <int T, int P>
FARTHING_INLINE void f32_tile(const float* const* w, const float* x, int64_t stride, int64_t n, float* acc) {
  f32x8 sum[T][P];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) sum[t][p] = load8(acc + (t * P + p) * 8);
  for (int64_t c = 0; c < n; ++c) {
    f32x8 v[P];
    for (int p = 0; p < P; ++p) v[p] = load8(w[p] + 8 * c);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const f32x8 xt = splat(x[t * stride + c]);
      for (int p = 0; p < P; ++p) sum[t][p] = fmadd(v[p], xt, sum[t][p]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) store8(acc + (t * P + p) * 8, sum[t][p]);
}

template <int P>
void f32_tiles(const float* const* w, const float* x, int64_t stride, int64_t n, int64_t num_tokens, float* acc) {
  int64_t t = 0;
  for (; t + 6 <= num_tokens; t += 6) f32_tile<6, P>(w, x + t * stride, stride, n, acc + t * P * 8);
  x += t * stride;
  acc += t * P * 8;
  switch (num_tokens - t) {
    case 5: f32_tile<5, P>(w, x, stride, n, acc); break;
    case 4: f32_tile<4, P>(w, x, stride, n, acc); break;
    case 3: f32_tile<3, P>(w, x, stride, n, acc); break;
    case 2: f32_tile<2, P>(w, x, stride, n, acc); break;
    case 1: f32_tile<1, P>(w, x, stride, n, acc); break;
    default: break;
  }
}

// ---- the operation -------------------------------------------------------------------------------------------------

// Writes one token's 8 sums of panel `panel` to dst columns [first + 8 panel, ...).
FARTHING_INLINE void write_row(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, int64_t panel,
                               int64_t token, f32x8 sum) {
  float* out = a.dst.data + token * a.dst.stride + first + panel * kPanel;
  const int64_t rows = std::min(kPanel, m.rows - panel * kPanel);
  if (rows == kPanel) {
    if (bias) sum = sum + load8(bias + panel * kPanel);
    if (a.is_added) sum = sum + load8(out);
    store8(out, sum);
  } else {
    for (int64_t r = 0; r < rows; ++r) {
      float v = sum[r];
      if (bias) v += bias[panel * kPanel + r];
      out[r] = a.is_added ? v + out[r] : v;
    }
  }
}

// Panels [begin, end) for tokens [t0, t1), integer codes.
template <Packed K>
void int8_panels(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, const ActivationBlock* x,
                 int64_t begin, int64_t end, int64_t t0, int64_t t1) {
  constexpr int kTile = Block<K>::kBits == 4 ? kTokens4 : kTokens8;
  for (int64_t p = begin; p < end; ++p) {
    auto tile = [&](auto num_tokens, int64_t t) {
      constexpr int T = decltype(num_tokens)::value;
      f32x8 sums[T];
      int8_tile<K, T>(m.panel(p), m.cols, x + t / kGroup * (m.cols / kQuantBlock), t % kGroup, sums);
      for (int i = 0; i < T; ++i) write_row(a, m, bias, first, p, t + i, sums[i]);
    };
    int64_t t = t0;
    for (; t + kTile <= t1; t += kTile) tile(std::integral_constant<int, kTile>(), t);
    switch (t1 - t) {
      case 5: tile(std::integral_constant<int, kTile == 6 ? 5 : 1>(), t); break;
      case 4: tile(std::integral_constant<int, kTile == 6 ? 4 : 1>(), t); break;
      case 3: tile(std::integral_constant<int, 3>(), t); break;
      case 2: tile(std::integral_constant<int, 2>(), t); break;
      case 1: tile(std::integral_constant<int, 1>(), t); break;
      default: break;
    }
  }
}

// A pair of panels for tokens [t0, t1), t1 - t0 <= kTokensPerPass, unpacked to float32.
template <Packed K, int P>
void f32_panels(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, int64_t panel, int64_t t0,
                int64_t t1, float* scratch) {
  float* unpacked = scratch;
  float* acc = scratch + P * kPanel * kColsPerPass;
  memset(acc, 0, static_cast<size_t>((t1 - t0) * P) * 32);
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
    for (int p = 0; p < P; ++p) write_row(a, m, bias, first, panel + p, t, load8(acc + ((t - t0) * P + p) * 8));
}

template <class F>
FARTHING_INLINE void with_kind(Packed kind, F&& f) {
  switch (kind) {
    case Packed::f32: return f(std::integral_constant<Packed, Packed::f32>());
    case Packed::f16: return f(std::integral_constant<Packed, Packed::f16>());
    case Packed::bf16: return f(std::integral_constant<Packed, Packed::bf16>());
    case Packed::q4_0: return f(std::integral_constant<Packed, Packed::q4_0>());
    case Packed::q4_1: return f(std::integral_constant<Packed, Packed::q4_1>());
    case Packed::q4_k: return f(std::integral_constant<Packed, Packed::q4_k>());
    case Packed::q8_0: return f(std::integral_constant<Packed, Packed::q8_0>());
    case Packed::q8_16: return f(std::integral_constant<Packed, Packed::q8_16>());
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

int64_t total_panels(const LinearArgs& a) {
  int64_t n = 0;
  for (int i = 0; i < a.num_weights; ++i) n += a.weights[i]->num_panels();
  return n;
}

}  // namespace

void linear(const LinearArgs& a, Worker& worker) {
  const int64_t cols = a.weights[0]->cols, num_tokens = a.num_tokens;
  uint8_t* own = a.scratch + activation_bytes(num_tokens, cols) + worker.index * a.scratch_per_worker;
  float* own_f32 = reinterpret_cast<float*>(own + activation_bytes(kTokensQuantizedByEach, cols));
  bool has_codes = false;
  for (int i = 0; i < a.num_weights; ++i) has_codes |= a.weights[i]->has_codes();
  const bool is_int8 = a.is_int8 && has_codes;
  ActivationBlock* x = nullptr;
  if (is_int8) {
    const bool is_own = num_tokens <= kTokensQuantizedByEach;
    x = reinterpret_cast<ActivationBlock*>(is_own ? own : a.scratch);
    auto quantize = [&](int64_t t) { quantize_row(a.src.data + t * a.src.stride, cols, x, t); };
    if (is_own)
      for (int64_t t = 0; t < num_tokens; ++t) quantize(t);
    else
      worker.for_each(num_tokens, quantize);
  }
  // Tokens per pass: what one worker's second-level cache holds beside the weights, in whole tiles.
  const int64_t per_pass = is_int8 ? std::max<int64_t>(2 * kGroup, 192 * 1024 / cols / kGroup * kGroup) : kTokensPerPass;
  const int64_t passes = (num_tokens + per_pass - 1) / per_pass;
  const int64_t share = total_panels(a) / (worker.count * (num_tokens > 8 ? 32 : 8)) / 2 * 2;
  const Chunks chunks{std::min<int64_t>(std::max<int64_t>(share, 2), 64), a};
  const int64_t n = chunks.count();
  worker.for_each(passes * n, [&](int64_t i) {
    const int64_t t0 = i / n * per_pass, t1 = std::min(t0 + per_pass, num_tokens);
    chunks.with(i % n, [&](const PackedMatrix& m, const float* bias, int64_t first, int64_t begin, int64_t end) {
      with_kind(m.kind, [&](auto kind) {
        constexpr Packed K = decltype(kind)::value;
        if constexpr (K >= Packed::q4_0) {
          if (is_int8) return int8_panels<K>(a, m, bias, first, x, begin, end, t0, t1);
        }
        for (int64_t s = t0; s < t1; s += kTokensPerPass) {
          const int64_t e = std::min(s + kTokensPerPass, t1);
          int64_t p = begin;
          for (; p + 2 <= end; p += 2) f32_panels<K, 2>(a, m, bias, first, p, s, e, own_f32);
          if (p < end) f32_panels<K, 1>(a, m, bias, first, p, s, e, own_f32);
        }
      });
    });
  });
}

void embed(const BatchView& batch, const PackedMatrix& m, float scale, View dst, Worker& worker) {
  worker.for_each(batch.num_tokens, [&](int64_t t) {
    const int64_t row = batch.token_ids[t];
    const uint8_t* panel = m.panel(row / kPanel);
    float* out = dst.data + t * dst.stride;
    with_kind(m.kind, [&](auto kind) {
      alignas(32) float columns[32 * kPanel];
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
