// Plug-in: how keys and values are written in pages. A codec is one struct with the members of Plain below; attention
// only asks for eight codes at a time, as floats, and, where kHasScale, for each token's scale: a value is code * scale.
// To add one: write the struct, name it in enum Codec, in codec_head_bytes() and in with_codec().
//
// `head` is the start of one kv head inside a page: codes K [head_dim][page_size], V [page_size][head_dim].
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

// One code per element, none shared.
template <class Code>
struct Plain {
  using Type = typename Code::Type;
  static constexpr int64_t kBytes = sizeof(Type);  // of one element
  static constexpr bool kHasScale = false;

  static void encode_k(char* head, const KVShape& s, int64_t slot, const float* src) {
    Type* column = reinterpret_cast<Type*>(head) + slot;
    Type codes[8];
    for (int64_t d = 0; d < s.head_dim; d += 8) {
      Code::store(codes, load8(src + d));
      for (int i = 0; i < 8; ++i) column[(d + i) * s.page_size] = codes[i];
    }
  }

  static void encode_v(char* head, const KVShape& s, int64_t slot, const float* src) {
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

struct ByteCode {
  using Type = int8_t;
  static FARTHING_INLINE f32x8 load(const int8_t* p) { return load8_s8(p); }
};

// Codes of 8 bits from -127 to 127, one scale (max|x| / 127) for a token's whole head; the scales [page_size] of a page
// stand behind its codes.
struct CodecQ8 : Plain<ByteCode> {
  static constexpr bool kHasScale = true;

  static float* scales(char* head, const KVShape& s) { return reinterpret_cast<float*>(head + s.head_dim * s.page_size); }
  static const float* scales(const char* head, const KVShape& s) {
    return reinterpret_cast<const float*>(head + s.head_dim * s.page_size);
  }

  // Calls put(d, codes) for each eight columns; returns the scale.
  template <class Put>
  static FARTHING_INLINE float encode(const float* src, int64_t head_dim, Put&& put) {
    f32x8 largest = zero8();
    for (int64_t d = 0; d < head_dim; d += 8) {
      const f32x8 x = load8(src + d);
      largest = max8(largest, max8(x, -x));
    }
    const float max = max_of8(largest);
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

  static void encode_k(char* head, const KVShape& s, int64_t slot, const float* src) {
    int8_t* column = reinterpret_cast<int8_t*>(head) + slot;
    scales(head, s)[slot] = encode(src, s.head_dim, [&](int64_t d, const int8_t* codes) {
      for (int i = 0; i < 8; ++i) column[(d + i) * s.page_size] = codes[i];
    });
  }

  static void encode_v(char* head, const KVShape& s, int64_t slot, const float* src) {
    int8_t* row = reinterpret_cast<int8_t*>(head) + slot * s.head_dim;
    scales(head, s)[slot] = encode(src, s.head_dim, [&](int64_t d, const int8_t* codes) { memcpy(row + d, codes, 8); });
  }
};

using CodecF32 = Plain<FloatCode>;
using CodecF16 = Plain<HalfCode>;

// Calls f(codec) with the struct that `codec` names.
template <class F>
FARTHING_INLINE void with_codec(Codec codec, F&& f) {
  switch (codec) {
    case Codec::f32: return f(CodecF32{});
    case Codec::f16: return f(CodecF16{});
    case Codec::q8: return f(CodecQ8{});
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
