// The only file that knows Python: shapes in, GIL released, ValueError out.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <stdexcept>

#include "checksum.h"
#include "plan.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace farthing {
namespace {

template <class T, int N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
// Outputs are never converted: a copy would swallow the result.
template <class T, int N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

const Kernels& kernels_named(const std::string& isa) {
  int num;
  const Kernels* const* tables = available_kernels(&num);
  for (int i = 0; i < num; ++i)
    if (isa == tables[i]->name) return *tables[i];
  throw std::invalid_argument("instruction set " + isa + " is not available here");
}

Codec codec_named(const std::string& name) {
  constexpr const char* kNames[kNumCodecs] = {"f32", "f16", "q8", "tq4", "tq3", "tq2"};
  for (int i = 0; i < kNumCodecs; ++i)
    if (name == kNames[i]) return static_cast<Codec>(i);
  throw std::invalid_argument("KV codec " + name + " is not known");
}

void need(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(message);
}

// codebooks: of each TurboQuant codec in use, its centroids in 127ths of the largest, and 127 / the largest.
KVSpec kv_spec(KVShape shape, int64_t num_pages, const std::vector<std::string>& k_codecs, const std::vector<std::string>& v_codecs,
               const std::map<std::string, std::pair<std::vector<int>, float>>& codebooks) {
  KVSpec spec{num_pages, shape, {}, {}, {}};
  bool has_book[kNumCodecs] = {};
  for (const auto& [name, book] : codebooks) {
    const Codec codec = codec_named(name);
    const int bits = static_cast<int>(codec_bits(codec));
    need(is_turboquant(codec) && book.first.size() == size_t{1} << bits, "a codebook has 2^bits values, of a TurboQuant codec");
    int8_t values[16];
    for (size_t i = 0; i < book.first.size(); ++i) {
      need(book.first[i] >= -127 && book.first[i] <= 127, "a codebook's values are -127 to 127");
      values[i] = static_cast<int8_t>(book.first[i]);
    }
    spec.books[static_cast<int>(codec)] = make_codebook(values, bits, book.second);
    has_book[static_cast<int>(codec)] = true;
  }
  auto named = [&](const std::vector<std::string>& names, std::vector<Codec>& codecs) {
    for (const std::string& name : names) {
      codecs.push_back(codec_named(name));
      need(!is_turboquant(codecs.back()) || has_book[static_cast<int>(codecs.back())], "a TurboQuant codec needs its codebook");
    }
  };
  named(k_codecs, spec.k_codecs);
  named(v_codecs, spec.v_codecs);
  return spec;
}

struct View3 {
  int buffer;
  int64_t offset, width;
  operator Columns() const { return {buffer, offset, width}; }
};

BatchView batch_of(In<int32_t, 1> token_ids, In<int32_t, 1> positions, In<int32_t, 1> seq_starts, In<int32_t, 2> page_tables) {
  need(seq_starts.shape(0) >= 2, "seq_starts needs two entries or more");
  need(positions.shape(0) == token_ids.shape(0), "one position per token");
  need(page_tables.shape(0) == seq_starts.shape(0) - 1, "one row of page_tables per sequence");
  return {static_cast<int64_t>(token_ids.shape(0)), static_cast<int64_t>(page_tables.shape(0)),
          token_ids.data(), positions.data(), seq_starts.data(), page_tables.data(),
          static_cast<int64_t>(page_tables.shape(1))};
}

std::vector<double> key_sums(Program& program, In<int32_t, 1> token_ids, int64_t first) {
  const int64_t num_tokens = static_cast<int64_t>(token_ids.shape(0));
  need(num_tokens >= 1 && first >= 0 && first < num_tokens, "key_sums needs a token or more from `first` on");
  nb::gil_scoped_release release;
  return program.key_sums(token_ids.data(), num_tokens, first);
}

nb::ndarray<nb::numpy, float, nb::ndim<2>> run(nb::handle_t<Program> self, In<int32_t, 1> token_ids, In<int32_t, 1> positions,
                                               In<int32_t, 1> seq_starts, In<int32_t, 2> page_tables, In<int32_t, 1> logit_rows) {
  Program& program = nb::cast<Program&>(self);
  const BatchView batch = batch_of(token_ids, positions, seq_starts, page_tables);
  float* logits;
  {
    nb::gil_scoped_release release;
    logits = program.run(batch, logit_rows.data(), static_cast<int64_t>(logit_rows.shape(0)));
  }
  return {logits, {logit_rows.shape(0), static_cast<size_t>(program.num_outputs())}, self};
}

nb::ndarray<nb::numpy, float, nb::ndim<2>> hidden(nb::handle_t<Program> self) {
  Program& program = nb::cast<Program&>(self);
  return {program.hidden(), {static_cast<size_t>(program.num_logits()), static_cast<size_t>(program.hidden_width())}, self};
}

// A view, writable, that keeps the program alive. What it shows changes with every run.
nb::ndarray<nb::numpy, uint8_t, nb::ndim<2>> pages(nb::handle_t<Program> self) {
  Program& program = nb::cast<Program&>(self);
  const size_t num_pages = static_cast<size_t>(program.num_pages());
  return {program.pages(), {num_pages, program.kv_bytes() / num_pages}, self};
}

void sample(Program& program, In<float, 2> logits, In<float, 1> temperature, In<int32_t, 1> top_k, In<float, 1> top_p,
            In<float, 1> min_p, In<float, 1> penalty, In<uint64_t, 1> seed, In<uint64_t, 1> step, In<int32_t, 1> history,
            In<int64_t, 1> history_starts, In<uint8_t, 1> wants_logprob, In<uint8_t, 1> is_as_run, Out<int32_t, 1> token, Out<float, 1> logprob,
            Out<int32_t, 2> top_token, Out<float, 2> top_logprob) {
  const size_t n = logits.shape(0);
  for (size_t size : {temperature.shape(0), top_k.shape(0), top_p.shape(0), min_p.shape(0), penalty.shape(0), seed.shape(0),
                      step.shape(0), wants_logprob.shape(0), is_as_run.shape(0), token.shape(0), logprob.shape(0), top_token.shape(0),
                      top_logprob.shape(0)})
    need(size == n, "one entry per row of logits");
  need(history_starts.shape(0) == n + 1, "history_starts needs one entry more than rows");
  need(top_token.shape(1) == top_logprob.shape(1) && top_token.shape(1) <= logits.shape(1), "top_token and top_logprob differ");
  need(history_starts.data()[0] == 0 && history_starts.data()[n] == static_cast<int64_t>(history.shape(0)),
       "history_starts must run from 0 to the history's length");
  const int64_t vocab = static_cast<int64_t>(logits.shape(1));
  for (size_t i = 0; i < n; ++i) need(history_starts.data()[i] <= history_starts.data()[i + 1], "history_starts must ascend");
  for (size_t i = 0; i < history.shape(0); ++i)
    need(history.data()[i] >= 0 && history.data()[i] < vocab, "a token of the history is outside the vocabulary");
  const SampleArgs args{static_cast<int64_t>(n), vocab, logits.data(), nullptr, is_as_run.data(), temperature.data(), top_k.data(), top_p.data(),
                        min_p.data(), penalty.data(), seed.data(), step.data(), history.data(), history_starts.data(),
                        static_cast<int64_t>(top_token.shape(1)), wants_logprob.data(), token.data(), logprob.data(),
                        top_token.data(), top_logprob.data()};
  nb::gil_scoped_release release;
  program.sample(args);
}

}  // namespace
}  // namespace farthing

