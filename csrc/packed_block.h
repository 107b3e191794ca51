// How packed weights are read: the codes of a block of 32 columns, its scales and minima, its values as float32.
#pragma once
#include <utility>

#include "code_vectors.h"

namespace farthing {
namespace FARTHING_ISA {

// 32 integers from -127 to 127 as bytes, in order.
#if defined(FARTHING_HAS_AVX2)
FARTHING_INLINE void pack32(const i32x8* q, int8_t* out) {
  const __m256i a = _mm256_packs_epi32(reinterpret_cast<__m256i>(q[0]), reinterpret_cast<__m256i>(q[1]));
  const __m256i b = _mm256_packs_epi32(reinterpret_cast<__m256i>(q[2]), reinterpret_cast<__m256i>(q[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i v = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), v);
}
#else
FARTHING_INLINE void pack32(const i32x8* q, int8_t* out) {
  for (int i = 0; i < 32; ++i) out[i] = static_cast<int8_t>(q[i / 8][i % 8]);
}
#endif

FARTHING_INLINE f32xw loadw_bf16(const uint16_t* p) {
  typedef uint16_t u16xw __attribute__((vector_size(2 * kWide)));
  u16xw half;
  memcpy(&half, p, sizeof half);
  const i32xw bits = __builtin_convertvector(half, i32xw) << 16;
  f32xw v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// kWide bytes as integers. gcc takes a conversion from bytes apart into scalars, hence the intrinsics.
#if defined(FARTHING_ISA_avx512)
FARTHING_INLINE i32xw loadw_u8(const uint8_t* p) {
  return recast<i32xw>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
FARTHING_INLINE i32xw loadw_s8(const uint8_t* p) {
  return recast<i32xw>(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
#elif defined(FARTHING_HAS_AVX2)
FARTHING_INLINE i32xw loadw_u8(const uint8_t* p) {
  return recast<i32xw>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
FARTHING_INLINE i32xw loadw_s8(const uint8_t* p) {
  return recast<i32xw>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
#else
FARTHING_INLINE i32xw loadw_u8(const uint8_t* p) {
  i32xw v;
  for (int i = 0; i < kWide; ++i) v[i] = p[i];
  return v;
}
FARTHING_INLINE i32xw loadw_s8(const uint8_t* p) {
  i32xw v;
  for (int i = 0; i < kWide; ++i) v[i] = static_cast<int8_t>(p[i]);
  return v;
}
#endif
FARTHING_INLINE f32xw to_f32(i32xw v) { return __builtin_convertvector(v, f32xw); }
// Scales of one byte: their bits are moved to where float32 has exponent and mantissa.
FARTHING_INLINE f32xw loadw_e8(const uint8_t* p) { return recast<f32xw>((loadw_u8(p) << 20) + ((127 - 23) << 23)); }
FARTHING_INLINE f32xw loadw_f16(const uint8_t* p) { return loadw_f16(reinterpret_cast<const uint16_t*>(p)); }

// A kind's BlockShape, and where its blocks lie in a panel.
template <Packed K>
struct Block {
  static constexpr BlockShape kShape = shape_of(K);
  static constexpr int kBits = kShape.bits, kParts = kShape.parts;
  static constexpr bool kIsTable = kShape.table != Table::none, kHasMinimum = kShape.has_minimum();
  static constexpr int kZero = kIsTable ? 128 : kShape.zero;  // of the codes as they are multiplied
  static constexpr int kMostCode = kIsTable ? 255 : (1 << kBits) - 1;
  static constexpr int kHeader = kShape.row_header() * kPanel, kSuper = kShape.row_super() * kPanel;
  static constexpr int kUnit = kShape.row_unit() * kPanel;
  static constexpr int kBytes = kHeader + kBits * kQuantBlock / 8 * kPanel;

  // What block b shares with others: the numbers of its 256 columns, or the units of rows.
  static const uint8_t* super(const uint8_t* panel, int64_t b) {
    if constexpr (kUnit != 0)
      return panel;
    else
      return panel + b / kSuperBlocks * (kSuperBlocks * kBytes + kSuper);
  }
  static const uint8_t* at(const uint8_t* panel, int64_t b) {
    if constexpr (kSuper == 0)
      return panel + kUnit + b * kBytes;
    else
      return super(panel, b) + kSuper + b % kSuperBlocks * kBytes;
  }
};

// Entries + 128.
alignas(16) constexpr uint8_t kIq4nlTable[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
alignas(16) constexpr uint8_t kC3Table[16] = {1, 52, 86, 115, 141, 170, 204, 255};

// The codes of step s of a block whose vectors begin at w, as they are multiplied.
template <int kBits, Table kTable, int s>
FARTHING_INLINE Codes codes_of_step(const uint8_t* w) {
  constexpr int kVector = 4 * kPanel;
  Codes v;
  if constexpr (kBits == 8) {
    v = load_codes(w + kVector * s);
  } else if constexpr (kBits >= 4) {
    v = bits_of<s / 4 * 4, 15>(load_codes(w + kVector * (s % 4)));
    if constexpr (kBits == 5) v = with_bits<s - 4, 16>(v, load_codes(w + kVector * 4));
    if constexpr (kBits == 6) v = with_bits<s / 2 * 2 - 4, 48>(v, load_codes(w + kVector * (4 + s % 2)));
  } else {
    v = bits_of<s / 2 * 2, 3>(load_codes(w + kVector * (s % 2)));
    if constexpr (kBits == 3) v = with_bits<s - 2, 4>(v, load_codes(w + kVector * 2));
  }
  if constexpr (kTable == Table::iq4_nl) v = look_up(kIq4nlTable, v);
  if constexpr (kTable == Table::c3) v = look_up(kC3Table, v);
  return v;
}

// Scales and minima of a block's parts.
template <int kParts>
struct Scales {
  f32xw scale[kParts], minimum[kParts];
};

// super: what it shares with others, if there is anything; p: the block.
template <Packed K>
FARTHING_INLINE Scales<Block<K>::kParts> scales_of(const uint8_t* super, const uint8_t* p) {
  constexpr Scaling kind = Block<K>::kShape.scaling;
  Scales<Block<K>::kParts> out{};
  if constexpr (kind == Scaling::f16 || kind == Scaling::f16_minimum) {
    out.scale[0] = loadw_f16(p);
    if constexpr (kind == Scaling::f16_minimum) out.minimum[0] = loadw_f16(p + 2 * kPanel);
  } else if constexpr (kind == Scaling::e8 || kind == Scaling::e8_zero) {
    out.scale[0] = loadw_e8(p);
    constexpr float step = 1.0f / (1 << (8 - Block<K>::kBits));
    if constexpr (kind == Scaling::e8_zero) out.minimum[0] = to_f32(loadw_u8(p + kPanel)) * splatw(-step) * out.scale[0];
  } else if constexpr (kind == Scaling::words) {
    const f32xw unit = loadw(reinterpret_cast<const float*>(super));
    i32xw both;
    memcpy(&both, p, sizeof both);
    out.scale[0] = to_f32((both << 16) >> 16) * unit;
    out.minimum[0] = to_f32(both >> 16) * splatw(8.0f) * unit;
  } else if constexpr (kind == Scaling::super_f16) {
    out.scale[0] = loadw_f16(super);
  } else if constexpr (kind == Scaling::super_s8) {
    for (int part = 0; part < Block<K>::kParts; ++part)
      out.scale[part] = loadw_f16(super) * to_f32(loadw_s8(p + part * kPanel));
  } else if constexpr (kind == Scaling::super_u8) {
    out.scale[0] = loadw_f16(super) * to_f32(loadw_u8(p));
    out.minimum[0] = -(loadw_f16(super + 2 * kPanel) * to_f32(loadw_u8(p + kPanel)));
  } else {
    for (int part = 0; part < Block<K>::kParts; ++part) {
      const i32xw both = loadw_u8(p + part * kPanel);
      out.scale[part] = loadw_f16(super) * to_f32(both & 15);
      out.minimum[part] = -(loadw_f16(super + 2 * kPanel) * to_f32(both >> 4));
    }
  }
  return out;
}

// What a part of a block needs of a token.
struct PartOfToken {
  f32xw scale, sum;  // sum: of the codes, times the scale where a block is one part
};
template <int kParts, int G>
FARTHING_INLINE PartOfToken part_of_token(const ActivationBlock<G>* x, int part, int t) {
  if constexpr (kParts == 1)
    return {splatw(x->scale[t]), splatw(x->scaled_sum[t])};
  else
    return {splatw(x->scale[t]), to_f32(i32xw{} + x->sum_of_half(part, t))};
}

// Adds a part's products to the sum of rows, in the one order that all tiles keep: a block of one part is
// scale * x_scale * dot + minimum * sum; of two parts, what both have in `both` is multiplied with x_scale once.
template <int kParts, int part, bool kHasMinimum>
FARTHING_INLINE void add_part(f32xw dot, f32xw scale, f32xw minimum, const PartOfToken& of, f32xw& both, f32xw& acc) {
  if constexpr (kParts == 1) {
    acc = fmadd(dot, scale * of.scale, acc);
    if constexpr (kHasMinimum) acc = fmadd(minimum, of.sum, acc);
  } else {
    both = part == 0 ? dot * scale : fmadd(dot, scale, both);
    if constexpr (kHasMinimum) both = fmadd(minimum, of.sum, both);
    if constexpr (part == kParts - 1) acc = fmadd(both, of.scale, acc);
  }
}

// Unpacks columns [first, first + n) of a panel to out [n][kPanel]; both multiples of 32 where weights have codes.
template <Packed K>
void unpack(const uint8_t* panel, int64_t first, int64_t n, float* out) {
  if constexpr (K == Packed::f32) {
    memcpy(out, panel + first * 4 * kPanel, static_cast<size_t>(n * 4 * kPanel));
  } else if constexpr (K == Packed::f16 || K == Packed::bf16) {
    const uint16_t* p = reinterpret_cast<const uint16_t*>(panel) + first * kPanel;
    for (int64_t c = 0; c < n; ++c, p += kPanel) storew(out + kPanel * c, K == Packed::f16 ? loadw_f16(p) : loadw_bf16(p));
  } else {
    typedef Block<K> B;
    for (int64_t b = first / kQuantBlock; b < (first + n) / kQuantBlock; ++b, out += kPanel * kQuantBlock) {
      const uint8_t* const block = B::at(panel, b);
      const auto scales = scales_of<K>(B::super(panel, b), block);
      unrolled<8>([&](auto s) FARTHING_INLINE_BODY {
        const i32xw v = recast<i32xw>(codes_of_step<B::kBits, B::kShape.table, decltype(s)::value>(block + B::kHeader));
        const int part = s / (8 / B::kParts);
        for (int c = 0; c < 4; ++c) {
          const i32xw code = ((v >> (8 * c)) & 255) - B::kZero;
          storew(out + kPanel * (4 * s + c), fmadd(to_f32(code), scales.scale[part], scales.minimum[part]));
        }
      });
    }
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
