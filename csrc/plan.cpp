#include "plan.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace farthing {

namespace {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

float* floats(const Region& region) { return reinterpret_cast<float*>(region.get()); }

// Replaces a buffer, the old one being given back first; a vector may read past the last float.
void renew(Region& region, int64_t num_floats) {
  region.reset();
  region = map_region((static_cast<size_t>(num_floats) + 16) * sizeof(float));
}

// Asking for pages that are there costs as much as the product of one row, so it is done while the disk was lately waited for.
constexpr int kRunsToAsk = 64;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Codebook make_codebook(const int8_t* values, int bits, float per_unit) {
  Codebook book{};
  book.per_unit = per_unit;
  const int n = 1 << bits;
  for (int i = 0; i < 16; ++i) {
    book.codes[i] = values[std::min(i, n - 1)];
    book.centroids[i] = book.codes[i];
  }
  for (int level = 0; level < bits; ++level)
    for (int place = 0; place < 1 << level; ++place) {
      const int i = (2 * place + 1) * (n >> (level + 1)) - 1;  // the edge between centroids i and i + 1
      book.tree[level][place] = (book.centroids[i] + book.centroids[i + 1]) / 2;
    }
  return book;
}

Program::Program(const Kernels& kernels, std::shared_ptr<Team> team, const KVSpec& kv, int64_t vocab_size, const std::string& experts_folder)
    : kernels_(kernels), team_(std::move(team)), kv_(kv), vocab_size_(vocab_size) {
  if (kv.num_layers() < 1 || kv.v_codecs.size() != kv.k_codecs.size() || kv.num_pages < 1 || kv.shape.num_kv_heads < 1 || vocab_size < 1) fail("sizes must be 1 or more");
  if (kv.shape.head_dim < 8 || kv.shape.head_dim > kMostHeadDim || kv.shape.head_dim % 8)
    fail("head_dim must be a multiple of 8 up to 256, not " + std::to_string(kv.shape.head_dim));
  if (kv.shape.page_size < 8 || kSegment % kv.shape.page_size || kv.shape.page_size % 8)
    fail("page_size must be 8, 16, 32, 64, 128 or 256, not " + std::to_string(kv.shape.page_size));
  for (size_t i = 0; i < kv.k_codecs.size(); ++i) {
    LayerPlace place{};
    auto take = [&](Codec codec) {
      if (is_turboquant(codec) && (kv.shape.head_dim % 16 || kv.shape.page_size % 16))
        fail("TurboQuant codecs need a head_dim and a page_size that are multiples of 16, not " +
             std::to_string(kv.shape.head_dim) + " and " + std::to_string(kv.shape.page_size));
      return std::exchange(page_bytes_, page_bytes_ + kv.shape.num_kv_heads * codec_head_bytes(codec, kv.shape));
    };
    place.k_offset = take(kv.k_codecs[i]);
    place.v_offset = take(kv.v_codecs[i]);
    places_.push_back(place);
  }
  pages_ = map_region(kv_bytes());
  if (!experts_folder.empty()) expert_arena_ = std::make_unique<FileArena>(experts_folder);
}

size_t Program::kv_bytes() const {
  return static_cast<size_t>(kv_.num_pages * page_bytes_);
}

size_t Program::weight_bytes() const {
  size_t bytes = 0;
  for (const PackedMatrix& m : matrices_) bytes += m.num_bytes();
  for (const Vector& v : vectors_) bytes += static_cast<size_t>(v.size) * sizeof(float);
  return bytes;
}

int Program::add_buffer(int64_t width) {
  if (width < 1) fail("a buffer's width must be 1 or more");
  widths_.push_back(width);
  return static_cast<int>(widths_.size()) - 1;
}

int Program::add_matrix(const std::string& format, int64_t rows, int64_t cols, const uint8_t* data, size_t num_bytes,
                        bool is_expert, bool is_int8) {
  const int64_t expected = row_bytes(format, cols);
  if (expected && num_bytes != static_cast<size_t>(rows * expected))
    fail("a " + format + " matrix of " + std::to_string(rows) + " x " + std::to_string(cols) + " has " +
         std::to_string(rows * expected) + " bytes, not " + std::to_string(num_bytes));
  const auto allocate = [&](size_t bytes) {
    return is_expert && expert_arena_ ? expert_arena_->allocate(bytes) : arena_.allocate(bytes);
  };
  matrices_.push_back(pack(format, rows, cols, kernels_.panel_rows, data, allocate, is_int8 ? kernels_.to_words : nullptr, *team_));
  return static_cast<int>(matrices_.size()) - 1;
}

int Program::add_vector(const float* data, int64_t size) {
  Vector v{std::make_unique<float[]>(static_cast<size_t>(size)), size};
  std::copy(data, data + size, v.data.get());
  vectors_.push_back(std::move(v));
  return static_cast<int>(vectors_.size()) - 1;
}

void Program::append(const char* kind, std::function<void(const Run&, Worker&)> body) {
  size_t i = 0;
  while (i < seconds_.size() && seconds_[i].first != kind) ++i;
  if (i == seconds_.size()) seconds_.emplace_back(kind, 0.0);
  ops_.push_back({static_cast<int>(i), std::move(body)});
}

void Program::check(Columns c, const char* what, bool is_written) {
  if (c.buffer < 0 || c.buffer >= static_cast<int>(widths_.size())) fail(std::string(what) + ": no such buffer");
  if (c.offset < 0 || c.width < 1 || c.offset + c.width > widths_[static_cast<size_t>(c.buffer)])
    fail(std::string(what) + ": columns outside the buffer");
  touch(c, is_written);
}

const PackedMatrix& Program::matrix(int id) const {
  if (id < 0 || id >= static_cast<int>(matrices_.size())) fail("no such matrix");
  return matrices_[static_cast<size_t>(id)];
}

const Program::Vector& Program::vector(int id) const {
  if (id < 0 || id >= static_cast<int>(vectors_.size())) fail("no such vector");
  return vectors_[static_cast<size_t>(id)];
}

// Floats from one token's row to the next: an odd number of cache lines, so that the same columns of many tokens do not
// fall on the few places of the cache that a multiple of 4 KiB shares.
int64_t Program::stride_of(int64_t width) { return ((width + 15) / 16 | 1) * 16; }

View Program::view(Columns c) const {
  const size_t b = static_cast<size_t>(c.buffer);
  return {floats(activations_) + offsets_[b] * token_capacity_ + c.offset, stride_of(widths_[b]), c.width};
}

KVLayer Program::layer(int64_t index) const {
  // A page's layers lie side by side, so that a short conversation touches little memory however many pages there are.
  const size_t i = static_cast<size_t>(index);
  const LayerPlace& place = places_[i];
  auto side = [&](Codec codec, const float* mean) {
    return SideCodec{codec, is_turboquant(codec) ? &kv_.books[static_cast<int>(codec)] : nullptr, mean};
  };
  return {pages_.get() + place.k_offset, pages_.get() + place.v_offset, page_bytes_,
          side(kv_.k_codecs[i], k_means_.empty() ? nullptr : k_means_.data() + index * kv_.shape.num_kv_heads * kv_.shape.head_dim),
          side(kv_.v_codecs[i], nullptr)};
}

void Program::set_key_means(const float* means) {
  const int64_t width = kv_.shape.num_kv_heads * kv_.shape.head_dim;
  k_means_.assign(static_cast<size_t>(kv_.num_layers() * width), 0.0f);
  for (int64_t i = 0; i < kv_.num_layers(); ++i)
    if (is_turboquant(kv_.k_codecs[static_cast<size_t>(i)]))
      std::copy_n(means + i * width, width, k_means_.begin() + i * width);
}

void Program::embed(Columns dst, int weight, float scale) {
  check(dst, "embed");
  const PackedMatrix& m = matrix(weight);
  if (m.cols != dst.width || m.rows != vocab_size_) fail("embed: the weight must be [vocab_size, width of dst]");
  append("embed", [=](const Run& r, Worker& w) { kernels_.embed(r.batch, matrix(weight), scale, view(dst), w); });
}

int64_t Program::scratch_per_worker() const {
  return std::max(linear_scratch(1, max_cols_).per_worker, (moe_route_bytes(most_experts_) + 63) / 64 * 64);
}

LinearArgs Program::linear_args(const Run& run, int64_t num_tokens, View src, View dst, bool is_added, bool is_int8) const {
  LinearArgs a{};
  a.num_tokens = num_tokens;
  a.src = src;
  a.dst = dst;
  a.is_added = is_added;
  a.is_int8 = is_int8;
  a.scratch = run.scratch;
  a.scratch_per_worker = scratch_per_worker();
  return a;
}

void Program::linear(Columns src, Columns dst, const std::vector<int>& weights, const std::vector<int>& biases, bool is_added,
                     bool is_int8) {
  check(src, "linear");
  check(dst, "linear", !is_added);
  if (weights.empty() || weights.size() != biases.size()) fail("linear: one bias (or none) per weight");
  int64_t rows = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const PackedMatrix& m = matrix(weights[i]);
    if (m.cols != src.width) fail("linear: a weight's columns differ from src's width");
    if (biases[i] >= 0 && vector(biases[i]).size != m.rows) fail("linear: a bias differs from its weight's rows");
    rows += m.rows;
  }
  if (rows != dst.width) fail("linear: the weights' rows do not fill dst");
  if (src.buffer == dst.buffer && src.offset < dst.offset + dst.width && dst.offset < src.offset + src.width)
    fail("linear: src and dst overlap");
  max_cols_ = std::max(max_cols_, src.width);
  Product product{ops_.size(), src, dst, weights, biases, is_added, is_int8, {}, {}, std::make_shared<Heads>()};
  if (is_attended(product)) {
    product.attended = attended_.size() - 1;
    attended_.back().is_joined = attended_.back().is_unwritten = true;
  }
  if (is_normed(product)) {
    product.norm = norms_.size() - 1;
    norms_.back().is_joined = norms_.back().is_unwritten = true;
  }
  append("linear", [=](const Run& r, Worker& w) { run_product(product, r, w, false); });
  if (is_gated(product)) fuse(product);
  last_product_ = product;
}

