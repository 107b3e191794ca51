// Plug-in: how keys and values are written in pages. A codec is one struct. One with kIsCodes is multiplied as integers by
// code_tiles.h, which code_loads.h tells how its codes lie; of the others attention only asks for eight values at a time,
// as floats: the members of Plain below. To add one: write the struct, name it in enum Codec, in codec_bits() and in
// with_codec().
//
// `head` is the start of one kv head inside a page.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

struct FloatCode {
  using Type = float;
  static FARTHING_INLINE f32x8 load(const float* p) { return load8(p); }
  static FARTHING_INLINE void store(float* p, f32x8 x) { store8(p, x); }
};

struct HalfCode {
  using Type = uint16_t;
  static FARTHING_INLINE f32x8 load(const uint16_t* p) { return load8_f16(p); }
  static FARTHING_INLINE void store(uint16_t* p, f32x8 x) { store8_f16(p, x); }
};

// One code per element, none shared: K [head_dim][page_size], V [page_size][head_dim].
template <class Code>
struct Plain {
  using Type = typename Code::Type;
  static constexpr int64_t kBytes = sizeof(Type);  // of one element
  static constexpr int64_t kBits = 8 * kBytes;
  static constexpr bool kIsCodes = false, kIsRotated = false;

  static void encode_k(char* head, const KVShape& s, const Codebook*, int64_t slot, const float* src) {
    Type* column = reinterpret_cast<Type*>(head) + slot;
    Type codes[8];
    for (int64_t d = 0; d < s.head_dim; d += 8) {
      Code::store(codes, load8(src + d));
      for (int i = 0; i < 8; ++i) column[(d + i) * s.page_size] = codes[i];
    }
  }

  static void encode_v(char* head, const KVShape& s, const Codebook*, int64_t slot, const float* src) {
    Type* row = reinterpret_cast<Type*>(head) + slot * s.head_dim;
    for (int64_t d = 0; d < s.head_dim; d += 8) Code::store(row + d, load8(src + d));
  }

  // Eight keys from `slot` on: at(d) is column d of each.
  struct Keys {
    const Type* first;
    Keys() = default;
    Keys(const char* head, int64_t slot) : first(reinterpret_cast<const Type*>(head) + slot) {}
    FARTHING_INLINE f32x8 at(int64_t d, int64_t page_size) const { return Code::load(first + d * page_size); }
  };

  // Values from `slot` on: at(i, d) is columns d .. d + 7 of token slot + i.
  struct Values {
    const Type* first;
    Values(const char* head, int64_t slot, int64_t head_dim)
        : first(reinterpret_cast<const Type*>(head) + slot * head_dim) {}
    FARTHING_INLINE f32x8 at(int64_t i, int64_t d, int64_t head_dim) const {
      return Code::load(first + i * head_dim + d);
    }
  };
};

// The orthonormal Walsh-Hadamard transform of each block of x [n]; a block is the largest power of two that divides n, a
// multiple of 8. It keeps products of rotated keys and queries what they were and spreads a channel that is always large
// over all of them (QuaRot, arXiv 2404.00456): with it 8 bits lose a third of what they lose without.
#if defined(FARTHING_ISA_avx512)
// A block of V vectors, in registers: the sums and differences that eight lanes make, in the same order.
template <int V>
FARTHING_INLINE void hadamard_block(const float* x, f32xw scale, float* out) {
  f32xw v[V];
#pragma GCC unroll 16
  for (int i = 0; i < V; ++i) {
    const auto turn = [&](__m512 swapped, int minus) { v[i] = _mm512_mask_sub_ps(swapped + v[i], static_cast<__mmask16>(minus), swapped, v[i]); };
    v[i] = loadw(x + kWide * i) * scale;
    turn(_mm512_permute_ps(v[i], 0xb1), 0xaaaa);
    turn(_mm512_permute_ps(v[i], 0x4e), 0xcccc);
    turn(_mm512_shuffle_f32x4(v[i], v[i], 0xb1), 0xf0f0);
    turn(_mm512_shuffle_f32x4(v[i], v[i], 0x4e), 0xff00);
  }
#pragma GCC unroll 4
  for (int h = 1; h < V; h *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < V; ++i)
      if (!(i & h)) {
        const f32xw a = v[i], b = v[i + h];
        v[i] = a + b;
        v[i + h] = a - b;
      }
#pragma GCC unroll 16
  for (int i = 0; i < V; ++i) storew(out + kWide * i, v[i]);
}
#endif

