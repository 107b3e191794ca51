// A model's plan, made ready to run: packed weights, pages, activation buffers, and one call per step.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory.h"
#include "moe.h"
#include "pack.h"

namespace farthing {

// Columns [offset, offset + width) of buffer `buffer`.
struct Columns {
  int buffer;
  int64_t offset, width;
};

struct KVSpec {
  int64_t num_pages;
  KVShape shape;
  std::vector<Codec> k_codecs, v_codecs;  // of each layer
  Codebook books[kNumCodecs];             // of the TurboQuant codecs among them

  int64_t num_layers() const { return static_cast<int64_t>(k_codecs.size()); }
};

constexpr size_t kMostAtOnce = 8;  // weights of a product that one linear() multiplies

// Every method throws std::invalid_argument when shapes do not fit; run() also when the batch reaches outside them.
class Program {
 public:
  // experts_folder: where matrices of experts are kept in a file; "" keeps them in memory.
  Program(const Kernels& kernels, std::shared_ptr<Team> team, const KVSpec& kv, int64_t vocab_size, const std::string& experts_folder);

  int add_buffer(int64_t width);
  int add_matrix(const std::string& format, int64_t rows, int64_t cols, const uint8_t* data, size_t num_bytes, bool is_expert,
                 bool is_int8);
  int add_vector(const float* data, int64_t size);

  // What is taken off keys before TurboQuant codes them: means [num_layers, num_kv_heads * head_dim]. Pages that were
  // written before no longer fit.
  void set_key_means(const float* means);

  // Appends an operation; they run in this order.
  void embed(Columns dst, int weight, float scale);
  void rms_norm(Columns src, Columns dst, int weight, float eps, int64_t group);
  void linear(Columns src, Columns dst, const std::vector<int>& weights, const std::vector<int>& biases, bool is_added, bool is_int8);
  void rope(Columns buf, int64_t head_dim, int inv_freq, bool is_interleaved, float scale);
  void store_kv(int64_t layer, Columns k, Columns v);
  // window: positions that a token sees, its own the last; 0 is the whole past.
  void attention(int64_t layer, Columns q, Columns dst, int64_t num_heads, float scale, int64_t window);
  void swiglu(Columns gate, Columns up, Columns dst);
  void geglu(Columns gate, Columns up, Columns dst);
  void add(Columns src, Columns dst);
  void sigmoid_scale(Columns buf, Columns by);
  // gates, ups, downs: a matrix of each expert.
  void moe(Columns src, Columns logits, Columns dst, const GateRule& rule, int bias, const std::vector<int>& gates,
           const std::vector<int>& ups, const std::vector<int>& downs, bool is_int8);
  // dst[i] = src[logit_rows[i]] of each pair; from here on the batch is those rows, each the only token of a sequence of
  // its own. Once.
  void take(const std::vector<Columns>& srcs, const std::vector<Columns>& dsts);
  void head(Columns src, int weight, int bias, bool is_int8);

  // Returns logits [num_logits, num_outputs], valid until the next call.
  float* run(const BatchView& batch, const int32_t* logit_rows, int64_t num_logits);

  // What the head read for each row of the last run's logits [num_logits, hidden_width]; valid as long as they are.
  float* hidden() const { return reinterpret_cast<float*>(head_rows_.get()); }
  int64_t hidden_width() const { return head_width_; }
  int64_t num_logits() const { return num_logits_; }
  int64_t num_outputs() const { return num_outputs_; }  // rows of the head

  // Runs one sequence from its beginning, in pages of its own; sums [num_layers, num_kv_heads * head_dim] of the keys of
  // its tokens from `first` on, before coding.
  std::vector<double> key_sums(const int32_t* token_ids, int64_t num_tokens, int64_t first);

  void sample(SampleArgs args);  // of the last run's logits it knows block_max

  int64_t vocab_size() const { return vocab_size_; }
  const KVSpec& kv() const { return kv_; }
  size_t weight_bytes() const;
  size_t kv_bytes() const;
  int64_t num_pages() const { return kv_.num_pages; }
  // Page p of all layers is kv_bytes() / num_pages() bytes, one page behind the other.
  uint8_t* pages() const { return pages_.get(); }
  const std::shared_ptr<Team>& team() const { return team_; }  // programs that never run at the same time may share one
  // Experts that were read, a layer and a block of tokens each counting their own, since the start.
  int64_t num_experts_read() const { return num_experts_read_; }
  // Reads of experts that waited for the disk, of the whole process while runs went on; 0 where experts are in memory.
  int64_t num_page_faults() const { return num_page_faults_; }
  // Seconds spent in each operation since the start, by kind.
  const std::vector<std::pair<std::string, double>>& seconds() const { return seconds_; }

 private:
  struct Run {
    BatchView batch;
    const int32_t* logit_rows;
    int64_t num_logits;
    uint8_t* scratch;
    uint8_t* attended;  // the scratch of a product that takes the codes of the attention before it
  };
  struct Op {
    int kind;  // index into seconds_
    std::function<void(const Run&, Worker&)> body;
  };
  struct Taken {  // the batch behind take(): one sequence per row of logits
    std::vector<int32_t> token_ids, positions, seq_starts, page_tables;
    BatchView of(const BatchView& batch, const int32_t* logit_rows, int64_t num_logits);
  };
  struct Rotary {  // a table of angles: what it depends on, and where it lies in rotary_, in floats per token of capacity
    int64_t head_dim;
    int inv_freq;
    bool is_interleaved;
    float scale;
    int64_t offset;
    bool is_taken;
  };
  struct LayerPlace {  // of a layer within a page
    int64_t k_offset, v_offset;
  };
  struct Vector {
    std::unique_ptr<float[]> data;
    int64_t size;
  };