void Program::attention(int64_t index, Columns q, Columns dst, int64_t num_heads, float scale, int64_t window) {
  check(q, "attention");
  check(dst, "attention", q.buffer != dst.buffer);
  if (index < 0 || index >= kv_.num_layers() || num_heads < 1 || num_heads % kv_.shape.num_kv_heads ||
      q.width != num_heads * kv_.shape.head_dim || dst.width != q.width)
    fail("attention: layer, heads and widths must fit the pages");
  if (window < 0) fail("attention: a window holds 1 position or more; 0 is the whole past");
  if (std::find(head_counts_.begin(), head_counts_.end(), num_heads) == head_counts_.end()) head_counts_.push_back(num_heads);
  const size_t i = attended_.size();
  attended_.push_back({ops_.size(), dst, num_heads, false, false});
  append("attention", [=](const Run& r, Worker& w) {
    kernels_.attention({r.batch, kv_.shape, layer(index), view(q), view(dst), num_heads, window, scale,
                        reinterpret_cast<float*>(r.scratch), attended_codes(i, r)}, w);
  });
}

void Program::swiglu(Columns gate, Columns up, Columns dst) { append_gate("swiglu", gate, up, dst, false); }

void Program::geglu(Columns gate, Columns up, Columns dst) { append_gate("geglu", gate, up, dst, true); }