NB_MODULE(_native, m) {
  using namespace farthing;

  nb::class_<View3>(m, "Columns").def(nb::init<int, int64_t, int64_t>(), "buffer"_a, "offset"_a, "width"_a);

  nb::class_<Program>(m, "Program")
      .def("__init__",
           [](Program* self, const std::string& isa, int num_threads, int64_t vocab_size, int64_t num_kv_heads,
              int64_t head_dim, int64_t num_pages, int64_t page_size, const std::vector<std::string>& k_codecs,
              const std::vector<std::string>& v_codecs, const std::map<std::string, std::pair<std::vector<int>, float>>& codebooks,
              const std::string& experts_folder, const Program* beside) {
             need(num_threads >= 1 && num_threads <= 256, "num_threads must be 1 to 256");
             need(!beside || beside->team()->count() == num_threads, "num_threads must be those of the program beside");
             new (self) Program(kernels_named(isa), beside ? beside->team() : std::make_shared<Team>(num_threads),
                                kv_spec({num_kv_heads, head_dim, page_size}, num_pages, k_codecs, v_codecs, codebooks), vocab_size,
                                experts_folder);
           },
           "isa"_a, "num_threads"_a, "vocab_size"_a, "num_kv_heads"_a, "head_dim"_a, "num_pages"_a, "page_size"_a,
           "k_codecs"_a, "v_codecs"_a, "codebooks"_a, "experts_folder"_a, "beside"_a.none() = nb::none())
      .def("add_buffer", &Program::add_buffer)
      .def("add_matrix",
           [](Program& p, const std::string& format, int64_t rows, int64_t cols, In<uint8_t, 1> data, bool is_expert,
              bool is_int8) {
             nb::gil_scoped_release release;
             return p.add_matrix(format, rows, cols, data.data(), data.shape(0), is_expert, is_int8);
           })
      .def("add_vector", [](Program& p, In<float, 1> data) { return p.add_vector(data.data(), static_cast<int64_t>(data.shape(0))); })
      .def("embed", [](Program& p, View3 dst, int weight, float scale) { p.embed(dst, weight, scale); })
      .def("rms_norm", [](Program& p, View3 src, View3 dst, int weight, float eps, int64_t group) { p.rms_norm(src, dst, weight, eps, group); })
      .def("linear", [](Program& p, View3 src, View3 dst, std::vector<int> weights, std::vector<int> biases, bool is_added,
                        bool is_int8) { p.linear(src, dst, weights, biases, is_added, is_int8); })
      .def("rope", [](Program& p, View3 buf, int64_t head_dim, int inv_freq, bool is_interleaved, float scale) {
        p.rope(buf, head_dim, inv_freq, is_interleaved, scale);
      })
      .def("store_kv", [](Program& p, int64_t layer, View3 k, View3 v) { p.store_kv(layer, k, v); })
      .def("attention", [](Program& p, int64_t layer, View3 q, View3 dst, int64_t num_heads, float scale, int64_t window) {
        p.attention(layer, q, dst, num_heads, scale, window);
      })
      .def("swiglu", [](Program& p, View3 gate, View3 up, View3 dst) { p.swiglu(gate, up, dst); })
      .def("geglu", [](Program& p, View3 gate, View3 up, View3 dst) { p.geglu(gate, up, dst); })
      .def("add", [](Program& p, View3 src, View3 dst) { p.add(src, dst); })
      .def("sigmoid_scale", [](Program& p, View3 buf, View3 by) { p.sigmoid_scale(buf, by); })
      .def("moe",
           [](Program& p, View3 src, View3 logits, View3 dst, const std::string& gate, int64_t top_k, bool is_renormalised, float scale,
              int64_t num_groups, int64_t num_kept_groups, int bias, const std::vector<int>& gates, const std::vector<int>& ups,
              const std::vector<int>& downs, bool is_int8) {
             const Gate kind = gate == "softmax" ? Gate::softmax : gate == "top_softmax" ? Gate::top_softmax : Gate::sigmoid;
             need(kind != Gate::sigmoid || gate == "sigmoid", "a gate is softmax, top_softmax or sigmoid");
             p.moe(src, logits, dst, {kind, top_k, is_renormalised, scale, num_groups, num_kept_groups}, bias, gates, ups, downs, is_int8);
           })
      .def("num_experts_read", &Program::num_experts_read)
      .def("num_page_faults", &Program::num_page_faults)
      .def("take", [](Program& p, std::vector<View3> srcs, std::vector<View3> dsts) {
             p.take({srcs.begin(), srcs.end()}, {dsts.begin(), dsts.end()});
           })
      .def("head", [](Program& p, View3 src, int weight, int bias, bool is_int8) { p.head(src, weight, bias, is_int8); })
      .def("set_key_means",
           [](Program& p, In<float, 2> means) {
             need(static_cast<int64_t>(means.shape(0)) == p.kv().num_layers() &&
                      static_cast<int64_t>(means.shape(1)) == p.kv().shape.num_kv_heads * p.kv().shape.head_dim,
                  "means must be [num_layers, num_kv_heads * head_dim]");
             p.set_key_means(means.data());
           })
      .def("pages", &pages)
      .def("run", &run)
      .def("hidden", &hidden)
      .def("key_sums", &key_sums)
      .def("sample", &farthing::sample, nb::arg("logits"), nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"), nb::arg("min_p"),
           nb::arg("penalty"), nb::arg("seed"), nb::arg("step"), nb::arg("history"), nb::arg("history_starts"),
           nb::arg("wants_logprob"), nb::arg("is_as_run"), nb::arg("token").noconvert(), nb::arg("logprob").noconvert(), nb::arg("top_token").noconvert(),
           nb::arg("top_logprob").noconvert())
      .def("weight_bytes", &Program::weight_bytes)
      .def("kv_bytes", &Program::kv_bytes)
      .def("seconds", &Program::seconds);

  m.def("instruction_sets", [] {
    int num;
    const Kernels* const* tables = available_kernels(&num);
    std::vector<std::string> names;
    for (int i = 0; i < num; ++i) names.emplace_back(tables[i]->name);
    return names;
  });
  m.def("checksum", [](In<uint8_t, 1> data) {
    nb::gil_scoped_release release;
    return checksum(data.data(), data.shape(0));
  });
  m.def("probe", [](const std::string& isa, int num_threads, int64_t num_bytes, int passes) {
    need(num_threads >= 1 && num_threads <= 256, "num_threads must be 1 to 256");
    need(num_bytes >= (1 << 20) && passes >= 1, "at least 1 MiB and one pass");
    nb::gil_scoped_release release;
    Team team(num_threads);
    const Limits l = probe(kernels_named(isa), team, num_bytes, passes);
    return std::vector<double>{l.read_gb_s, l.f32_gflop_s, l.int8_gop_s};
  });
}
