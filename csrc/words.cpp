// q4_1 as products of AVX-512 take it. Scale and minimum of a block become two words of 16 bits, in units of their row, so
// that one multiplication of pairs stands for a product of scales and a multiply-add: the sum of products with codes less 8
// fits 16 bits (8 * 127 * 32), and eight times the sum of activations' codes fits as many. A word is off by at most a
// 65,534th of the row's largest: f16 holds a scale to a 4,096th of itself.
#include <algorithm>

#include "ops.h"
#include "packed_block.h"

namespace farthing {
namespace FARTHING_ISA {

#if defined(FARTHING_ISA_avx512)

void to_words(const PackedMatrix& m, int64_t p) {
  typedef Block<Packed::q4_words> B;
  uint8_t* const panel = m.data + p * m.panel_bytes;
  const int64_t num_blocks = m.cols / kQuantBlock;
  auto header = [&](int64_t b) { return const_cast<uint8_t*>(B::at(panel, b)); };
  auto minimum_of = [](const uint8_t* at) { return fmadd(splatw(8.0f), loadw_f16(at), loadw_f16(at + 2 * kPanel)) * splatw(0.125f); };
  f32xw largest{}, nothing{};  // nothing, unless a number is infinite or none
  for (int64_t b = 0; b < num_blocks; ++b) {
    const uint8_t* const at = header(b);
    constexpr int kMagnitude = 0x0b;  // the larger magnitude, without its sign
    largest = _mm512_range_ps(largest, _mm512_range_ps(loadw_f16(at), minimum_of(at), kMagnitude), kMagnitude);
    nothing = nothing + minimum_of(at) * splatw(0.0f);
  }
  const f32xw unit = largest * splatw(1.0f / 32767);
  const __mmask16 is_any = _mm512_cmp_ps_mask(unit, f32xw{}, _CMP_GT_OQ);
  const f32xw inverse = _mm512_maskz_div_ps(is_any, splatw(1.0f), unit);
  for (int64_t b = 0; b < num_blocks; ++b) {
    uint8_t* const at = header(b);
    const __m512i scale = _mm512_cvtps_epi32(loadw_f16(at) * inverse), minimum = _mm512_cvtps_epi32(minimum_of(at) * inverse);
    _mm512_storeu_si512(at, _mm512_mask_blend_epi16(0xaaaaaaaa, scale, _mm512_slli_epi32(minimum, 16)));
  }
  storew(reinterpret_cast<float*>(panel), unit + nothing);
}

#endif

}  // namespace FARTHING_ISA
}  // namespace farthing