void Program::add(Columns src, Columns dst) {
  check(src, "add");
  check(dst, "add");
  if (src.width != dst.width) fail("add: widths differ");
  append("add", [=](const Run& r, Worker& w) { kernels_.add(r.batch.num_tokens, view(src), view(dst), w); });
}

void Program::sigmoid_scale(Columns buf, Columns by) {
  check(buf, "sigmoid_scale");
  check(by, "sigmoid_scale");
  if (by.width != 1) fail("sigmoid_scale: one number for each token");
  append("sigmoid_scale", [=](const Run& r, Worker& w) { kernels_.sigmoid_scale(r.batch.num_tokens, view(buf), view(by), w); });
}

void Program::moe(Columns src, Columns logits, Columns dst, const GateRule& rule, int bias, const std::vector<int>& gates,
                  const std::vector<int>& ups, const std::vector<int>& downs, bool is_int8) {
  for (Columns c : {src, logits, dst}) check(c, "moe");
  const int64_t count = logits.width;
  for (const std::vector<int>& ids : {gates, ups, downs})
    if (static_cast<int64_t>(ids.size()) != count) fail("moe: gate, up and down of each expert that logits has a column for");
  if (rule.top_k < 1 || rule.top_k > count) fail("moe: top_k must be 1 to the number of experts");
  if (rule.num_groups < 1 || count % rule.num_groups || rule.num_kept_groups < 1 || rule.num_kept_groups > rule.num_groups ||
      rule.top_k > count / rule.num_groups * rule.num_kept_groups)
    fail("moe: groups must be equal, and those that are kept hold top_k experts");
  if (bias >= 0 && vector(bias).size != count) fail("moe: the bias differs from the number of experts");
  const int64_t size = matrix(gates[0]).rows;
  bool has_codes = false, is_gathered = !is_int8;
  for (int64_t e = 0; e < count; ++e) {
    const size_t i = static_cast<size_t>(e);
    const PackedMatrix &gate = matrix(gates[i]), &up = matrix(ups[i]), &down = matrix(downs[i]);
    for (const PackedMatrix* m : {&gate, &up})
      if (m->rows != size || m->cols != src.width) fail("moe: gate and up must be [expert size, width of src], of all experts alike");
    if (down.rows != dst.width || down.cols != size) fail("moe: down must be [width of dst, expert size], of all experts alike");
    has_codes |= gate.has_codes() || up.has_codes() || down.has_codes();
    is_gathered |= !gate.has_codes() || !up.has_codes();
  }
  if (src.width != dst.width || (src.buffer == dst.buffer && src.offset < dst.offset + dst.width && dst.offset < src.offset + src.width))
    fail("moe: src and dst must be alike and apart");
  max_cols_ = std::max({max_cols_, src.width, size});
  most_experts_ = std::max(most_experts_, count);
  const auto is_same = [&](const MoeSize& s) {
    return s.num_experts == count && s.top_k == rule.top_k && s.hidden == src.width && s.expert_size == size;
  };
  if (std::none_of(moe_sizes_.begin(), moe_sizes_.end(), is_same)) moe_sizes_.push_back({count, rule.top_k, src.width, size});
  append("moe", [=](const Run& r, Worker& w) {
    MoeArgs a{};
    a.num_tokens = r.batch.num_tokens;
    a.src = view(src);
    a.logits = view(logits);
    a.dst = view(dst);
    a.rule = rule;
    a.bias = bias >= 0 ? vector(bias).data.get() : nullptr;
    a.num_experts = count;
    a.expert_size = size;
    a.matrices = matrices_.data();
    a.gates = gates.data();
    a.ups = ups.data();
    a.downs = downs.data();
    a.is_int8 = is_int8;
    a.has_codes = has_codes;
    a.is_gathered = is_gathered;
    a.scratch = r.scratch;
    a.scratch_per_worker = scratch_per_worker();
    a.is_in_file = runs_to_ask_ > 0;
    a.num_read = &num_experts_read_;
    kernels_.moe(a, w);
  });
}

