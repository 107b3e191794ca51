// One row of logits, and those of its tokens that may still be drawn.
//
// Every filter keeps a prefix of the tokens in order (likeliest first, ties by lowest id), so none needs a full sort:
// the largest logit of each block of 64 gives cheap lower bounds that leave few candidates, and bisection over their
// logits finds where the prefix ends. A NaN counts as -infinity everywhere.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "block_max.h"

namespace farthing {
namespace FARTHING_ISA {

constexpr int64_t kBlock = kLogitBlock;

FARTHING_INLINE bool is_any(i32x8 mask) {
  int64_t halves[4];
  memcpy(halves, &mask, 32);
  return (halves[0] | halves[1] | halves[2] | halves[3]) != 0;
}

struct Row {
  const float* x;
  int64_t size;
  float max;
  const float* block_max;  // [blocks_of(size)]
  std::vector<float> own;  // where nobody knew them

  // known: the largest of each block, or null.
  void look_at(const float* logits, int64_t n, const float* known) {
    x = logits;
    size = n;
    block_max = known;
    if (!known) {
      own.resize(blocks_of(n));
      find_block_max(x, n, 0, blocks_of(n), own.data());
      block_max = own.data();
    }
    max = *std::max_element(block_max, block_max + blocks_of(n));
  }

  int32_t argmax() const {
    if (max == kLow) return 0;
    int64_t i = (std::find(block_max, block_max + blocks_of(size), max) - block_max) * kBlock;
    while (x[i] != max) ++i;
    return static_cast<int32_t>(i);
  }

  // A bound that at least k tokens reach.
  float bound(int64_t k) const {
    if (k > blocks_of(size)) return kLow;
    std::vector<float> largest(block_max, block_max + blocks_of(size));
    std::nth_element(largest.begin(), largest.begin() + (k - 1), largest.end(), std::greater<float>());
    return largest[k - 1];
  }

  FARTHING_INLINE f32x8 weights8(int64_t i, float temperature) const {
    return exp8_bounded((logits8(x, i, size) - splat(max)) / splat(temperature));
  }

  // Sums of exp((x - max) / temperature) over each block, and over all tokens.
  double mass(float temperature, std::vector<double>& blocks) const {
    double total = 0;
    blocks.assign(blocks_of(size), 0.0);
    const f32xw inverse = splatw(1.0f / temperature), least = splatw(-88.0f);  // below it the weight is as good as 0
    for (int64_t b = 0; b < blocks_of(size); ++b) {
      if ((block_max[b] - max) / temperature < -87.0f) continue;  // where exp8 is 0
      if ((b + 1) * kBlock <= size) {
        f32xw sum = {};
        for (int64_t i = b * kBlock; i < (b + 1) * kBlock; i += kWide) {
          const f32xw logits = maxw(loadw(x + i), splatw(kLow));
          sum = sum + expw(maxw((logits - splatw(max)) * inverse, least));
        }
        blocks[b] = sum_of_w(sum);
      } else {
        f32x8 sum = zero8();
        for (int64_t i = b * kBlock; i < size; i += 8) sum = sum + weights8(i, temperature);
        blocks[b] = sum8(sum);
      }
      total += blocks[b];
    }
    return total;
  }
};

// The index at which the cumulative weight passes `target`; weights8(i) are the weights of i .. i + 7, 0 from n on.
template <class F>
int64_t index_at(double target, const std::vector<double>& blocks, int64_t n, F&& weights8) {
  size_t b = 0;
  for (; b + 1 < blocks.size() && target >= blocks[b]; ++b) target -= blocks[b];
  int64_t last = -1;
  for (int64_t i = b * kBlock; i < n; i += 8) {
    const f32x8 w = weights8(i);
    for (int64_t j = 0; j < 8; ++j) {
      if (w[j] == 0) continue;
      last = i + j;
      if ((target -= w[j]) < 0) return last;
    }
  }
  for (int64_t i = b * kBlock; last < 0; i -= 8) {  // rounding ran off the end: the last that has any weight
    const f32x8 w = weights8(i);
    for (int64_t j = 0; j < 8; ++j) last = w[j] == 0 ? last : i + j;
  }
  return last;
}

// Integers that ascend with the logit, and back.
inline int32_t order_of(float x) {
  int32_t bits;
  x += 0.0f;  // -0 and +0 are one logit
  memcpy(&bits, &x, 4);
  return bits < 0 ? static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(bits)) : bits;
}
inline float logit_of(int32_t order) {
  const uint32_t bits = order < 0 ? 0x80000000u - static_cast<uint32_t>(order) : static_cast<uint32_t>(order);
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// Tokens that may still be drawn, by ascending id, padded to whole blocks with logit -infinity and weight 0.
struct Candidates {
  std::unique_ptr<float[]> x, weight;  // weight: exp((x - max) / temperature), 0 once a filter has dropped the token
  std::unique_ptr<int32_t[]> id;
  int64_t size = 0, capacity = 0;
  float least;  // no logit is below

  void reserve(int64_t n) {
    n = blocks_of(n) * kBlock + kBlock;
    if (n <= capacity) return;
    capacity = n;
    x.reset(new float[n]);
    weight.reset(new float[n]);
    id.reset(new int32_t[n]);
  }

  int64_t padded() const { return blocks_of(size) * kBlock; }

  void gather(const Row& row, float bound) {
    reserve(row.size);
    size = 0;
    least = bound;
    for (int64_t b = 0; b < blocks_of(row.size); ++b) {
      if (row.block_max[b] < bound) continue;
      const int64_t end = std::min(row.size, (b + 1) * kBlock);
#if defined(FARTHING_ISA_avx512)
      if (end == (b + 1) * kBlock) {
        gather_block(row.x, b * kBlock, bound);
        continue;
      }
#endif
      for (int64_t i = b * kBlock; i < end; i += 8) {
        const f32x8 logits = logits8(row.x, i, row.size);
        const i32x8 is_kept = ~less8(logits, splat(bound));
        const int64_t num_kept = compress8(is_kept, logits, static_cast<int32_t>(i), x.get() + size, id.get() + size);
        size += std::min(num_kept, row.size - size);  // beyond the end are -infinities, which a bound of -infinity keeps
      }
    }
    std::fill(x.get() + size, x.get() + padded(), kLow);
  }

#if defined(FARTHING_ISA_avx512)
  FARTHING_INLINE void gather_block(const float* logits, int64_t first, float bound) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int64_t i = first; i < first + kBlock; i += 16) {
      const f32xw v = maxw(loadw(logits + i), splatw(kLow));
      const __mmask16 is_kept = _mm512_cmp_ps_mask(v, splatw(bound), _CMP_NLT_UQ);
      const __m512i ids = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int32_t>(i)));
      storew(x.get() + size, _mm512_maskz_compress_ps(is_kept, v));
      _mm512_storeu_si512(id.get() + size, _mm512_maskz_compress_epi32(is_kept, ids));
      size += __builtin_popcount(is_kept);
    }
  }
