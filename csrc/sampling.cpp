// The next token of each row: penalty, temperature, top-k, top-p, min-p, then the inverse of the cumulative sum.
//
// Every filter keeps a prefix of the tokens in order (likeliest first, ties by lowest id), so none needs a full sort:
// the largest logit of each block of 64 gives cheap lower bounds that leave few candidates, and a radix selection on
// the bits of their logits finds where the prefix ends. A NaN counts as -infinity everywhere.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <memory>
#include <vector>

#include "ops.h"
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

namespace {

constexpr int64_t kBlock = 64;
constexpr float kLow = -__builtin_inff();

int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

// Eight logits from i on; -infinity beyond the end and for NaN.
FARTHING_INLINE f32x8 logits8(const float* x, int64_t i, int64_t n) {
  if (i + 8 <= n) return max8(load8(x + i), splat(kLow));
  float padded[8];
  for (int64_t j = 0; j < 8; ++j) padded[j] = i + j < n ? x[i + j] : kLow;
  return max8(load8(padded), splat(kLow));
}

struct Row {
  const float* x;
  int64_t size;
  float max;
  std::vector<float> block_max;

  void look_at(const float* logits, int64_t n) {
    x = logits;
    size = n;
    block_max.resize(blocks_of(n));
    f32x8 all = splat(kLow);
    for (int64_t b = 0; b < blocks_of(n); ++b) {
      f32x8 m = splat(kLow);
      for (int64_t i = b * kBlock; i < std::min(n, (b + 1) * kBlock); i += 8) m = max8(logits8(x, i, n), m);
      block_max[b] = max_of8(m);
      all = max8(m, all);
    }
    max = max_of8(all);
  }

  int32_t argmax() const {
    if (max == kLow) return 0;
    int64_t i = (std::find(block_max.begin(), block_max.end(), max) - block_max.begin()) * kBlock;
    while (x[i] != max) ++i;
    return static_cast<int32_t>(i);
  }

  // A bound that at least k tokens reach.
  float bound(int64_t k) const {
    if (k > static_cast<int64_t>(block_max.size())) return kLow;
    std::vector<float> largest(block_max);
    std::nth_element(largest.begin(), largest.begin() + (k - 1), largest.end(), std::greater<float>());
    return largest[k - 1];
  }

