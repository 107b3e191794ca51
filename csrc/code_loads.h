// The codes of pages, loaded as the bytes that integer products take: four of a quad side by side for each lane of a
// vector (keys, or columns of values). Codes of 8 bits are read as they lie; of TurboQuant's the bits are taken apart and
// each looked up in the codebook, in registers. turboquant.h says how they lie.
//
//   load_keys<C>(x, keys, quad, table)       quad number `quad` of the keys that `keys` points at, 128 too high
//   load_values<C>(x, values, table)         columns from d on of four tokens; `values` says where
#pragma once
#include "turboquant.h"

namespace farthing {
namespace FARTHING_ISA {

// Where the keys of a vector of lanes lie, and how far it is from a quad (or those that share its bytes) to the next.
struct KeyCodes {
  const uint8_t* low;
  const uint8_t* high;  // tq3's highest bits
  int64_t step;
};
template <class C>
FARTHING_INLINE KeyCodes key_codes(const char* head, int64_t slot, int64_t head_dim, int64_t page_size) {
  const uint8_t* at = reinterpret_cast<const uint8_t*>(head) + 4 * slot;
  return {at, at + head_dim * page_size / 4, 4 * page_size};
}

// Where the values of a quad of tokens lie: column d, which is a multiple of the lanes, of row `quad`.
struct ValueCodes {
  const uint8_t* low;
  const uint8_t* high;
  int64_t half;  // which half of a group of 16 columns begins at d
};
template <class C>
FARTHING_INLINE ValueCodes value_codes(const char* head, int64_t quad, int64_t d, int64_t head_dim, int64_t page_size) {
  const uint8_t* first = reinterpret_cast<const uint8_t*>(head);
  if constexpr (C::kBits == 8) {
    return {first + 4 * (quad * head_dim + d), nullptr, 0};
  } else {
    const int64_t group = quad * (head_dim / 16) + d / 16;
    return {first + group * 8 * C::kLow, first + head_dim * page_size / 4 + group * 8, d / 8 % 2};
  }
}

// Codes that share a byte: their quads are read together.
template <class C>
constexpr int pieces_of() {
  if constexpr (C::kBits == 8) return 1;
  else return 8 / C::kLow;
}

#if defined(FARTHING_ISA_avx512)

constexpr int64_t kCodeLanes = 16;
constexpr int kParts = 1;  // vectors for a vector of lanes
typedef __m512i Sum;
typedef __m512i Table;

FARTHING_INLINE Table table_of(const Codebook* book, bool is_key) {
  if (!book) return _mm512_setzero_si512();
  const __m512i codes = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(book->codes)));
  return is_key ? _mm512_xor_si512(codes, _mm512_set1_epi8(-128)) : codes;
}

template <class C>
FARTHING_INLINE void load_keys(Sum* x, const KeyCodes& keys, int64_t quad, int piece, Table table) {
  if constexpr (C::kBits == 8) {
    *x = _mm512_loadu_si512(keys.low + quad * keys.step);
  } else {
    typedef unsigned long long u64x8 __attribute__((vector_size(64)));
    const __m512i raw = _mm512_loadu_si512(keys.low + quad / pieces_of<C>() * keys.step);
    __m512i number = reinterpret_cast<__m512i>(reinterpret_cast<u64x8>(raw) >> (piece * C::kLow));
    number = _mm512_and_si512(number, _mm512_set1_epi8((1 << C::kLow) - 1));
    if constexpr (C::kBits == 3) {
      const __m512i bits = _mm512_loadu_si512(keys.high + quad / 8 * keys.step);
      const __mmask64 is_high = _mm512_test_epi8_mask(bits, _mm512_set1_epi8(static_cast<char>(1 << quad % 8)));
      number = _mm512_mask_add_epi8(number, is_high, number, _mm512_set1_epi8(4));
    }
    *x = _mm512_shuffle_epi8(table, number);
  }
}

