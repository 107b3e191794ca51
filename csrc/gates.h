// What a gated feed-forward makes of a gate and what it lets through.
#pragma once
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

FARTHING_INLINE f32xw swiglu_of(f32xw gate, f32xw up) { return gate / (splatw(1.0f) + expw(-gate)) * up; }

// gelu by tanh's approximation, written as x * sigmoid(2 y). Beyond 80 the quotient is 0 or x to the last place, and
// x * x * x may be infinite.
FARTHING_INLINE f32xw geglu_of(f32xw gate, f32xw up) {
  const f32xw y = splatw(2 * 0.7978845608028654f) * (gate + splatw(0.044715f) * gate * gate * gate);
  const f32xw near = maxw(-maxw(-y, splatw(-80.0f)), splatw(-80.0f));
  return gate / (splatw(1.0f) + expw(-near)) * up;
}

}  // namespace FARTHING_ISA
}  // namespace farthing
