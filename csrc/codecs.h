// Plug-in: how keys and values are written in pages. A codec is one struct with the members of Plain below; attention
// only asks for eight floats at a time. To add one: write the struct, name it in enum Codec and in with_codec().
//
// `head` is the start of one kv head inside a page: K [head_dim][page_size], V [page_size][head_dim].
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

  static int64_t head_bytes(const KVShape& s) { return s.head_dim * s.page_size * static_cast<int64_t>(sizeof(Type)); }

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

using CodecF32 = Plain<FloatCode>;
using CodecF16 = Plain<HalfCode>;

// Calls f(codec) with the struct that `codec` names.
template <class F>
FARTHING_INLINE void with_codec(Codec codec, F&& f) {
  switch (codec) {
    case Codec::f32: return f(CodecF32{});
    case Codec::f16: return f(CodecF16{});
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
