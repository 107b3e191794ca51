// A mixture of experts: a block of tokens chooses, its rows are sorted by expert, and the experts that have any are
// multiplied straight from their packed weights, each as linear() would. Nothing is computed for the others.
//
// A row's sums are those of any other product, and a token adds its experts from the lowest to the highest, so that its
// result depends on nothing else in the batch (law 1).
#include "moe.h"

#include <algorithm>
#include <cmath>

#include "memory.h"
#include "products.h"

namespace farthing {
namespace FARTHING_ISA {

namespace {

// Marks the n largest of values [count] in chosen; of equal ones the first. Also where values are not numbers n are marked.
void mark_largest(const double* values, int64_t count, int64_t n, uint8_t* chosen) {
  std::fill_n(chosen, count, uint8_t{0});
  for (int64_t i = 0; i < n; ++i) {
    int64_t best = -1;
    for (int64_t e = 0; e < count; ++e)
      if (!chosen[e] && (best < 0 || values[e] > values[best])) best = e;
    chosen[best] = 1;
  }
}

// The sum of the two largest (or the only one).
double two_best(const double* values, int64_t count) {
  double first = -HUGE_VAL, second = count > 1 ? -HUGE_VAL : 0.0;
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] > first) {
      if (count > 1) second = first;
      first = values[i];
    } else if (values[i] > second) {
      second = values[i];
    }
  }
  return first + second;
}

// One token's experts, ascending, and their weights. In float64, as in kernels/gates.py.
void route(const float* logits, const MoeArgs& a, uint8_t* own, int32_t* experts, float* weights) {
  const int64_t count = a.num_experts;
  const GateRule& rule = a.rule;
  double* values = reinterpret_cast<double*>(own);  // what is compared
  double *scores = values + count, *groups = scores + count;
  uint8_t *chosen = reinterpret_cast<uint8_t*>(groups + count), *kept = chosen + count;
  double total = 1.0;
  if (rule.kind == Gate::sigmoid) {
    for (int64_t e = 0; e < count; ++e) {
      scores[e] = 1.0 / (1.0 + std::exp(-static_cast<double>(logits[e])));
      values[e] = scores[e] + (a.bias ? static_cast<double>(a.bias[e]) : 0.0);
    }
    const int64_t size = count / rule.num_groups;
    for (int64_t g = 0; g < rule.num_groups; ++g) groups[g] = two_best(values + g * size, size);
    mark_largest(groups, rule.num_groups, rule.num_kept_groups, kept);
    for (int64_t e = 0; e < count; ++e)
      if (!kept[e / size]) values[e] = -HUGE_VAL;
  } else {
    // Softmax is monotone: the choice is made on the logits, where two that differ are never rounded to a tie.
    const double highest = static_cast<double>(*std::max_element(logits, logits + count));
    for (int64_t e = 0; e < count; ++e) {
      values[e] = static_cast<double>(logits[e]);
      scores[e] = std::exp(values[e] - highest);
    }
  }
  mark_largest(values, count, rule.top_k, chosen);
  if (rule.kind != Gate::sigmoid) {
    total = 0.0;
    for (int64_t e = 0; e < count; ++e)
      if (rule.kind == Gate::softmax || chosen[e]) total += scores[e];
  }
  double sum = 0.0;
  int64_t n = 0;
  for (int64_t e = 0; e < count; ++e)
    if (chosen[e]) {
      experts[n++] = static_cast<int32_t>(e);
      sum += scores[e] / total;
    }
  const double divisor = rule.is_renormalised ? sum + 1e-20 : 1.0;
  for (int64_t i = 0; i < n; ++i)
    weights[i] = static_cast<float>(scores[experts[i]] / total / divisor * static_cast<double>(rule.scale));
}