void Program::take(const std::vector<Columns>& srcs, const std::vector<Columns>& dsts) {
  if (srcs.empty() || srcs.size() != dsts.size()) fail("take: as many src as dst, one or more");
  for (size_t k = 0; k < srcs.size(); ++k) {
    check(srcs[k], "take");
    check(dsts[k], "take");
    if (srcs[k].width != dsts[k].width) fail("take: src and dst must be alike");
    for (const Columns& src : srcs)
      if (src.buffer == dsts[k].buffer) fail("take: src and dst must be of two buffers");  // rows are taken in any order
  }
  if (has_take_) fail("take: once in a plan");
  append("take", [=](const Run& r, Worker& w) {
    w.for_each(r.num_logits, [&](int64_t i) {
      for (size_t k = 0; k < srcs.size(); ++k) {
        const View from = view(srcs[k]), to = view(dsts[k]);
        memcpy(to.data + i * to.stride, from.data + r.logit_rows[i] * from.stride, static_cast<size_t>(from.width) * sizeof(float));
      }
    });
  });
  has_take_ = true;
  num_ops_before_taken_ = ops_.size();
}

// What stands here is read while the run lasts: the vectors grow to the largest batch and stay.
BatchView Program::Taken::of(const BatchView& batch, const int32_t* logit_rows, int64_t num_logits) {
  const size_t n = static_cast<size_t>(num_logits), width = static_cast<size_t>(batch.max_pages);
  token_ids.resize(n);
  positions.resize(n);
  seq_starts.resize(n + 1);
  page_tables.resize(n * width);
  std::iota(seq_starts.begin(), seq_starts.end(), 0);
  for (size_t i = 0; i < n; ++i) {
    const int32_t row = logit_rows[i];
    const int64_t b = std::upper_bound(batch.seq_starts, batch.seq_starts + batch.num_seqs, row) - batch.seq_starts - 1;
    token_ids[i] = batch.token_ids[row];
    positions[i] = batch.positions[row];
    std::copy_n(batch.page_tables + b * batch.max_pages, width, page_tables.begin() + static_cast<int64_t>(i * width));
  }
  return {num_logits, num_logits, token_ids.data(), positions.data(), seq_starts.data(), page_tables.data(), batch.max_pages};
}

