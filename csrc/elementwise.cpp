// Operations on one token at a time: normalisation, rotary embedding, gate, residual sum.
#include <algorithm>
#include <cmath>

#include "gates.h"
#include "norms.h"
#include "ops.h"
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

namespace {

typedef double f64x4 __attribute__((vector_size(32)));
typedef int64_t i64x4 __attribute__((vector_size(32)));

constexpr int64_t kColumns = 512;  // of one item of elementwise work: under a microsecond

// Runs body(first, end) over the tokens in a few pieces per member.
template <class F>
void for_tokens(int64_t num_tokens, Worker& worker, F&& body) {
  const int64_t step = std::max<int64_t>(1, num_tokens / (4 * worker.count));
  worker.for_each_near((num_tokens + step - 1) / step,
                  [&](int64_t i) { body(i * step, std::min(num_tokens, (i + 1) * step)); });
}

// Runs body(token, first column, end column) over everything, cut in columns too, so that one token keeps all busy.
template <class F>
void for_columns(int64_t num_tokens, int64_t width, Worker& worker, F&& body) {
  const int64_t pieces = (width + kColumns - 1) / kColumns;
  const int64_t step = std::max<int64_t>(1, num_tokens / (4 * worker.count));
  worker.for_each_near((num_tokens + step - 1) / step * pieces, [&](int64_t i) {
    const int64_t c = i % pieces * kColumns, t = i / pieces * step;
    for (int64_t token = t; token < std::min(num_tokens, t + step); ++token)
      body(token, c, std::min(width, c + kColumns));
  });
}

// dst[i] = f(a[i], b[i]), eight at a time; the last few go through a padded vector.
template <class F>
FARTHING_INLINE void map2(const float* a, const float* b, float* dst, int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) store8(dst + i, f(load8(a + i), load8(b + i)));
  if (i == n) return;
  float pa[8] = {}, pb[8] = {};
  memcpy(pa, a + i, (n - i) * sizeof(float));
  memcpy(pb, b + i, (n - i) * sizeof(float));
  store8(pa, f(load8(pa), load8(pb)));
  memcpy(dst + i, pa, (n - i) * sizeof(float));
}

// The same with wide vectors.
template <class F>
FARTHING_INLINE void map2_wide(const float* a, const float* b, float* dst, int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kWide <= n; i += kWide) storew(dst + i, f(loadw(a + i), loadw(b + i)));
  if (i == n) return;
  float pa[kWide] = {}, pb[kWide] = {};
  memcpy(pa, a + i, (n - i) * sizeof(float));
  memcpy(pb, b + i, (n - i) * sizeof(float));
  storew(pa, f(loadw(pa), loadw(pb)));
  memcpy(dst + i, pa, (n - i) * sizeof(float));
}

// Sine and cosine of four angles to well under half an ulp of float32, for |x| < 2^20: reduction by pi/2 in two parts,
// Taylor series on [-pi/4, pi/4] (truncated below 1e-11), quadrant from the low bits.
void sincos4(f64x4 x, f64x4* sine, f64x4* cosine) {
  auto all = [](double c) { return f64x4{c, c, c, c}; };
  const f64x4 shifted = x * all(0.63661977236758134308) + all(6755399441055744.0);  // 1.5 * 2^52: rounds to an integer
  const f64x4 n = shifted - all(6755399441055744.0);
  const f64x4 r = (x - n * all(1.5707963267341256)) - n * all(6.077100506506192e-11);
  const f64x4 r2 = r * r;
  f64x4 s = all(-1.0 / 39916800);
  for (const double c : {1.0 / 362880, -1.0 / 5040, 1.0 / 120, -1.0 / 6}) s = s * r2 + all(c);
  s = s * r2 * r + r;
  f64x4 c = all(1.0 / 479001600);
  for (const double k : {-1.0 / 3628800, 1.0 / 40320, -1.0 / 720, 1.0 / 24, -0.5, 1.0}) c = c * r2 + all(k);
  i64x4 quadrant;
  memcpy(&quadrant, &shifted, 32);
  const i64x4 is_odd = (quadrant & 1) != 0;
  const f64x4 a = is_odd ? c : s, b = is_odd ? s : c;
  *sine = (quadrant & 2) != 0 ? -a : a;
  *cosine = ((quadrant + 1) & 2) != 0 ? -b : b;
}

// cos and sin of one token, times scale: angle = float(position) * inv_freq in float32, as Hugging Face computes it.
// half: [half] each. interleaved: [2 half] each, every cosine twice, every sine as (-s, s).
void rotary_table(int32_t position, const float* inv_freq, int64_t half, bool interleaved, float scale, float* cosines,
                  float* sines) {
  const float p = static_cast<float>(position);
  for (int64_t i = 0; i < half; i += 4) {
    f64x4 angle = {}, s, c;
    const int64_t n = std::min<int64_t>(4, half - i);
    for (int64_t j = 0; j < n; ++j) angle[j] = p * inv_freq[i + j];
    sincos4(angle, &s, &c);
    for (int64_t j = 0; j < n; ++j) {
      const float cosine = static_cast<float>(c[j]) * scale, sine = static_cast<float>(s[j]) * scale;
      if (interleaved) {
        cosines[2 * (i + j)] = cosines[2 * (i + j) + 1] = cosine;
        sines[2 * (i + j)] = -sine;
        sines[2 * (i + j) + 1] = sine;
      } else {
        cosines[i + j] = cosine;
        sines[i + j] = sine;
      }
    }
  }
}

