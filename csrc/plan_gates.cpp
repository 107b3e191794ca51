// Products of a plan, and what joins them: linear (gate, up), swiglu or geglu, linear (down) become gated() and a product of
// its codes; a norm in front of a product of integers is computed on the way to its codes; attention leaves codes for the
// product behind it where a batch allows it. The operations keep their places and names; those that others do for them do
// nothing.
#include <algorithm>
#include <stdexcept>

#include "pack.h"
#include "plan.h"

namespace farthing {

namespace {

constexpr int64_t kFewTokens = 4;  // so few are computed apart

bool is_same(Columns a, Columns b) { return a.buffer == b.buffer && a.offset == b.offset && a.width == b.width; }
bool do_overlap(Columns a, Columns b) {
  return a.buffer == b.buffer && a.offset < b.offset + b.width && b.offset < a.offset + a.width;
}
bool is_within(Columns a, Columns whole) {
  return a.buffer == whole.buffer && whole.offset <= a.offset && a.offset + a.width <= whole.offset + whole.width;
}

}  // namespace

void Program::rms_norm(Columns src, Columns dst, int weight, float eps, int64_t group) {
  check(src, "rms_norm");
  check(dst, "rms_norm", !do_overlap(src, dst));
  if (src.width != dst.width || group < 1 || src.width % group || vector(weight).size != group)
    throw std::invalid_argument("rms_norm: src, dst and groups of the weight's size must fit");
  const size_t i = norms_.size();
  norms_.push_back({ops_.size(), src, dst, weight, eps, group, false, false});
  append("rms_norm", [=](const Run& r, Worker& w) {
    if (norms_[i].is_joined) return;
    kernels_.rms_norm(r.batch.num_tokens, view(src), view(dst), vector(weight).data.get(), eps, group, w);
  });
}

// Whether the last operation is a norm of whole rows that nobody but `p`, which comes next, need see.
bool Program::is_normed(const Product& p) const {
  if (norms_.empty() || !p.is_int8) return false;
  const Norm& norm = norms_.back();
  if (norm.op + 1 != p.op || norm.group != norm.src.width || !is_same(norm.dst, p.src)) return false;
  if (do_overlap(norm.src, norm.dst) || do_overlap(norm.src, p.dst)) return false;
  return have_codes(p.weights);
}

bool Program::have_codes(const std::vector<int>& ids) const {
  return std::all_of(ids.begin(), ids.end(), [&](int id) { return matrix(id).has_codes(); });
}

// Whether the last operation is an attention whose result nobody but `p`, which comes next, need see.
bool Program::is_attended(const Product& p) const {
  if (attended_.empty() || !p.is_int8) return false;
  const Attended& a = attended_.back();
  return a.op + 1 == p.op && is_same(a.dst, p.src) && have_codes(p.weights);
}

uint8_t* Program::attended_codes(size_t i, const Run& run) const {
  const Attended& a = attended_[i];
  return a.is_joined && kernels_.attends_to_codes(run.batch, kv_.shape, a.num_heads) ? run.attended : nullptr;
}

LinearArgs Program::product_args(const Product& p, const Run& run, View dst) const {
  const bool is_normed = p.norm && norms_[*p.norm].is_joined;
  const Columns src = is_normed ? norms_[*p.norm].src : p.src;
  LinearArgs a = linear_args(run, run.batch.num_tokens, view(src), dst, p.is_added, p.is_int8);
  if (is_normed) {
    a.norm_weight = vector(norms_[*p.norm].weight).data.get();
    a.norm_eps = norms_[*p.norm].eps;
  }
  return a;
}

void Program::run_product(const Product& p, const Run& run, Worker& w, bool is_quantized) const {
  const PackedMatrix* m[kMostAtOnce];
  const float* b[kMostAtOnce];
  LinearArgs a = product_args(p, run, view(p.dst));
  a.is_quantized = is_quantized;
  if (uint8_t* codes = p.attended ? attended_codes(*p.attended, run) : nullptr) {
    a.scratch = codes;
    a.is_quantized = true;
  }
  struct Finishing {
    const Program& program;
    const Product& p;
    const Run& run;
  };
  const Finishing finishing{*this, p, run};
  const Afterwards after{[](const void* context, int64_t first_token, int64_t end_token, int64_t first, int64_t end) {
                           const Finishing& f = *static_cast<const Finishing*>(context);
                           f.program.finish_heads(f.p, f.run.batch, first_token, end_token, first, end);
                         },
                         &finishing, p.heads->head_dim};
  if (p.heads->num_ops) a.after = &after;
  for (const Turn& turn : p.heads->turns) make_angles(turn, run, w);
  for (size_t first = 0; first < p.weights.size(); first += kMostAtOnce) {  // in practice one pass: q, k, v or gate, up
    a.num_weights = static_cast<int>(std::min(kMostAtOnce, p.weights.size() - first));
    int64_t width = 0;
    for (int i = 0; i < a.num_weights; ++i) {
      const size_t at = first + static_cast<size_t>(i);
      m[i] = &matrix(p.weights[at]);
      b[i] = p.biases[at] >= 0 ? vector(p.biases[at]).data.get() : nullptr;
      width += m[i]->rows;
    }
    a.weights = m;
    a.biases = b;
    kernels_.linear(a, w);
    a.dst.data += width;
  }
}

void Program::append_gate(const char* kind, Columns gate, Columns up, Columns dst, bool is_gelu) {
  check(gate, kind);
  check(up, kind);
  check(dst, kind, !do_overlap(dst, gate) && !do_overlap(dst, up));
  if (gate.width != up.width || gate.width != dst.width) throw std::invalid_argument(std::string(kind) + ": widths differ");
  last_gate_ = Gate{ops_.size(), gate, up, dst, is_gelu};
  append(kind, [=](const Run& r, Worker& w) {
    (is_gelu ? kernels_.geglu : kernels_.swiglu)(r.batch.num_tokens, view(gate), view(up), view(dst), w);
  });
}

// Whether the last two operations and `down`, which is the third, are a gated feed-forward in integers.
bool Program::is_gated(const Product& down) const {
  if (!last_product_ || !last_gate_) return false;
  const Product& first = *last_product_;
  const Gate& gate = *last_gate_;
  if (gate.op + 1 != down.op || first.op + 1 != gate.op) return false;
  if (first.weights.size() != 2 || down.weights.size() != 1 || first.is_added || !first.is_int8 || !down.is_int8) return false;
  if (first.attended) return false;  // gated() codes src itself
  const int64_t width = gate.gate.width;
  const Columns whole{gate.gate.buffer, gate.gate.offset, 2 * width};
  if (!is_same(first.dst, whole) || gate.up.buffer != whole.buffer || gate.up.offset != whole.offset + width) return false;
  const bool is_apart = !do_overlap(whole, first.src) && !do_overlap(whole, gate.dst) && !do_overlap(gate.dst, first.src);
  if (!is_same(gate.dst, down.src) || !is_apart || width % kQuantBlock) return false;
  const PackedMatrix &a = matrix(first.weights[0]), &b = matrix(first.weights[1]), &c = matrix(down.weights[0]);
  return a.rows == width && b.rows == width && a.has_codes() && b.has_codes() && c.has_codes();
}

void Program::fuse(const Product& down) {
  const Product first = *last_product_;
  const Gate gate = *last_gate_;
  const std::vector<Op> apart(ops_.begin() + static_cast<int64_t>(first.op), ops_.end());
  const auto codes = [=](const Run& r) { return r.scratch + linear_scratch(r.batch.num_tokens, first.src.width).shared; };
  ops_[first.op].body = [=](const Run& r, Worker& w) {
    if (r.batch.num_tokens <= kFewTokens) return apart[0].body(r, w);
    const PackedMatrix* m[2];
    const float* b[2];
    for (size_t i = 0; i < 2; ++i) {
      m[i] = &matrix(first.weights[i]);
      b[i] = first.biases[i] >= 0 ? vector(first.biases[i]).data.get() : nullptr;
    }
    GatedArgs a{product_args(first, r, {}), gate.is_gelu, codes(r)};
    a.products.weights = m;
    a.products.biases = b;
    a.products.num_weights = 2;
    kernels_.gated(a, w);
  };
  ops_[gate.op].body = [=](const Run& r, Worker& w) {
    if (r.batch.num_tokens <= kFewTokens) apart[1].body(r, w);
  };
  ops_[down.op].body = [=](const Run& r, Worker& w) {
    if (r.batch.num_tokens <= kFewTokens) return apart[2].body(r, w);
    Run of_codes = r;
    of_codes.scratch = codes(r);
    run_product(down, of_codes, w, true);
  };
  fused_.push_back({first.op, apart, {first.dst, gate.dst}});
  has_fused_ = true;
}

// An operation that is being appended reads columns, or writes them before anybody reads them.
void Program::touch(Columns c, bool is_written) {
  for (Norm& norm : norms_)
    if (norm.is_unwritten && do_overlap(norm.dst, c)) {
      norm.is_joined = is_written && is_within(norm.dst, c);
      norm.is_unwritten = false;
    }
  for (Attended& a : attended_)
    if (a.is_unwritten && do_overlap(a.dst, c)) {
      a.is_joined = is_written && is_within(a.dst, c);
      a.is_unwritten = false;
    }
  for (size_t i = 0; i < fused_.size();) {
    Fused& f = fused_[i];
    const auto is_hit = [&](Columns of) { return do_overlap(of, c); };
    if (std::none_of(f.unwritten.begin(), f.unwritten.end(), is_hit)) {
      ++i;
      continue;
    }
    if (is_written) {
      const auto is_gone = [&](Columns of) { return is_within(of, c); };
      f.unwritten.erase(std::remove_if(f.unwritten.begin(), f.unwritten.end(), is_gone), f.unwritten.end());
      if (std::none_of(f.unwritten.begin(), f.unwritten.end(), is_hit)) {
        if (f.unwritten.empty())
          fused_.erase(fused_.begin() + static_cast<int64_t>(i));
        else
          ++i;
        continue;
      }
    }
    std::copy(f.apart.begin(), f.apart.end(), ops_.begin() + static_cast<int64_t>(f.first_op));
    fused_.erase(fused_.begin() + static_cast<int64_t>(i));
  }
}

}  // namespace farthing