void Program::head(Columns src, int weight, int bias, bool is_int8) {
  check(src, "head");
  const PackedMatrix& m = matrix(weight);
  if (m.cols != src.width) fail("head: the weight must have as many columns as src");
  if (has_head_) fail("head: once in a plan");
  if (bias >= 0 && vector(bias).size != m.rows) fail("head: the bias differs from the weight's rows");
  max_cols_ = std::max(max_cols_, src.width);
  head_width_ = src.width;
  num_outputs_ = m.rows;
  has_head_ = true;
  append("head", [=](const Run& r, Worker& w) {
    const View rows{floats(head_rows_), src.width, src.width};
    const View x = view(src);
    w.for_each(r.num_logits, [&](int64_t i) {
      memcpy(rows.data + i * src.width, x.data + r.logit_rows[i] * x.stride, static_cast<size_t>(src.width) * sizeof(float));
    });
    LinearArgs a = linear_args(r, r.num_logits, rows, {floats(logits_), num_outputs_, num_outputs_}, false, is_int8);
    const PackedMatrix* head = &matrix(weight);
    const float* b = bias >= 0 ? vector(bias).data.get() : nullptr;
    a.weights = &head;
    a.biases = &b;
    a.num_weights = 1;
    a.block_max = floats(block_max_);
    kernels_.linear(a, w);
  });
}

void Program::check_batch(const BatchView& b, const int32_t* logit_rows, int64_t num_logits) const {
  if (b.num_tokens < 1 || b.num_seqs < 1) fail("an empty batch");
  if (b.seq_starts[0] != 0 || b.seq_starts[b.num_seqs] != b.num_tokens) fail("seq_starts must run from 0 to the number of tokens");
  for (int64_t t = 0; t < b.num_tokens; ++t)
    if (b.token_ids[t] < 0 || b.token_ids[t] >= vocab_size_)
      fail("token id " + std::to_string(b.token_ids[t]) + " is outside the vocabulary of " + std::to_string(vocab_size_));
  for (int64_t s = 0; s < b.num_seqs; ++s) {
    const int64_t begin = b.seq_starts[s], end = b.seq_starts[s + 1];
    if (begin >= end) fail("a sequence without tokens");
    for (int64_t t = begin; t < end; ++t)
      if (b.positions[t] < 0 || b.positions[t] != b.positions[begin] + (t - begin)) fail("positions must ascend by one");
    const int64_t pages = b.positions[end - 1] / kv_.shape.page_size + 1;
    if (pages > b.max_pages) fail("the page table is shorter than the sequence");
    for (int64_t p = 0; p < pages; ++p) {
      const int32_t page = b.page_tables[s * b.max_pages + p];
      if (page < 0 || page >= kv_.num_pages) fail("page " + std::to_string(page) + " does not exist");
    }
  }
  for (int64_t i = 0; i < num_logits; ++i)
    if (logit_rows[i] < 0 || logit_rows[i] >= b.num_tokens) fail("a logit row outside the batch");
}

