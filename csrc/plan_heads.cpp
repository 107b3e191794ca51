// What becomes of the heads that a product makes: rope() and store_kv(). Right behind the product whose columns they are, each
// head is turned and coded by the member that made it, while it is in its cache. The operations keep their places and names
// and do nothing then. Measured (two members): 2 to 3.5 % of a prompt of 2,048 tokens, for two passes over all heads and
// three barriers a layer less.
#include <algorithm>
#include <stdexcept>

#include "plan.h"

namespace farthing {

namespace {

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument(what); }

bool is_within(Columns a, Columns whole) {
  return a.buffer == whole.buffer && whole.offset <= a.offset && a.offset + a.width <= whole.offset + whole.width;
}

}  // namespace

// Whether the product before, and what is done with its heads already, stand right before the operation that comes next, of
// heads of `columns`.
bool Program::takes_heads(Columns columns, int64_t head_dim) const {
  if (!last_product_) return false;
  const Product& p = *last_product_;
  const Heads& heads = *p.heads;
  if (p.op + 1 + heads.num_ops != ops_.size() || p.is_added || p.weights.size() > kMostAtOnce || !is_within(columns, p.dst)) return false;
  if (heads.store || (heads.head_dim && heads.head_dim != head_dim)) return false;
  const auto is_whole = [&](int64_t n) { return n % head_dim == 0; };
  const auto has_whole = [&](int id) { return is_whole(matrix(id).rows); };
  return head_dim % kernels_.panel_rows == 0 && is_whole(columns.offset - p.dst.offset) &&
         std::all_of(p.weights.begin(), p.weights.end(), has_whole);
}

void Program::rope(Columns buf, int64_t head_dim, int inv_freq, bool is_interleaved, float scale) {
  check(buf, "rope");
  if (head_dim < 2 || head_dim % 2 || buf.width % head_dim || vector(inv_freq).size != head_dim / 2)
    fail("rope: whole heads of an even head_dim, and head_dim / 2 frequencies");
  // Every layer turns by the same angles: the first operation that needs a table makes it.
  const Rotary wanted{head_dim, inv_freq, is_interleaved, scale, rotary_width_, has_take_};
  const auto known = std::find_if(rotaries_.begin(), rotaries_.end(), [&](const Rotary& r) {
    return r.head_dim == head_dim && r.inv_freq == inv_freq && r.is_interleaved == is_interleaved && r.scale == scale &&
           r.is_taken == has_take_;
  });
  const bool is_first = known == rotaries_.end();
  const Turn turn{buf, is_first ? wanted : *known, is_first};
  if (is_first) {
    rotaries_.push_back(wanted);
    rotary_width_ += 2 * head_dim;
  }
  const bool is_joined = takes_heads(buf, head_dim);
  if (is_joined) {
    Heads& heads = *last_product_->heads;
    heads.turns.push_back(turn);
    heads.head_dim = head_dim;
    ++heads.num_ops;
  }
  append("rope", [=](const Run& r, Worker& w) {
    if (is_joined) return;
    make_angles(turn, r, w);
    kernels_.rope(r.batch.num_tokens, view(buf), head_dim, angles_of(turn.rotary), is_interleaved, w);
  });
}

float* Program::angles_of(const Rotary& rotary) const {
  return reinterpret_cast<float*>(rotary_.get()) + rotary.offset * token_capacity_;
}

void Program::make_angles(const Turn& turn, const Run& r, Worker& w) const {
  const Rotary& of = turn.rotary;
  if (turn.is_first)
    kernels_.rotary(r.batch, of.head_dim, vector(of.inv_freq).data.get(), of.is_interleaved, of.scale, angles_of(of), w);
}

void Program::store_kv(int64_t index, Columns k, Columns v) {
  check(k, "store_kv");
  check(v, "store_kv");
  const int64_t head_dim = kv_.shape.head_dim, width = kv_.shape.num_kv_heads * head_dim;
  if (index < 0 || index >= kv_.num_layers() || k.width != width || v.width != width)
    fail("store_kv: layer and widths must fit the pages");
  const bool is_joined = takes_heads(k, head_dim) && takes_heads(v, head_dim);
  if (is_joined) {
    Heads& heads = *last_product_->heads;
    heads.store = Store{index, k, v};
    heads.head_dim = head_dim;
    ++heads.num_ops;
  }
  append("store_kv", [=](const Run& r, Worker& w) {
    if (sums_ && w.index == 0)
      for (int64_t t = first_summed_; t < r.batch.num_tokens; ++t)
        for (int64_t d = 0; d < width; ++d) sums_[index * width + d] += view(k).data[t * view(k).stride + d];
    if (!is_joined)
      kernels_.store_kv(r.batch, kv_.shape, layer(index), view(k), view(v), w);
    else if (sums_)
      w.barrier();  // whoever comes next may write k
  });
}

// Columns [first, end) of a product's dst are whole heads, of some tokens.
void Program::finish_heads(const Product& p, const BatchView& batch, int64_t first_token, int64_t end_token, int64_t first,
                           int64_t end) const {
  // f(those of them that `all` has too, the first of them counted from where `all` begins)
  const auto with = [&](Columns all, auto&& f) {
    const int64_t begin = all.offset - p.dst.offset, from = std::max(first, begin), to = std::min(end, begin + all.width);
    if (from < to) f(view({all.buffer, p.dst.offset + from, to - from}), from - begin);
  };
  for (const Turn& turn : p.heads->turns)
    with(turn.buf, [&](View x, int64_t) {
      kernels_.rope_tokens(first_token, end_token, x, turn.rotary.head_dim, angles_of(turn.rotary), turn.rotary.is_interleaved);
    });
  if (!p.heads->store) return;
  const Store& store = *p.heads->store;
  for (const bool is_key : {true, false})
    with(is_key ? store.k : store.v, [&](View x, int64_t column) {
      kernels_.store_tokens(batch, kv_.shape, layer(store.layer), is_key, x, column / kv_.shape.head_dim, first_token, end_token);
    });
}

}  // namespace farthing
