// The largest logit of each block: bounds that tell where in a row of logits the likeliest tokens are.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr float kLow = -__builtin_inff();

inline int64_t blocks_of(int64_t n) { return (n + kLogitBlock - 1) / kLogitBlock; }

// Eight logits from i on; -infinity beyond the end and for NaN.
FARTHING_INLINE f32x8 logits8(const float* x, int64_t i, int64_t n) {
  if (i + 8 <= n) return max8(load8(x + i), splat(kLow));
  float padded[8];
  for (int64_t j = 0; j < 8; ++j) padded[j] = i + j < n ? x[i + j] : kLow;
  return max8(load8(padded), splat(kLow));
}

// The largest of each block [begin, end) of a row of n logits.
inline void find_block_max(const float* x, int64_t n, int64_t begin, int64_t end, float* block_max) {
  for (int64_t b = begin; b < end; ++b) {
    f32x8 m = splat(kLow);
    const int64_t last = n < (b + 1) * kLogitBlock ? n : (b + 1) * kLogitBlock;
    for (int64_t i = b * kLogitBlock; i < last; i += 8) m = max8(logits8(x, i, n), m);
    block_max[b] = max_of8(m);
  }
}

}  // namespace FARTHING_ISA
}  // namespace farthing