#endif

  void weigh(float max, float temperature) {
    for (int64_t i = 0; i < padded(); i += 8)
      store8(weight.get() + i, exp8_bounded((load8(x.get() + i) - splat(max)) / splat(temperature)));
  }

  void drop_below(float least_weight) {
    for (int64_t i = 0; i < padded(); i += 8) {
      const f32x8 w = load8(weight.get() + i);
      store8(weight.get() + i, select8(less8(w, splat(least_weight)), zero8(), w));
    }
  }

  struct Sum {
    double share = 0;
    int64_t count = 0;
  };

  // What share8(i) gives for the candidates whose logit is `least` or more, summed.
  template <class F>
  Sum sum_from(float least, F&& share8) const {
    Sum sum;
    i32x8 skipped = {};
    for (int64_t b = 0; b < padded(); b += kBlock) {
      f32x8 s = zero8();
      for (int64_t i = b; i < b + kBlock; i += 8) {
        const i32x8 is_below = less8(load8(x.get() + i), splat(least));
        s = s + select8(is_below, zero8(), share8(i));
        skipped += is_below;
      }
      sum.share += sum8(s);
    }
    sum.count = padded();
    for (int j = 0; j < 8; ++j) sum.count += skipped[j];
    return sum;
  }

  // Keeps the smallest prefix, likeliest first, whose shares sum to `target` or more; everything if none does.
  // share8(i) are the shares of i .. i + 7, not negative.
  template <class F>
  void keep_prefix(double target, float max, F&& share8) {
    constexpr int64_t kFew = 32;
    target = std::max(target, DBL_MIN);  // at least one token
    int32_t low = order_of(least), high = order_of(max) + 1;
    Sum from_low = sum_from(least, share8), from_high;  // the first reaches the target, the second does not
    if (from_low.share < target) return;
    // By logit, which splits evenly; then by the bits, which is sure to end.
    for (int pass = 0; high - static_cast<int64_t>(low) > 1 && from_low.count - from_high.count > kFew; ++pass) {
      int32_t middle = order_of(logit_of(low) / 2 + logit_of(high) / 2);
      if (pass >= 20 || middle <= low || middle >= high)
        middle = static_cast<int32_t>((static_cast<int64_t>(low) + high) / 2);
      const Sum sum = sum_from(logit_of(middle), share8);
      (sum.share < target ? high : low) = middle;
      (sum.share < target ? from_high : from_low) = sum;
    }
    cut(logit_of(low), logit_of(high), target - from_high.share, share8);
  }

  // Drops, among the candidates with a logit in [low, high), those after the prefix whose shares reach `need`, and all
  // candidates below.
  template <class F>
  void cut(float low, float high, double need, F&& share8) {
    std::vector<std::pair<float, int64_t>> window;  // (-logit, index): ascending is the order of tokens
    for (int64_t i = 0; i < padded(); i += 8) {
      const f32x8 v = load8(x.get() + i);
      const i32x8 is_above = ~less8(v, splat(high)), is_in = ~(less8(v, splat(low)) | is_above);
      if (is_any(is_in)) {
        for (int64_t j = 0; j < 8; ++j)
          if (is_in[j]) window.emplace_back(-x[i + j], i + j);
      }
      store8(weight.get() + i, select8(is_above | is_in, load8(weight.get() + i), zero8()));
    }
    std::sort(window.begin(), window.end());
    for (const auto& [logit, i] : window) {
      const double share = share8(i / 8 * 8)[i % 8];
      if (need <= 0) weight[i] = 0;
      need -= share;
    }
  }

  int32_t draw(double uniform) const {
    std::vector<double> blocks(blocks_of(size));
    double total = 0;
    for (size_t b = 0; b < blocks.size(); ++b) {
      f32x8 s = zero8();
      for (int64_t i = 0; i < kBlock; i += 8) s = s + load8(weight.get() + b * kBlock + i);
      total += blocks[b] = sum8(s);
    }
    return id[index_at(uniform * total, blocks, size, [&](int64_t i) { return load8(weight.get() + i); })];
  }
};

}  // namespace FARTHING_ISA
}  // namespace farthing
