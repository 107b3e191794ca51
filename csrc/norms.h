// The root mean square norm of a row: rms_norm() writes what a product of integers may quantize on the way (quantize()).
#pragma once
#include <cmath>

#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

// Four sums side by side in a fixed order, whatever the instruction set.
inline float sum_of_squares(const float* x, int64_t n) {
  f32x8 s[4] = {};
  int64_t i = 0;
#if defined(FARTHING_ISA_avx512)
  f32xw both[2] = {};  // two of them in each
  for (; i + 32 <= n; i += 32)
    for (int j = 0; j < 2; ++j) both[j] = fmadd(loadw(x + i + j * 16), loadw(x + i + j * 16), both[j]);
  for (int j = 0; j < 4; ++j) s[j] = j % 2 ? high_half(both[j / 2]) : low_half(both[j / 2]);
#else
  for (; i + 32 <= n; i += 32)
    for (int j = 0; j < 4; ++j) s[j] = fmadd(load8(x + i + j * 8), load8(x + i + j * 8), s[j]);
#endif
  for (; i + 8 <= n; i += 8) s[0] = fmadd(load8(x + i), load8(x + i), s[0]);
  float sum = sum8((s[0] + s[1]) + (s[2] + s[3]));
  for (; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// What each of n columns is multiplied by before its weight.
FARTHING_INLINE f32xw norm_scale(const float* x, int64_t n, float eps) {
  return splatw(1.0f / std::sqrt(sum_of_squares(x, n) / static_cast<float>(n) + eps));
}

}  // namespace FARTHING_ISA
}  // namespace farthing