template <class C>
FARTHING_INLINE void load_values(Sum* x, const ValueCodes& values, Table table) {
  if constexpr (C::kBits == 8) {
    *x = _mm512_loadu_si512(values.low);
  } else {
    __m512i number;
    if constexpr (C::kLow == 4) {
      const __m512i raw = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values.low)));
      number = _mm512_srlv_epi64(raw, _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0));
    } else {
      const __m512i raw = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values.low)));
      number = _mm512_srlv_epi64(raw, _mm512_set_epi64(6, 6, 4, 4, 2, 2, 0, 0));
    }
    number = _mm512_and_si512(number, _mm512_set1_epi8((1 << C::kLow) - 1));
    if constexpr (C::kBits == 3) {
      int64_t eight;
      memcpy(&eight, values.high, 8);
      const __m512i from = _mm512_set4_epi32(0x03020100, 0x03020100, 0x03020100, 0x03020100);  // bytes [half][token]
      const __m512i half = _mm512_set_epi64(0x0404040404040404, 0x0404040404040404, 0x0404040404040404, 0x0404040404040404,
                                            0, 0, 0, 0);
      const __m512i bit = _mm512_broadcast_i64x4(_mm256_set_epi32(static_cast<int>(0x80808080), 0x40404040, 0x20202020,
                                                                  0x10101010, 0x08080808, 0x04040404, 0x02020202, 0x01010101));
      const __m512i bits = _mm512_shuffle_epi8(_mm512_set1_epi64(eight), _mm512_add_epi8(from, half));
      number = _mm512_mask_add_epi8(number, _mm512_test_epi8_mask(bits, bit), number, _mm512_set1_epi8(4));
    }
    *x = _mm512_shuffle_epi8(table, number);
  }
}

#elif defined(FARTHING_HAS_AVX2)

// 8 lanes are two vectors of pairs of int16.
constexpr int64_t kCodeLanes = 8;
constexpr int kParts = 2;
typedef __m256i Sum;
typedef __m256i Table;

FARTHING_INLINE Table table_of(const Codebook* book, bool is_key) {
  if (!book) return _mm256_setzero_si256();
  const __m256i codes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(book->codes)));
  return is_key ? _mm256_xor_si256(codes, _mm256_set1_epi8(-128)) : codes;
}

FARTHING_INLINE __m256i load32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
// Bytes whose `bit` is set become 4, the others 0.
FARTHING_INLINE __m256i four_where(__m256i bits, __m256i bit) {
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bits, bit), bit), _mm256_set1_epi8(4));
}
// The even ones of each lane's four bytes as a pair of int16, then the odd ones: products of pairs stay in their lane.
template <bool kIsSigned>
FARTHING_INLINE void widen(Sum* x, __m256i bytes) {
  x[0] = kIsSigned ? _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8) : _mm256_and_si256(bytes, _mm256_set1_epi16(255));
  x[1] = kIsSigned ? _mm256_srai_epi16(bytes, 8) : _mm256_srli_epi16(bytes, 8);
}

template <class C>
FARTHING_INLINE void load_keys(Sum* x, const KeyCodes& keys, int64_t quad, int piece, Table table) {
  if constexpr (C::kBits == 8) {
    widen<false>(x, load32(keys.low + quad * keys.step));
  } else {
    typedef unsigned long long u64x4 __attribute__((vector_size(32)));
    const __m256i raw = load32(keys.low + quad / pieces_of<C>() * keys.step);
    __m256i number = reinterpret_cast<__m256i>(reinterpret_cast<u64x4>(raw) >> (piece * C::kLow));
    number = _mm256_and_si256(number, _mm256_set1_epi8((1 << C::kLow) - 1));
    if constexpr (C::kBits == 3) {
      const __m256i bits = load32(keys.high + quad / 8 * keys.step);
      number = _mm256_or_si256(number, four_where(bits, _mm256_set1_epi8(static_cast<char>(1 << quad % 8))));
    }
    widen<false>(x, _mm256_shuffle_epi8(table, number));
  }
}