void Program::reserve(int64_t num_tokens, int64_t num_logits, int64_t scratch_bytes) {
  if (num_tokens > token_capacity_) {
    token_capacity_ = std::max(num_tokens, std::min<int64_t>(2 * token_capacity_, 512));
    int64_t width = 0;
    offsets_.clear();
    for (int64_t w : widths_) {
      offsets_.push_back(width);
      width += stride_of(w);
    }
    renew(activations_, width * token_capacity_);
    renew(rotary_, rotary_width_ * token_capacity_);
  }
  if (num_logits > logit_capacity_) {
    logit_capacity_ = num_logits;
    renew(logits_, num_logits * num_outputs_);
    renew(block_max_, num_logits * ((num_outputs_ + kLogitBlock - 1) / kLogitBlock));
    renew(head_rows_, num_logits * head_width_);
  }
  if (scratch_bytes > scratch_capacity_) {
    scratch_capacity_ = scratch_bytes;
    renew(scratch_, (scratch_bytes + 3) / 4);
  }
}

float* Program::run(const BatchView& batch, const int32_t* logit_rows, int64_t num_logits) {
  if (!has_head_) fail("the plan has no head");
  num_logits_ = 0;
  check_batch(batch, logit_rows, num_logits);
  const int64_t most_rows = std::max(batch.num_tokens, num_logits);  // rows may be wanted twice: more than tokens
  const LinearScratch linear = linear_scratch(most_rows, max_cols_);
  int64_t shared = (has_fused_ ? 2 : 1) * linear.shared;
  for (const MoeSize& s : moe_sizes_)
    shared = std::max(shared, moe_layout(most_rows, s.num_experts, s.top_k, s.hidden, s.expert_size).total);
  int64_t scratch_bytes = shared + team_->count() * scratch_per_worker();
  const bool is_taken = has_take_ && num_logits > 0;
  const BatchView rest = is_taken ? taken_.of(batch, logit_rows, num_logits) : batch;
  int64_t attended_at = 0;  // behind attention's own scratch: the scratch of the product that takes its codes
  for (const int64_t num_heads : head_counts_)
    for (const BatchView* b : {&batch, &rest})
      attended_at = std::max(attended_at, (4 * kernels_.attention_scratch(*b, kv_.shape, num_heads, team_->count()) + 63) / 64 * 64);
  if (attended_at) scratch_bytes = std::max(scratch_bytes, attended_at + linear.shared + team_->count() * scratch_per_worker());
  reserve(std::max(batch.num_tokens, rest.num_tokens), num_logits, scratch_bytes);
  const Run run{batch, logit_rows, num_logits, scratch_.get(), scratch_.get() + attended_at};
  // Behind take() each row of logits is the batch's row of the same number: where its sequence starts.
  const Run taken{rest, rest.seq_starts, num_logits, scratch_.get(), run.attended};
  const size_t num_ops = has_take_ && !is_taken ? num_ops_before_taken_ : ops_.size();
  const int64_t faults = expert_arena_ ? farthing::num_page_faults() : 0;
  team_->run([&](Worker& w) {
    double start = w.index == 0 ? now_s() : 0.0;
    for (size_t i = 0; i < num_ops; ++i) {
      const Op& op = ops_[i];
      op.body(is_taken && i >= num_ops_before_taken_ ? taken : run, w);
      if (w.index == 0) {
        const double end = now_s();
        seconds_[static_cast<size_t>(op.kind)].second += end - start;
        start = end;
      }
    }
  });
  if (expert_arena_) {
    const int64_t waited = farthing::num_page_faults() - faults;
    num_page_faults_ += waited;
    runs_to_ask_ = waited ? kRunsToAsk : std::max(0, runs_to_ask_ - 1);
  }
  num_logits_ = num_logits;
  return floats(logits_);
}