  struct Turn {  // a rope()
    Columns buf;
    Rotary rotary;
    bool is_first;  // that needs this table
  };
  struct Store {  // a store_kv()
    int64_t layer;
    Columns k, v;
  };
  // The operations right behind a product that are done with its heads as soon as they are made.
  struct Heads {
    int64_t head_dim = 0;
    size_t num_ops = 0;
    std::vector<Turn> turns;
    std::optional<Store> store;
  };
  struct Product {  // a linear(), and which operation it is
    size_t op;
    Columns src, dst;
    std::vector<int> weights, biases;
    bool is_added, is_int8;
    std::optional<size_t> norm;  // of norms_, which the product computes while that is joined
    std::optional<size_t> attended;  // of attended_, whose codes it takes while that is joined
    std::shared_ptr<Heads> heads;  // grows as operations are appended
  };
  struct Norm {
    size_t op;
    Columns src, dst;
    int weight;
    float eps;
    int64_t group;
    bool is_joined, is_unwritten;  // computed by the product behind it; and nobody has written dst since
  };
  struct Attended {  // an attention()
    size_t op;
    Columns dst;
    int64_t num_heads;
    bool is_joined, is_unwritten;  // its codes go to the product behind it, and nobody has written dst since
  };
  struct Gate {
    size_t op;
    Columns gate, up, dst;
    bool is_gelu;
  };
  // Two products, a gate and a product that are run as one, and what they were: made of the plan's operations where nobody
  // reads what lies between them, and undone where somebody turns up who does.
  struct Fused {
    size_t first_op;
    std::vector<Op> apart;
    std::vector<Columns> unwritten;
  };

  void append(const char* kind, std::function<void(const Run&, Worker&)> body);
  void append_gate(const char* kind, Columns gate, Columns up, Columns dst, bool is_gelu);
  bool is_gated(const Product& down) const;
  void fuse(const Product& down);
  bool is_normed(const Product& p) const;
  bool is_attended(const Product& p) const;
  uint8_t* attended_codes(size_t i, const Run& run) const;  // of attended_[i]; null where the batch has none
  bool have_codes(const std::vector<int>& ids) const;
  LinearArgs product_args(const Product& p, const Run& run, View dst) const;
  void touch(Columns c, bool is_written);
  void run_product(const Product& p, const Run& run, Worker& w, bool is_quantized) const;
  bool takes_heads(Columns columns, int64_t head_dim) const;
  float* angles_of(const Rotary& rotary) const;
  void make_angles(const Turn& turn, const Run& run, Worker& w) const;
  void finish_heads(const Product& p, const BatchView& batch, int64_t first_token, int64_t end_token, int64_t first, int64_t end) const;
  static int64_t stride_of(int64_t width);
  View view(Columns c) const;
  void check(Columns c, const char* what, bool is_written = false);  // is_written: and not read
  const PackedMatrix& matrix(int id) const;
  const Vector& vector(int id) const;
  KVLayer layer(int64_t index) const;
  void check_batch(const BatchView& batch, const int32_t* logit_rows, int64_t num_logits) const;
  void reserve(int64_t num_tokens, int64_t num_logits, int64_t scratch_bytes);
  int64_t scratch_per_worker() const;
  LinearArgs linear_args(const Run& run, int64_t num_tokens, View src, View dst, bool is_added, bool is_int8) const;

  const Kernels& kernels_;
  std::shared_ptr<Team> team_;
  KVSpec kv_;
  int64_t vocab_size_;
  std::vector<LayerPlace> places_;
  int64_t page_bytes_ = 0;
  std::vector<float> k_means_;
  // While key_sums() runs: where to add, and from which token on.
  double* sums_ = nullptr;
  int64_t first_summed_ = 0;
  Region pages_;
  Arena arena_;
  std::unique_ptr<FileArena> expert_arena_;
  std::vector<PackedMatrix> matrices_;
  std::vector<Vector> vectors_;
  std::vector<int64_t> widths_;
  std::vector<Op> ops_;
  std::optional<Product> last_product_;
  std::optional<Gate> last_gate_;
  std::vector<Norm> norms_;
  std::vector<Attended> attended_;
  std::vector<Fused> fused_;  // those whose unwritten columns have not been written since
  bool has_fused_ = false;
  std::vector<std::pair<std::string, double>> seconds_;
  int64_t num_experts_read_ = 0;
  int64_t num_page_faults_ = 0;
  int runs_to_ask_ = 0;  // in which experts' pages are asked for before they are read
  int64_t most_experts_ = 0;
  struct MoeSize {
    int64_t num_experts, top_k, hidden, expert_size;
  };
  std::vector<MoeSize> moe_sizes_;  // different ones
  int64_t max_cols_ = 0, head_width_ = 0, num_outputs_ = 0;
  std::vector<int64_t> head_counts_;  // of attentions, different ones: whether a sequence is split depends on it
  bool has_head_ = false, has_take_ = false;
  size_t num_ops_before_taken_ = 0;
  Taken taken_;
  std::vector<Rotary> rotaries_;
  int64_t rotary_width_ = 0;

  int64_t token_capacity_ = 0, logit_capacity_ = 0, scratch_capacity_ = 0;
  std::vector<int64_t> offsets_;  // of each buffer, in floats per token of capacity
  // In huge pages, like the weights.
  int64_t num_logits_ = 0;  // rows of the last run
  Region activations_, logits_, block_max_, head_rows_, rotary_, scratch_;
};

// What this machine can do at this moment with `num_threads`, the best of `passes`.
struct Limits {
  double read_gb_s, f32_gflop_s, int8_gop_s;
};
Limits probe(const Kernels& kernels, Team& team, int64_t num_bytes, int passes);

}  // namespace farthing
