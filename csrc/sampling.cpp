// The next token of each row: penalty, temperature, top-k, top-p, min-p, then the inverse of the cumulative sum.
#include <algorithm>
#include <cmath>
#include <vector>

#include "candidates.h"
#include "ops.h"

namespace farthing {
namespace FARTHING_ISA {

namespace {

// SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits.
uint64_t mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double uniform(uint64_t seed, uint64_t step) { return static_cast<double>(mix(mix(seed) + step) >> 11) * 0x1p-53; }

int32_t draw(const SampleArgs& a, int64_t r, const Row& row, Candidates& candidates, std::vector<double>& blocks) {
  const float temperature = a.temperature[r], top_p = a.top_p[r], min_p = std::min(a.min_p[r], 1.0f);
  const int64_t top_k = a.top_k[r] > 0 && a.top_k[r] < row.size ? a.top_k[r] : 0;
  const bool has_top_p = top_p < 1.0f, has_min_p = min_p > 0.0f;
  const double random = uniform(a.seed[r], a.step[r]);
  double total = (has_top_p && !top_k) || !(has_top_p || top_k || has_min_p) ? row.mass(temperature, blocks) : 0.0;
  if (!(top_k || has_top_p || has_min_p))
    return static_cast<int32_t>(
        index_at(random * total, blocks, row.size, [&](int64_t i) { return row.weights8(i, temperature); }));
  float bound = top_k ? std::max(row.bound(top_k), -FLT_MAX) : -FLT_MAX;
  // The logit of a share of the largest weight, and a little lower: the exact comparison comes after.
  auto at_least = [&](double share) {
    const double logit = row.max + temperature * (std::log(share) - 1e-3) - std::fabs(row.max) * 1e-6;
    bound = std::max(bound, static_cast<float>(logit));
  };
  if (has_top_p && !top_k)  // tokens below this have less than 1 - top_p together
    at_least((1.0 - std::max(top_p, 0.0f)) * total / static_cast<double>(row.size));
  if (has_min_p && !(has_top_p && top_k)) at_least(min_p);
  candidates.gather(row, bound);
  candidates.weigh(row.max, temperature);
  auto weights8 = [&](int64_t i) { return load8(candidates.weight.get() + i); };
  if (top_k) {
    candidates.keep_prefix(static_cast<double>(top_k), row.max, [](int64_t) { return splat(1.0f); });
    if (has_top_p) total = candidates.sum_from(-FLT_MAX, weights8).share;
  }
  if (has_top_p) candidates.keep_prefix(top_p * total, row.max, weights8);
  if (has_min_p) candidates.drop_below(min_p);
  return candidates.draw(random);
}

// Natural logarithms of softmax(logits): of the chosen token, and of the likeliest ones.
void report(const SampleArgs& a, int64_t r, const Row& row, Candidates& candidates, std::vector<double>& blocks) {
  const double log_mass = std::isinf(row.max) ? 0.0 : std::log(row.mass(1.0f, blocks));
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
  std::vector<double> blocks;
  worker.for_each(a.num_rows, [&](int64_t r) {
    const float* logits = a.logits + r * a.vocab_size;
    const float* known = a.block_max && a.is_as_run[r] ? a.block_max + r * blocks_of(a.vocab_size) : nullptr;
    const float* seen = penalized(a, r, logits, copy);
    row.look_at(seen, a.vocab_size, seen == logits ? known : nullptr);
    const bool is_greedy = !(a.temperature[r] > 0.0f) || std::isinf(row.max);
    a.token[r] = is_greedy ? row.argmax() : draw(a, r, row, candidates, blocks);
    a.logprob[r] = 0.0f;
    std::fill_n(a.top_token + r * a.num_top, a.num_top, 0);
    std::fill_n(a.top_logprob + r * a.num_top, a.num_top, 0.0f);
    if (!a.wants_logprob[r]) return;
    if (row.x != logits) row.look_at(logits, a.vocab_size, known);
    report(a, r, row, candidates, blocks);
  });
}

}  // namespace FARTHING_ISA
}  // namespace farthing