FARTHING_INLINE void hadamard(const float* x, int64_t n, float* out) {
  const int64_t block = n & -n;
  const float of_sum = 1.0f / __builtin_sqrtf(static_cast<float>(block));
#if defined(FARTHING_ISA_avx512)
  for (int64_t i = 0; block >= kWide && i < n; i += block) {
    switch (block / kWide) {
      case 1: hadamard_block<1>(x + i, splatw(of_sum), out + i); break;
      case 2: hadamard_block<2>(x + i, splatw(of_sum), out + i); break;
      case 4: hadamard_block<4>(x + i, splatw(of_sum), out + i); break;
      case 8: hadamard_block<8>(x + i, splatw(of_sum), out + i); break;
      default: hadamard_block<16>(x + i, splatw(of_sum), out + i); break;
    }
  }
  if (block >= kWide) return;
#endif
  const f32x8 scale = splat(of_sum);
  const f32x8 sign1 = {1, -1, 1, -1, 1, -1, 1, -1}, sign2 = {1, 1, -1, -1, 1, 1, -1, -1}, sign4 = {1, 1, 1, 1, -1, -1, -1, -1};
  for (int64_t i = 0; i < n; i += 8) {
    f32x8 v = load8(x + i) * scale;
    v = fmadd(v, sign1, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
    v = fmadd(v, sign2, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
    v = fmadd(v, sign4, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
    store8(out + i, v);
  }
  for (int64_t h = 8; h < block; h *= 2)
    for (int64_t first = 0; first < n; first += 2 * h)
      for (int64_t i = first; i < first + h; i += 8) {
        const f32x8 a = load8(out + i), b = load8(out + i + h);
        store8(out + i, a + b);
        store8(out + i + h, a - b);
      }
}

FARTHING_INLINE float largest_magnitude(const float* x, int64_t n) {
  f32x8 largest = zero8();
  for (int64_t i = 0; i < n; i += 8) {
    const f32x8 v = load8(x + i);
    largest = max8(largest, max8(v, -v));
  }
  return max_of8(largest);
}

// Codes of 8 bits from -127 to 127, one scale (max|x| / 127) for a token's whole head, keys rotated; four columns of a
// key, or four tokens of a value's column, lie side by side (code_tiles.h), the scales [page_size] of a page behind its
// codes.
struct CodecQ8 {
  static constexpr int64_t kBits = 8;
  static constexpr bool kIsCodes = true, kIsRotated = false;  // of values

  static float* scales(char* head, const KVShape& s) { return reinterpret_cast<float*>(head + s.head_dim * s.page_size); }

  // To floats, whole vectors of them: what stands beyond count belongs to keys that nobody sees.
  static void copy_scales(const char* head, const KVShape& s, int64_t slot, int64_t count, float* to) {
    const float* from = reinterpret_cast<const float*>(head + s.head_dim * s.page_size) + slot;
    for (int64_t i = 0; i < count; i += 8) store8(to + i, load8(from + i));
  }

  // Calls put(d, codes) for each eight columns; returns the scale.
  template <class Put>
  static FARTHING_INLINE float encode(const float* src, int64_t head_dim, Put&& put) {
    const float max = largest_magnitude(src, head_dim);
    // By the reciprocal, as the reference does; nothing so small that it would be infinite. An infinite value gives codes
    // of 0 and NaN back: as lost as it would be in float16.
    const float inverse = max > 1e-30f ? 127.0f / max : 0.0f;
    for (int64_t d = 0; d < head_dim; d += 8) {
      int8_t codes[8];
      round8_s8(load8(src + d) * splat(inverse), codes);
      put(d, codes);
    }
    return max / 127.0f;
  }

#if defined(FARTHING_ISA_avx512)
  // Calls put(d, codes) for each sixteen columns, a code to a dword, the upper bits undefined; returns the scale.
  template <class Put>
  static FARTHING_INLINE float encode_wide(const float* src, int64_t head_dim, Put&& put) {
    f32xw largest{};
    for (int64_t d = 0; d < head_dim; d += 16) largest = maxw(largest, maxw(loadw(src + d), -loadw(src + d)));
    const float max = max_of_w(largest);
    const f32xw inverse = splatw(max > 1e-30f ? 127.0f / max : 0.0f);
    for (int64_t d = 0; d < head_dim; d += 16) put(d, _mm512_cvtps_epi32(loadw(src + d) * inverse));
    return max / 127.0f;
  }

  static FARTHING_INLINE float encode_k_wide(const float* src, int64_t head_dim, char* to, int64_t stride) {
    alignas(64) uint32_t fours[kMostHeadDim / 4];
    const float scale = encode_wide(src, head_dim, [&](int64_t d, __m512i codes) {
      const __m128i bytes = _mm_xor_si128(_mm512_cvtepi32_epi8(codes), _mm_set1_epi8(-128));
      _mm_store_si128(reinterpret_cast<__m128i*>(fours + d / 4), bytes);
    });
    for (int64_t i = 0; i < head_dim / 4; ++i) memcpy(to + i * stride, fours + i, 4);
    return scale;
  }

  // To byte `place` of each dword from `to` on: that byte alone, since another member may write the others meanwhile.
  static FARTHING_INLINE float encode_v_wide(const float* src, int64_t head_dim, char* to, unsigned place) {
    const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(8 * place));
    const __mmask64 bytes = 0x1111111111111111ull << place;
    return encode_wide(src, head_dim, [&](int64_t d, __m512i codes) {
      _mm512_mask_storeu_epi8(to + 4 * d, bytes, _mm512_sll_epi32(codes, shift));
    });
  }
#endif

  static void encode_k(char* head, const KVShape& s, const Codebook*, int64_t slot, const float* src) {
    alignas(64) float rotated[kMostHeadDim];
    hadamard(src, s.head_dim, rotated);
#if defined(FARTHING_ISA_avx512)
    if (s.head_dim % 16 == 0) {
      scales(head, s)[slot] = encode_k_wide(rotated, s.head_dim, head + 4 * slot, 4 * s.page_size);
      return;
    }
#endif
    scales(head, s)[slot] = encode(rotated, s.head_dim, [&](int64_t d, const int8_t* codes) {
      for (int half = 0; half < 2; ++half) {
        uint32_t four;
        memcpy(&four, codes + 4 * half, 4);
        four ^= 0x80808080u;  // 128 too high: one side of the products is unsigned
        memcpy(head + ((d / 4 + half) * s.page_size + slot) * 4, &four, 4);
      }
    });
  }

  static void encode_v(char* head, const KVShape& s, const Codebook*, int64_t slot, const float* src) {
    char* first = head + slot / 4 * 4 * s.head_dim + slot % 4;
#if defined(FARTHING_ISA_avx512)
    if (s.head_dim % 16 == 0) {
      scales(head, s)[slot] = encode_v_wide(src, s.head_dim, first - slot % 4, static_cast<unsigned>(slot % 4));
      return;
    }
#endif
    scales(head, s)[slot] = encode(src, s.head_dim, [&](int64_t d, const int8_t* codes) {
      for (int i = 0; i < 8; ++i) first[(d + i) * 4] = static_cast<char>(codes[i]);
    });
  }
};

using CodecF32 = Plain<FloatCode>;
using CodecF16 = Plain<HalfCode>;

}  // namespace FARTHING_ISA
}  // namespace farthing