// A block of tokens on its way through the experts.
class Block {
 public:
  Block(const MoeArgs& a, int64_t first, int64_t num_tokens, Worker& worker)
      : a_(a), worker_(worker), num_tokens_(num_tokens), num_sorted_(num_tokens * a.rule.top_k),
        layout_(moe_layout(a.num_tokens, a.num_experts, a.rule.top_k, a.src.width, a.expert_size)), src_(a.src), dst_(a.dst),
        is_int8_(a.is_int8 && a.has_codes) {
    src_.data += first * src_.stride;
    dst_.data += first * dst_.stride;
    logits_ = a.logits.data + first * a.logits.stride;
    own_ = a.scratch + layout_.total + worker.index * a.scratch_per_worker;
    own_panels_ = own_ + (activation_bytes(kTokensQuantizedByEach, a.src.width) + 63) / 64 * 64;
  }

  void run() {
    choose();
    prepare();
    multiply_all(kUp);
    activate();
    multiply_all(kDown);
    gather_up();
  }

 private:
  enum Step { kQuantize, kUp, kDown };

  template <class T>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(a_.scratch + offset);
  }
  int32_t* starts() const { return at<int32_t>(layout_.starts); }
  int32_t* active() const { return at<int32_t>(layout_.active); }
  int64_t num_active() const { return active()[a_.num_experts]; }
  int64_t* items(Step step) const { return at<int64_t>(layout_.items) + step * (a_.num_experts + 1); }
  int64_t num_rows(int64_t expert) const { return starts()[expert + 1] - starts()[expert]; }
  View inner() const {
    return {at<float>(layout_.inner), moe_stride(2 * a_.expert_size), 2 * a_.expert_size};
  }
  View outer() const { return {at<float>(layout_.outer), moe_stride(a_.src.width), a_.src.width}; }
  const PackedMatrix& matrix(const int* ids, int64_t expert) const { return a_.matrices[ids[expert]]; }
  // A lone token's row is the same for all its experts, and is kept once.
  bool is_lone() const { return num_tokens_ == 1; }
  int64_t group(int64_t expert) const { return is_int8_ ? group_size(num_rows(expert)) : 8; }
  int64_t chunk_panels(Step step) const {
    const PackedMatrix& m = matrix(step == kUp ? a_.gates : a_.downs, active()[0]);
    return panels_per_chunk(num_active() * (step == kUp ? 2 : 1) * m.num_panels(), num_sorted_, worker_.count);
  }
  int64_t chunks(Step step, int64_t per_chunk) const {
    const PackedMatrix& m = matrix(step == kUp ? a_.gates : a_.downs, active()[0]);
    return (m.num_panels() + per_chunk - 1) / per_chunk * (step == kUp ? 2 : 1);
  }
  int64_t cols(Step step) const { return step == kUp ? a_.src.width : a_.expert_size; }

  // Every token's experts; then the order of all assignments, by expert and by token.
  void choose() {
    int32_t* experts = at<int32_t>(layout_.experts);
    float* weights = at<float>(layout_.weights);
    const int64_t k = a_.rule.top_k;
    worker_.for_each_near(num_tokens_,
                          [&](int64_t t) { route(logits_ + t * a_.logits.stride, a_, own_, experts + t * k, weights + t * k); });
    if (worker_.index == 0) sort(experts);
    worker_.barrier();
    if (a_.is_in_file)  // all are asked for before the first is waited for
      worker_.for_each(num_active(), [&](int64_t i) {
        for (const int* ids : {a_.gates, a_.ups, a_.downs}) {
          const PackedMatrix& m = matrix(ids, active()[i]);
          will_need(m.data, m.num_bytes());
        }
      });
  }

  void sort(const int32_t* experts) {
    const int64_t count = a_.num_experts, k = a_.rule.top_k;
    int32_t* begin = starts();
    std::fill_n(begin, count + 1, 0);
    for (int64_t i = 0; i < num_sorted_; ++i) ++begin[experts[i] + 1];
    int32_t* found = active();
    int64_t num_active = 0, codes = 0;
    int64_t* codes_at = at<int64_t>(layout_.codes_at);
    const int64_t most_cols = std::max(a_.src.width, a_.expert_size);
    for (int64_t e = 0; e < count; ++e) {
      const int64_t n = begin[e + 1];
      begin[e + 1] += begin[e];
      codes_at[e] = codes;
      if (!n) continue;
      found[num_active++] = static_cast<int32_t>(e);
      codes += (activation_bytes(n, (most_cols + kQuantBlock - 1) / kQuantBlock * kQuantBlock) + 63) / 64 * 64;
    }
    found[count] = static_cast<int32_t>(num_active);
    *a_.num_read += num_active;
    int32_t *rows = at<int32_t>(layout_.rows), *places = at<int32_t>(layout_.places);
    for (int64_t i = 0; i < num_sorted_; ++i) {  // starts[e] runs to starts[e + 1] and is put back
      const int32_t place = begin[experts[i]]++;
      rows[place] = static_cast<int32_t>(i / k);
      places[i] = place;
    }
    for (int64_t e = count; e > 0; --e) begin[e] = begin[e - 1];
    begin[0] = 0;
    const int64_t up_chunks = chunks(kUp, chunk_panels(kUp)), down_chunks = chunks(kDown, chunk_panels(kDown));
    for (Step step : {kQuantize, kUp, kDown}) items(step)[0] = 0;
    for (int64_t i = 0; i < num_active; ++i) {
      const int64_t n = num_rows(found[i]), g = group(found[i]);
      auto passes = [&](int64_t width) {
        const int64_t per_pass = tokens_per_pass(n, width, is_int8_);
        return (n + per_pass - 1) / per_pass;
      };
      items(kQuantize)[i + 1] = items(kQuantize)[i] + (n + g - 1) / g;
      items(kUp)[i + 1] = items(kUp)[i] + passes(cols(kUp)) * up_chunks;
      items(kDown)[i + 1] = items(kDown)[i] + passes(cols(kDown)) * down_chunks;
    }
  }

  // Runs body(expert, item of that expert) for all items of a step.
  template <class F>
  void for_items(Step step, int64_t pieces, F&& body) {
    const int64_t* first = items(step);
    worker_.for_each_near(first[num_active()] * pieces, [&](int64_t i) {
      const int64_t item = i / pieces;
      const int64_t which = std::upper_bound(first, first + num_active(), item) - first - 1;
      body(active()[which], item - first[which], i % pieces);
    });
  }

  // An expert's product: the columns of `src` are multiplied, of rows that lie together or are named.
  LinearArgs expert_args(int64_t expert, Step step) const {
    const int64_t first = starts()[expert];
    LinearArgs args{};
    args.num_tokens = num_rows(expert);
    args.dst = step == kUp ? inner() : outer();
    args.dst.data += first * args.dst.stride;
    if (step == kDown) {
      args.src = inner();
      args.src.width = a_.expert_size;
      args.src.data += first * args.src.stride;
    } else if (is_lone()) {
      args.src = src_;
    } else {
      args.src = {at<float>(layout_.gathered) + first * moe_stride(a_.src.width), moe_stride(a_.src.width), a_.src.width};
    }
    return args;
  }
  uint8_t* codes(int64_t expert, Step step) const {
    if (!is_int8_) return nullptr;
    return at<uint8_t>(layout_.codes) + (step == kUp && is_lone() ? 0 : at<int64_t>(layout_.codes_at)[expert]);
  }

  // Every expert's rows of the input: as 8-bit codes, as float32 side by side, or both.
  void prepare() {
    const int64_t width = a_.src.width, num_blocks = is_int8_ ? width / kQuantBlock : 0;
    const int64_t pieces = std::max<int64_t>(1, (num_blocks + kBlocksPerItem - 1) / kBlocksPerItem);
    if (is_lone()) {
      if (is_int8_) {
        const LinearArgs args = expert_args(active()[0], kUp);
        worker_.for_each_near(pieces, [&](int64_t i) {
          const int64_t first = i * kBlocksPerItem;
          quantize(args, codes(active()[0], kUp), 0, 1, first, std::min(num_blocks, first + kBlocksPerItem));
        });
      }
      return;
    }
    for_items(kQuantize, pieces, [&](int64_t expert, int64_t item, int64_t piece) {
      const int64_t g = group(expert), t0 = item * g, t1 = std::min(num_rows(expert), t0 + g);
      LinearArgs args = expert_args(expert, kUp);
      const int32_t* rows = at<int32_t>(layout_.rows) + starts()[expert];
      if (a_.is_gathered && piece == 0)
        for (int64_t t = t0; t < t1; ++t)
          memcpy(args.src.data + t * args.src.stride, src_.data + rows[t] * src_.stride, static_cast<size_t>(width) * sizeof(float));
      if (!is_int8_) return;
      args.src = src_;
      args.rows = rows;
      const int64_t first = piece * kBlocksPerItem;
      quantize(args, codes(expert, kUp), t0, t1, first, std::min(num_blocks, first + kBlocksPerItem));
    });
  }

  // Gate and up of every active expert side by side, or down.
  void multiply_all(Step step) {
    const int64_t per_chunk = chunk_panels(step), n = chunks(step, per_chunk);
    for_items(step, 1, [&](int64_t expert, int64_t item, int64_t) {
      const LinearArgs args = expert_args(expert, step);
      const int64_t per_pass = tokens_per_pass(args.num_tokens, cols(step), is_int8_);
      const int64_t t0 = item / n * per_pass, t1 = std::min(args.num_tokens, t0 + per_pass);
      int64_t chunk = item % n;
      const bool is_second = step == kUp && chunk >= n / 2;  // up
      if (is_second) chunk -= n / 2;
      const PackedMatrix& m = matrix(step == kDown ? a_.downs : is_second ? a_.ups : a_.gates, expert);
      const int64_t begin = chunk * per_chunk, end = std::min(begin + per_chunk, m.num_panels());
      multiply(args, m, nullptr, is_second ? a_.expert_size : 0, codes(expert, step), begin, end, t0, t1, own_panels_);
    });
  }

  // silu(gate) * up in place of the gate, and its 8-bit codes.
  void activate() {
    const int64_t size = a_.expert_size, columns = kBlocksPerItem * kQuantBlock, pieces = (size + columns - 1) / columns;
    for_items(kQuantize, pieces, [&](int64_t expert, int64_t item, int64_t piece) {
      const int64_t g = group(expert), t0 = item * g, t1 = std::min(num_rows(expert), t0 + g);
      const LinearArgs args = expert_args(expert, kDown);
      const int64_t first = piece * columns, end = std::min(size, first + columns);
      for (int64_t t = t0; t < t1; ++t) {
        float* gate = args.src.data + t * args.src.stride + first;
        swiglu_row(gate, gate + size, gate, end - first);
      }
      if (is_int8_ && size % kQuantBlock == 0)
        quantize(args, codes(expert, kDown), t0, t1, first / kQuantBlock, end / kQuantBlock);
    });
  }

  // dst[t] += its experts' results, weighted, from the lowest to the highest.
  void gather_up() {
    constexpr int64_t kColumns = 512;
    const int64_t width = dst_.width, k = a_.rule.top_k, pieces = (width + kColumns - 1) / kColumns;
    const View from = outer();
    worker_.for_each_near(num_tokens_ * pieces, [&](int64_t i) {
      const int64_t t = i / pieces, first = i % pieces * kColumns, end = std::min(width, first + kColumns);
      const int32_t* places = at<int32_t>(layout_.places) + t * k;
      const float* weights = at<float>(layout_.weights) + t * k;
      float* out = dst_.data + t * dst_.stride;
      int64_t c = first;
      for (; c + 8 <= end; c += 8) {
        f32x8 sum = zero8();
        for (int64_t j = 0; j < k; ++j) sum = fmadd(splat(weights[j]), load8(from.data + places[j] * from.stride + c), sum);
        store8(out + c, load8(out + c) + sum);
      }
      for (; c < end; ++c) {
        float sum = 0.0f;
        for (int64_t j = 0; j < k; ++j) sum += weights[j] * from.data[places[j] * from.stride + c];
        out[c] += sum;
      }
    });
  }

  const MoeArgs& a_;
  Worker& worker_;
  const int64_t num_tokens_, num_sorted_;
  const MoeLayout layout_;
  View src_, dst_;
  const float* logits_;
  const bool is_int8_;
  uint8_t *own_, *own_panels_;
};

}  // namespace

void moe(const MoeArgs& a, Worker& worker) {
  for (int64_t first = 0; first < a.num_tokens; first += kMoeTokens)
    Block(a, first, std::min(kMoeTokens, a.num_tokens - first), worker).run();
}

}  // namespace FARTHING_ISA
}  // namespace farthing
