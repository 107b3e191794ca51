// The TurboQuant codecs tq4, tq3 and tq2 (arXiv 2504.19874, without its QJL stage): a token's head, rotated by a Hadamard
// transform, becomes numbers of centroids, and a scale that keeps what the code is multiplied with right. head_dim and
// page_size are multiples of 16 (Program sees to it).
//
// Codes share bytes only with codes of the same token, so that threads never write to one byte. Four codes of one token
// (K: columns 4 i .. 4 i + 3) or of one column (V: tokens 4 i .. 4 i + 3) are a quad, as in q8; `piece` p of a byte is bits
// [p * bits, (p + 1) * bits):
//
//   K, 4 bits  [head_dim / 8][page_size][4]: quads 2 i (piece 0) and 2 i + 1 (piece 1) of a key
//      2 bits  [head_dim / 16][page_size][4]: quads 4 i .. 4 i + 3
//      1 bit   [head_dim / 32][page_size][4]: quads 8 i .. 8 i + 7
//   V, 4 bits  [page_size / 4][head_dim / 16][8][4]: columns 16 g + c (piece 0) and 16 g + 8 + c (piece 1) of four tokens
//      2 bits  [page_size / 4][head_dim / 16][4][4]: columns 16 g + 4 p + c in piece p
//      1 bit   [page_size / 4][head_dim / 16][2][4]: columns 16 g + 8 half + p in piece p of byte [half][token]
//
// tq3 has its low two bits first and its highest behind them, then come the scales [page_size], float16.
#pragma once
#include "codecs.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr float kTurboScale = 1.0f / 256.0f;  // scales are stored 256 times as large, away from float16's small end

// The nearest centroid's number and value for 8 coordinates in units of centroids.
template <int B>
FARTHING_INLINE void nearest8(const Codebook& book, f32x8 u, i32x8& number, f32x8& value) {
#if defined(FARTHING_HAS_AVX2)
  i32x8 n = (u > splat(book.tree[0][0])) & 1;
  for (int level = 1; level < B; ++level) {
    const f32x8 edge = _mm256_permutevar8x32_ps(load8(book.tree[level]), reinterpret_cast<__m256i>(n));
    n = n + n - (u > edge);  // a comparison that holds is -1
  }
  number = n;
  const __m256i lanes = reinterpret_cast<__m256i>(n);
  value = _mm256_permutevar8x32_ps(load8(book.centroids), lanes);  // of the low three bits
  if (B == 4) value = (n > 7) ? _mm256_permutevar8x32_ps(load8(book.centroids + 8), lanes) : value;
#else
  for (int i = 0; i < 8; ++i) {
    int n = 0;
    for (int level = 0; level < B; ++level) n = 2 * n + (u[i] > book.tree[level][n]);
    number[i] = n;
    value[i] = book.centroids[n];
  }
#endif
}

template <int B>
struct CodecTurbo {
  static constexpr int64_t kBits = B;
  static constexpr bool kIsCodes = true, kIsRotated = true;
  static constexpr Codec kCodec = B == 4 ? Codec::tq4 : B == 3 ? Codec::tq3 : Codec::tq2;
  static constexpr int kLow = B == 3 ? 2 : B;  // bits of the first part

  static uint16_t* scales(char* head, const KVShape& s) {
    return reinterpret_cast<uint16_t*>(head + codec_code_bytes(kCodec, s));
  }
  static void copy_scales(const char* head, const KVShape& s, int64_t slot, int64_t count, float* to) {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(head + codec_code_bytes(kCodec, s)) + slot;
    for (int64_t i = 0; i < count; i += 8) store8(to + i, load8_f16(from + i) * splat(kTurboScale));
  }

  // Writes codes [head_dim] of src, rotated; returns the scale as stored: the one that keeps the norm.
  static FARTHING_INLINE uint16_t encode(const float* src, int64_t head_dim, const Codebook& book, uint8_t* codes) {
    alignas(32) float x[kMostHeadDim];
    hadamard(src, head_dim, x);
    f32x8 squares = zero8();
    for (int64_t d = 0; d < head_dim; d += 8) squares = fmadd(load8(x + d), load8(x + d), squares);
    const float norm = __builtin_sqrtf(sum8(squares));
    const f32x8 inverse = splat(norm > 1e-30f ? book.per_unit / norm : 0.0f);
    f32x8 of_codes = zero8();
    for (int64_t d = 0; d < head_dim; d += 8) {
      typedef uint8_t u8x8 __attribute__((vector_size(8)));
      i32x8 number;
      f32x8 value;
      nearest8<B>(book, load8(x + d) * inverse, number, value);
      const u8x8 bytes = __builtin_convertvector(number, u8x8);
      memcpy(codes + d, &bytes, 8);
      of_codes = fmadd(value, value, of_codes);
    }
    return f32_to_f16(norm / __builtin_sqrtf(sum8(of_codes)) / kTurboScale);
  }

  // Bits [shift, shift + bits) of `num` codes, `stride` apart, in one byte, the first lowest.
  static FARTHING_INLINE char pack(const uint8_t* codes, int num, int64_t stride, int bits, int shift) {
    int byte = 0;
    for (int p = 0; p < num; ++p) byte |= ((codes[p * stride] >> shift) & ((1 << bits) - 1)) << (p * bits);
    return static_cast<char>(byte);
  }

  static void encode_k(char* head, const KVShape& s, const Codebook* book, int64_t slot, const float* src) {
    uint8_t codes[kMostHeadDim + 16] = {};
    scales(head, s)[slot] = encode(src, s.head_dim, *book, codes);
    auto put = [&](char* to, int bits, int shift) {
      const int64_t columns = 32 / bits;
      for (int64_t d = 0; d < s.head_dim; d += columns)
        for (int64_t j = 0; j < 4; ++j)
          to[(d / columns * s.page_size + slot) * 4 + j] = pack(codes + d + j, 8 / bits, 4, bits, shift);
    };
    put(head, kLow, 0);
    if (B == 3) put(head + s.head_dim * s.page_size / 4, 1, 2);
  }

  static void encode_v(char* head, const KVShape& s, const Codebook* book, int64_t slot, const float* src) {
    uint8_t codes[kMostHeadDim];
    scales(head, s)[slot] = encode(src, s.head_dim, *book, codes);
    const int64_t first = slot / 4 * (s.head_dim / 16), token = slot % 4;
    constexpr int kColumns = 16 * kLow / 8;  // of a group that have bytes of their own
    for (int64_t g = 0; g < s.head_dim / 16; ++g)
      for (int64_t c = 0; c < kColumns; ++c)
        head[(first + g) * 8 * kLow + 4 * c + token] = pack(codes + 16 * g + c, 8 / kLow, kColumns, kLow, 0);
    if (B == 3)
      for (int64_t g = 0; g < 2 * (s.head_dim / 16); ++g)
        head[s.head_dim * s.page_size / 4 + 8 * first + 4 * g + token] = pack(codes + 8 * g, 8, 1, 1, 2);
  }
};

// Calls f(codec) with the struct that `codec` names.
template <class F>
FARTHING_INLINE void with_codec(Codec codec, F&& f) {
  switch (codec) {
    case Codec::f32: return f(CodecF32{});
    case Codec::f16: return f(CodecF16{});
    case Codec::q8: return f(CodecQ8{});
    case Codec::tq4: return f(CodecTurbo<4>{});
    case Codec::tq3: return f(CodecTurbo<3>{});
    case Codec::tq2: return f(CodecTurbo<2>{});
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