// One vector, or one number, of each half.
template <class V>
FARTHING_INLINE void turn(float* x, float* y, const float* cosines, const float* sines) {
  V a, b, c, s;
  memcpy(&a, x, sizeof a);
  memcpy(&b, y, sizeof b);
  memcpy(&c, cosines, sizeof c);
  memcpy(&s, sines, sizeof s);
  const V first = a * c - b * s, second = b * c + a * s;
  memcpy(x, &first, sizeof first);
  memcpy(y, &second, sizeof second);
}

void rotate_half(float* x, int64_t half, const float* cosines, const float* sines) {
  int64_t i = 0;
  for (; i + kWide <= half; i += kWide) turn<f32xw>(x + i, x + half + i, cosines + i, sines + i);
  for (; i + 8 <= half; i += 8) turn<f32x8>(x + i, x + half + i, cosines + i, sines + i);
  for (; i < half; ++i) turn<float>(x + i, x + half + i, cosines + i, sines + i);
}

void rotate_pairs(float* x, int64_t head_dim, const float* cosines, const float* sines) {
  int64_t i = 0;
  for (; i + 8 <= head_dim; i += 8) {
    const f32x8 v = load8(x + i);
    const f32x8 swapped = {v[1], v[0], v[3], v[2], v[5], v[4], v[7], v[6]};
    store8(x + i, v * load8(cosines + i) + swapped * load8(sines + i));
  }
  for (; i < head_dim; i += 2) {
    const float a = x[i], b = x[i + 1];
    x[i] = a * cosines[i] + b * sines[i];
    x[i + 1] = b * cosines[i + 1] + a * sines[i + 1];
  }
}

}  // namespace

void rms_norm(int64_t num_tokens, View src, View dst, const float* weight, float eps, int64_t group, Worker& worker) {
  for_tokens(num_tokens, worker, [&](int64_t first, int64_t end) {
    for (int64_t t = first; t < end; ++t) {
      for (int64_t g = 0; g < src.width; g += group) {
        const float* x = src.data + t * src.stride + g;
        const f32xw scale = norm_scale(x, group, eps);
        map2_wide(x, weight, dst.data + t * dst.stride + g, group, [&](f32xw v, f32xw w) { return v * scale * w; });
      }
    }
  });
}

void rotary(const BatchView& batch, int64_t head_dim, const float* inv_freq, bool interleaved, float scale, float* table,
            Worker& worker) {
  for_tokens(batch.num_tokens, worker, [&](int64_t first, int64_t end) {
    for (int64_t t = first; t < end; ++t) {
      float* row = table + t * 2 * head_dim;
      rotary_table(batch.positions[t], inv_freq, head_dim / 2, interleaved, scale, row, row + head_dim);
    }
  });
}

void rope_tokens(int64_t first, int64_t end, View buf, int64_t head_dim, const float* table, bool interleaved) {
  for (int64_t t = first; t < end; ++t) {
    const float *cosines = table + t * 2 * head_dim, *sines = cosines + head_dim;
    float* row = buf.data + t * buf.stride;
    for (int64_t h = 0; h < buf.width; h += head_dim) {
      if (interleaved)
        rotate_pairs(row + h, head_dim, cosines, sines);
      else
        rotate_half(row + h, head_dim / 2, cosines, sines);
    }
  }
}

void rope(int64_t num_tokens, View buf, int64_t head_dim, const float* table, bool interleaved, Worker& worker) {
  for_tokens(num_tokens, worker, [&](int64_t first, int64_t end) { rope_tokens(first, end, buf, head_dim, table, interleaved); });
}

void swiglu_row(const float* gate, const float* up, float* dst, int64_t n) { map2_wide(gate, up, dst, n, swiglu_of); }

void swiglu(int64_t num_tokens, View gate, View up, View dst, Worker& worker) {
  for_columns(num_tokens, dst.width, worker, [&](int64_t t, int64_t c, int64_t end) {
    swiglu_row(gate.data + t * gate.stride + c, up.data + t * up.stride + c, dst.data + t * dst.stride + c, end - c);
  });
}

void geglu(int64_t num_tokens, View gate, View up, View dst, Worker& worker) {
  for_columns(num_tokens, dst.width, worker, [&](int64_t t, int64_t c, int64_t end) {
    map2_wide(gate.data + t * gate.stride + c, up.data + t * up.stride + c, dst.data + t * dst.stride + c, end - c, geglu_of);
  });
}

void sigmoid_scale(int64_t num_tokens, View buf, View by, Worker& worker) {
  for_columns(num_tokens, buf.width, worker, [&](int64_t t, int64_t c, int64_t end) {
    const float scale = static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(by.data[t * by.stride]))));
    float* x = buf.data + t * buf.stride + c;
    map2_wide(x, x, x, end - c, [&](f32xw v, f32xw) { return v * splatw(scale); });
  });
}

void add(int64_t num_tokens, View src, View dst, Worker& worker) {
  for_columns(num_tokens, dst.width, worker, [&](int64_t t, int64_t c, int64_t end) {
    map2(dst.data + t * dst.stride + c, src.data + t * src.stride + c, dst.data + t * dst.stride + c, end - c,
         [](f32x8 a, f32x8 b) { return a + b; });
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