std::vector<double> Program::key_sums(const int32_t* token_ids, int64_t num_tokens, int64_t first) {
  const int64_t num_pages = (num_tokens + kv_.shape.page_size - 1) / kv_.shape.page_size;
  std::vector<int32_t> positions(static_cast<size_t>(num_tokens)), table(static_cast<size_t>(num_pages));
  std::iota(positions.begin(), positions.end(), 0);
  std::iota(table.begin(), table.end(), 0);
  const int32_t starts[] = {0, static_cast<int32_t>(num_tokens)};
  std::vector<double> sums(static_cast<size_t>(kv_.num_layers() * kv_.shape.num_kv_heads * kv_.shape.head_dim));
  // What stands in the program's own pages must neither matter nor be lost, and there may be fewer of them.
  Region pages = map_region(static_cast<size_t>(num_pages * page_bytes_));
  int64_t count = num_pages;
  auto exchange = [&] {
    std::swap(pages, pages_);
    std::swap(count, kv_.num_pages);
  };
  exchange();
  sums_ = sums.data();
  first_summed_ = first;
  try {
    run({num_tokens, 1, token_ids, positions.data(), starts, table.data(), num_pages}, nullptr, 0);
  } catch (...) {
    sums_ = nullptr;
    exchange();
    throw;
  }
  sums_ = nullptr;
  exchange();
  return sums;
}

void Program::sample(SampleArgs args) {
  if (args.logits == floats(logits_) && args.num_rows <= num_logits_) args.block_max = floats(block_max_);
  team_->run([&](Worker& w) { kernels_.sample(args, w); });
}

Limits probe(const Kernels& kernels, Team& team, int64_t num_bytes, int passes) {
  const Region buffer = map_region(static_cast<size_t>(num_bytes));
  memset(buffer.get(), 1, static_cast<size_t>(num_bytes));
  Limits best{};
  auto timed = [&](double work, auto&& body) {
    const double start = now_s();
    team.run(body);
    return work / (now_s() - start) / 1e9;
  };
  const int64_t chunk = 1 << 17, num_chunks = num_bytes / chunk, count = team.count();
  constexpr int64_t kRounds = 200000;
  std::unique_ptr<float[]> sinks(new float[static_cast<size_t>(count) * 16]);
  for (int i = 0; i < passes; ++i) {
    best.read_gb_s = std::max(best.read_gb_s, timed(static_cast<double>(num_chunks * chunk), [&](Worker& w) {
      float sum = 0;
      // Each member reads a contiguous share, as it does with weights.
      const int64_t begin = num_chunks * w.index / w.count, end = num_chunks * (w.index + 1) / w.count;
      for (int64_t c = begin; c < end; ++c) sum += kernels.probe_read(buffer.get() + c * chunk, chunk);
      sinks[static_cast<size_t>(w.index * 16)] = sum;
    }));
    auto spin = [&](float (*work)(int64_t)) {
      return [&, work](Worker& w) { sinks[static_cast<size_t>(w.index * 16)] = work(kRounds); };
    };
    best.f32_gflop_s = std::max(best.f32_gflop_s, timed(static_cast<double>(kRounds * count * kernels.probe_f32_ops), spin(kernels.probe_f32)));
    best.int8_gop_s = std::max(best.int8_gop_s, timed(static_cast<double>(kRounds * count * kernels.probe_int8_ops), spin(kernels.probe_int8)));
  }
  return best;
}

}  // namespace farthing