template <class C>
FARTHING_INLINE void load_values(Sum* x, const ValueCodes& values, Table table) {
  if constexpr (C::kBits == 8) {
    widen<true>(x, load32(values.low));
  } else {
    __m256i number;
    if constexpr (C::kLow == 4) {
      number = _mm256_srl_epi64(load32(values.low), _mm_cvtsi64_si128(4 * values.half));
    } else {
      const __m256i raw = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values.low)));
      const __m256i first = _mm256_set1_epi64x(4 * values.half), second = _mm256_set_epi64x(2, 2, 0, 0);
      number = _mm256_srlv_epi64(raw, _mm256_add_epi64(first, second));
    }
    number = _mm256_and_si256(number, _mm256_set1_epi8((1 << C::kLow) - 1));
    if constexpr (C::kBits == 3) {
      int32_t four;
      memcpy(&four, values.high + 4 * values.half, 4);  // a byte of each token: what column c says is bit c
      const __m256i bit = _mm256_set_epi32(static_cast<int>(0x80808080), 0x40404040, 0x20202020, 0x10101010, 0x08080808,
                                           0x04040404, 0x02020202, 0x01010101);
      number = _mm256_or_si256(number, four_where(_mm256_set1_epi32(four), bit));
    }
    widen<true>(x, _mm256_shuffle_epi8(table, number));
  }
}

#else

// 8 lanes are 8 words of four bytes.
constexpr int64_t kCodeLanes = 8;
constexpr int kParts = 1;
typedef i32x8 Sum;
struct Table {
  uint8_t codes[16];
};

FARTHING_INLINE Table table_of(const Codebook* book, bool is_key) {
  Table table{};
  for (int i = 0; book && i < 16; ++i) table.codes[i] = static_cast<uint8_t>(book->codes[i] ^ (is_key ? -128 : 0));
  return table;
}

FARTHING_INLINE void look_up(Sum* x, i32x8 numbers, const Table& table) {
  uint8_t bytes[32];
  memcpy(bytes, &numbers, 32);
  for (uint8_t& byte : bytes) byte = table.codes[byte];
  memcpy(x, bytes, 32);
}
constexpr int32_t each_byte(int value) { return value * 0x01010101; }

template <class C>
FARTHING_INLINE void load_keys(Sum* x, const KeyCodes& keys, int64_t quad, int piece, const Table& table) {
  if constexpr (C::kBits == 8) {
    memcpy(x, keys.low + quad * keys.step, 32);
  } else {
    i32x8 raw;
    memcpy(&raw, keys.low + quad / pieces_of<C>() * keys.step, 32);
    i32x8 number = (raw >> (piece * C::kLow)) & each_byte((1 << C::kLow) - 1);
    if constexpr (C::kBits == 3) {
      i32x8 bits;
      memcpy(&bits, keys.high + quad / 8 * keys.step, 32);
      number |= ((bits >> (quad % 8)) & each_byte(1)) << 2;
    }
    look_up(x, number, table);
  }
}

template <class C>
FARTHING_INLINE void load_values(Sum* x, const ValueCodes& values, const Table& table) {
  if constexpr (C::kBits == 8) {
    memcpy(x, values.low, 32);
  } else {
    i32x8 raw;
    if constexpr (C::kLow == 4) {
      memcpy(&raw, values.low, 32);
      raw >>= static_cast<int>(4 * values.half);
    } else {
      memcpy(&raw, values.low, 16);
      for (int c = 0; c < 4; ++c) raw[c + 4] = raw[c] >> 2;
      raw >>= static_cast<int>(4 * values.half);
    }
    i32x8 number = raw & each_byte((1 << C::kLow) - 1);
    if constexpr (C::kBits == 3) {
      int32_t four;
      memcpy(&four, values.high + 4 * values.half, 4);
      for (int c = 0; c < 8; ++c) number[c] |= ((four >> c) & each_byte(1)) << 2;
    }
    look_up(x, number, table);
  }
}

#endif

}  // namespace FARTHING_ISA
}  // namespace farthing