  // Sum of exp((x - max) / temperature) over all tokens.
  double mass(float temperature) const {
    double total = 0;
    for (int64_t b = 0; b < blocks_of(size); ++b) {
      if ((block_max[b] - max) / temperature < -87.0f) continue;  // where exp8 is 0
      f32x8 sum = zero8();
      for (int64_t i = b * kBlock; i < std::min(size, (b + 1) * kBlock); i += 8)
        sum = sum + exp8((logits8(x, i, size) - splat(max)) / splat(temperature));
      total += sum8(sum);
    }
    return total;
  }
};

// Bits that ascend with the logit.
uint32_t order_of(float x) {
  uint32_t bits;
  x += 0.0f;  // -0 and +0 are one logit
  memcpy(&bits, &x, 4);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Tokens that may still be drawn, by ascending id.
struct Candidates {
  std::unique_ptr<float[]> x, weight;  // weight: exp((x - max) / temperature)
  std::unique_ptr<int32_t[]> id;
  int64_t size = 0, capacity = 0;
  std::vector<int32_t> pool;

  void reserve(int64_t n) {
    n = blocks_of(n) * kBlock + kBlock;
    if (n <= capacity) return;
    capacity = n;
    x.reset(new float[n]);
    weight.reset(new float[n]);
    id.reset(new int32_t[n]);
  }

  void gather(const Row& row, float bound) {
    reserve(row.size);
    size = 0;
    for (int64_t b = 0; b < blocks_of(row.size); ++b) {
      if (row.block_max[b] < bound) continue;
      for (int64_t i = b * kBlock; i < std::min(row.size, (b + 1) * kBlock); ++i) {
        const float logit = row.x[i] > kLow ? row.x[i] : kLow;
        x[size] = logit;
        id[size] = static_cast<int32_t>(i);
        size += logit >= bound;
      }
    }
  }

  void weigh(float max, float temperature) {
    const int64_t end = blocks_of(size) * kBlock;
    std::fill(x.get() + size, x.get() + end, kLow);
    for (int64_t i = 0; i < end; i += 8)
      store8(weight.get() + i, exp8((load8(x.get() + i) - splat(max)) / splat(temperature)));
  }

  template <class Keep>
  void keep_if(Keep&& keep) {
    int64_t n = 0;
    for (int64_t i = 0; i < size; ++i) {
      x[n] = x[i];
      weight[n] = weight[i];
      id[n] = id[i];
      n += keep(n) ? 1 : 0;
    }
    size = n;
    std::fill(weight.get() + n, weight.get() + blocks_of(n) * kBlock, 0.0f);
  }

  // Keeps the smallest prefix, likeliest first, whose share(i) sum to `target` or more; everything if none does.
  template <class Share>
  void keep_prefix(double target, Share&& share) {
    double need = std::max(target, DBL_MIN);  // at least one token
    uint32_t threshold = 0;
    pool.resize(size);
    for (int64_t i = 0; i < size; ++i) pool[i] = static_cast<int32_t>(i);
    for (const int shift : {21, 10, 0}) {
      const uint32_t num_digits = shift ? 2048 : 1024;
      double sums[2048] = {};
      for (const int32_t i : pool) sums[order_of(x[i]) >> shift & (num_digits - 1)] += share(i);
      int64_t digit = num_digits - 1;
      while (digit >= 0 && sums[digit] < need) need -= sums[digit--];
      if (digit < 0) {
        if (shift == 21) return;
        while (sums[++digit] == 0) {}  // only rounding between two levels kept the sum below: the last token has it
        need = sums[digit];
      }
      threshold |= static_cast<uint32_t>(digit) << shift;
      pool.erase(std::remove_if(pool.begin(), pool.end(),
                                [&](int32_t i) { return order_of(x[i]) >> shift != threshold >> shift; }),
                 pool.end());
    }
    int64_t ties = 0;
    for (const int32_t i : pool) {
      if (need <= 0) break;
      need -= share(i);
      ++ties;
    }
    keep_if([&](int64_t i) {
      const uint32_t key = order_of(x[i]);
      return key > threshold || (key == threshold && ties-- > 0);
    });
  }

  // Sums of each block of weights, and their total.
  double sum(std::vector<double>& blocks) const {
    double total = 0;
    blocks.resize(blocks_of(size));
    for (size_t b = 0; b < blocks.size(); ++b) {
      f32x8 s = zero8();
      for (int64_t i = 0; i < kBlock; i += 8) s = s + load8(weight.get() + b * kBlock + i);
      total += blocks[b] = sum8(s);
    }
    return total;
  }

  // The token where the cumulative weight passes `uniform` of the total.
  int32_t draw(double uniform) const {
    std::vector<double> blocks;
    double left = uniform * sum(blocks);
    size_t b = 0;
    for (; b + 1 < blocks.size() && left >= blocks[b]; ++b) left -= blocks[b];
    int64_t i = b * kBlock;
    while (i < size && (left -= weight[i]) >= 0) ++i;
    for (i = std::min(i, size - 1); weight[i] == 0; --i) {}  // rounding may run off the end
    return id[i];
  }
};

// SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits.
uint64_t mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double uniform(uint64_t seed, uint64_t step) { return static_cast<double>(mix(mix(seed) + step) >> 11) * 0x1p-53; }

int32_t draw(const SampleArgs& a, int64_t r, const Row& row, Candidates& candidates) {
  const float temperature = a.temperature[r], top_p = a.top_p[r], min_p = std::min(a.min_p[r], 1.0f);
  const int64_t top_k = a.top_k[r] > 0 && a.top_k[r] < row.size ? a.top_k[r] : 0;
  const bool has_top_p = top_p < 1.0f;
  double total = 0;
  float bound = -FLT_MAX;
  // exp(share) of the largest weight, as a logit, and a little lower: the exact comparison comes after.
  auto at_least = [&](double share) {
    const double logit = row.max + temperature * (std::log(share) - 1e-3) - std::fabs(row.max) * 1e-6;
    bound = std::max(bound, static_cast<float>(logit));
  };
  if (top_k) bound = std::max(bound, row.bound(top_k));
  if (has_top_p && !top_k) {  // tokens below this have less than 1 - top_p together
    total = row.mass(temperature);
    at_least((1.0 - std::max(top_p, 0.0f)) * total / static_cast<double>(row.size));
  }
  if (min_p > 0.0f && !(has_top_p && top_k)) at_least(min_p);
  candidates.gather(row, bound);
  candidates.weigh(row.max, temperature);
  if (top_k) candidates.keep_prefix(static_cast<double>(top_k), [](int64_t) { return 1.0; });
  if (has_top_p) {
    std::vector<double> blocks;
    if (top_k) total = candidates.sum(blocks);
    candidates.keep_prefix(top_p * total, [&](int64_t i) { return candidates.weight[i]; });
  }
  if (min_p > 0.0f) candidates.keep_if([&](int64_t i) { return candidates.weight[i] >= min_p; });
  return candidates.draw(uniform(a.seed[r], a.step[r]));
}

// Natural logarithms of softmax(logits): of the chosen token, and of the likeliest ones.
void report(const SampleArgs& a, int64_t r, const Row& row, Candidates& candidates) {
  const double log_mass = std::isinf(row.max) ? 0.0 : std::log(row.mass(1.0f));
  auto logprob = [&](float x) {
    if (x == row.max) return static_cast<float>(-log_mass);
    return std::isinf(row.max) || std::isnan(x) ? kLow : static_cast<float>(x - row.max - log_mass);
  };
  a.logprob[r] = logprob(row.x[a.token[r]]);
  const int64_t num_top = std::min(a.num_top, row.size);
  if (num_top == 0) return;
  candidates.gather(row, row.bound(num_top));
  std::vector<int32_t> order(candidates.size);
  for (int64_t i = 0; i < candidates.size; ++i) order[i] = static_cast<int32_t>(i);
  std::partial_sort(order.begin(), order.begin() + num_top, order.end(), [&](int32_t i, int32_t j) {
    return candidates.x[i] != candidates.x[j] ? candidates.x[i] > candidates.x[j] : i < j;
  });
  for (int64_t i = 0; i < num_top; ++i) {
    a.top_token[r * a.num_top + i] = candidates.id[order[i]];
    a.top_logprob[r * a.num_top + i] = logprob(candidates.x[order[i]]);
  }
}

// As in Hugging Face: a logit of a token seen before is divided by the penalty if positive, multiplied if negative.
const float* penalized(const SampleArgs& a, int64_t r, const float* logits, std::vector<float>& copy) {
  const int64_t first = a.history_starts[r], end = a.history_starts[r + 1];
  if (a.penalty[r] == 1.0f || first == end) return logits;
  copy.assign(logits, logits + a.vocab_size);
  for (int64_t i = first; i < end; ++i) {
    const int32_t id = a.history[i];
    copy[id] = logits[id] < 0 ? logits[id] * a.penalty[r] : logits[id] / a.penalty[r];
  }
  return copy.data();
}

}  // namespace

void sample(const SampleArgs& a, Worker& worker) {
  Row row;
  Candidates candidates;
  std::vector<float> copy;
  worker.for_each(a.num_rows, [&](int64_t r) {
    const float* logits = a.logits + r * a.vocab_size;
    row.look_at(penalized(a, r, logits, copy), a.vocab_size);
    const bool is_greedy = !(a.temperature[r] > 0.0f) || std::isinf(row.max);
    a.token[r] = is_greedy ? row.argmax() : draw(a, r, row, candidates);
    a.logprob[r] = 0.0f;
    std::fill_n(a.top_token + r * a.num_top, a.num_top, 0);
    std::fill_n(a.top_logprob + r * a.num_top, a.num_top, 0.0f);
    if (!a.wants_logprob[r]) return;
    if (row.x != logits) row.look_at(logits, a.vocab_size);
    report(a, r, row, candidates);
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
