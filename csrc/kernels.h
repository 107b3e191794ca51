// Every operation, declared once, with shapes and preconditions. Each instruction set implements the whole table in a
// namespace of its own (FARTHING_ISA); dispatch.cpp hands out one table.
//
// A function that takes a Worker is called by every member of the team with the same arguments, splits its work by
// rows, heads or columns (never by what is summed) and ends with all members in step (a for_each or a barrier).
// T = tokens of the batch. Activations are float32, rows `stride` floats apart.
#pragma once
#include <cstdint>

#include "threads.h"

namespace farthing {

struct View {       // [T, width]
  float* data;      // first column of row 0
  int64_t stride;   // floats from a row to the next
  int64_t width;
};

enum class Codec : int { f32 = 0, f16 = 1, q8 = 2, tq4 = 3, tq3 = 4, tq2 = 5 };
constexpr int kNumCodecs = 6;

// Bits of a value's code.
inline int64_t codec_bits(Codec codec) {
  constexpr int64_t kBits[kNumCodecs] = {32, 16, 8, 4, 3, 2};
  return kBits[static_cast<int>(codec)];
}
inline bool is_turboquant(Codec codec) { return codec >= Codec::tq4; }

// What a TurboQuant codec rounds the coordinates of a rotated unit vector to, ascending.
struct Codebook {
  float centroids[16];  // whole numbers, in 127ths of the largest
  int8_t codes[16];     // the same
  float tree[4][8];     // what lies halfway between two, in the order of a binary search: tree[level][place]
  float per_unit;       // 127 / the largest centroid
};
// values [2^bits]; per_unit as above.
Codebook make_codebook(const int8_t* values, int bits, float per_unit);

// How one side (K or V) of a layer is kept.
struct SideCodec {
  Codec codec;
  const Codebook* book;  // of TurboQuant's
  const float* mean;     // [num_kv_heads * head_dim] of keys or null: subtracted before they are coded. That changes no
};                       // answer (it adds the same to all scores of a query), but leaves the codes less to say.

// One layer's K or V of the whole pool. A page holds page_size tokens of every kv head, codec_head_bytes() each, keys
// transposed, so that a vector holds a column (or four) of several keys; codecs.h says how.
struct KVLayer {
  void* k;             // page p at k + p * page_bytes
  void* v;
  int64_t page_bytes;  // from one page of this layer to the next
  SideCodec k_codec, v_codec;
};

struct BatchView {
  int64_t num_tokens, num_seqs;
  const int32_t* token_ids;    // [T]
  const int32_t* positions;    // [T]
  const int32_t* seq_starts;   // [B + 1]
  const int32_t* page_tables;  // [B, max_pages]
  int64_t max_pages;
};

constexpr int64_t kMostHeadDim = 256;

struct KVShape {
  int64_t num_kv_heads, head_dim, page_size;  // page_size and head_dim multiples of 8, head_dim at most kMostHeadDim
};

// Bytes of one kv head's codes in a page, the scales of its tokens behind them.
inline int64_t codec_code_bytes(Codec codec, const KVShape& s) {
  const int64_t values = s.head_dim * s.page_size;
  if (codec == Codec::tq3)  // two bits of each, then the third, of 32 columns of a key in one place
    return values / 4 + (s.head_dim + 31) / 32 * 32 * s.page_size / 8;
  return values * codec_bits(codec) / 8;
}

// Bytes of one kv head of a page.
inline int64_t codec_head_bytes(Codec codec, const KVShape& s) {
  const int64_t scale_bytes = is_turboquant(codec) ? 2 : codec == Codec::q8 ? 4 : 0;
  return codec_code_bytes(codec, s) + scale_bytes * s.page_size;
}

// Scratch that an operation asks for once per run, before the team starts.
struct AttentionArgs {
  BatchView batch;
  KVShape shape;
  KVLayer layer;
  View q;    // [T, num_heads * head_dim]
  View dst;  // [T, num_heads * head_dim]
  int64_t num_heads, window;  // a token sees so many positions, its own the last; 0: the whole past
  float scale;
  float* scratch;  // attention_scratch() floats, shared by the team
  uint8_t* codes;  // null; or where the result goes as a linear()'s 8-bit codes, and not to dst: if attends_to_codes()
};

// Keys per segment: softmax runs over fixed segments of positions, merged left to right in every path (law 1).
constexpr int64_t kSegment = 256;

constexpr int64_t kLogitBlock = 64;  // logits whose largest is noted, see SampleArgs::block_max

struct SampleArgs {
  int64_t num_rows, vocab_size;
  const float* logits;      // [num_rows, vocab_size]
  const float* block_max;   // [num_rows, blocks]: the largest of each block of kLogitBlock, as the head noted it; or null
  const uint8_t* is_as_run; // [num_rows]: rows that nobody has changed since, whose block_max holds
  const float* temperature; // [num_rows] each; 0 is greedy (ties: lowest id)
  const int32_t* top_k;     // 0: all
  const float* top_p;       // 1: all
  const float* min_p;       // 0: all
  const float* penalty;     // repetition penalty; 1: off
  const uint64_t* seed;
  const uint64_t* step;     // the random number is a function of (seed, step) alone
  const int32_t* history;        // token ids that the penalty applies to, all rows one after the other
  const int64_t* history_starts; // [num_rows + 1]
  int64_t num_top;          // likeliest tokens to report per row
  const uint8_t* wants_logprob; // [num_rows]: rows whose log-probabilities are computed
  int32_t* token;           // out [num_rows]
  float* logprob;           // out [num_rows], natural log under softmax(logits) itself; 0 where not wanted
  int32_t* top_token;       // out [num_rows, num_top]
  float* top_logprob;       // out [num_rows, num_top]
};

struct PackedMatrix;  // pack.h
struct LinearArgs;    // pack.h
struct GatedArgs;     // pack.h
struct MoeArgs;       // moe.h

struct Kernels {
  const char* name;
  int64_t panel_rows;  // of packed weights
  void (*embed)(const BatchView&, const PackedMatrix& weight, float scale, View dst, Worker&);
  void (*rms_norm)(int64_t num_tokens, View src, View dst, const float* weight, float eps, int64_t group, Worker&);
  // table [T, 2 * head_dim]: the cosines and sines that rope() turns every head of a token by.
  void (*rotary)(const BatchView&, int64_t head_dim, const float* inv_freq, bool interleaved, float scale, float* table, Worker&);
  void (*rope)(int64_t num_tokens, View buf, int64_t head_dim, const float* table, bool interleaved, Worker&);
  void (*store_kv)(const BatchView&, const KVShape&, const KVLayer&, View k, View v, Worker&);
  // The same of tokens [first, end), and of x, which holds the keys (or values) of some heads, `head` the first; by one member.
  void (*rope_tokens)(int64_t first, int64_t end, View buf, int64_t head_dim, const float* table, bool interleaved);
  void (*store_tokens)(const BatchView&, const KVShape&, const KVLayer&, bool is_key, View x, int64_t head, int64_t first, int64_t end);
  void (*attention)(const AttentionArgs&, Worker&);
  // Whether what attention() makes of a batch can become codes: of one sequence, many tokens of which a piece of work has
  // whole groups.
  bool (*attends_to_codes)(const BatchView&, const KVShape&, int64_t num_heads);
  int64_t (*attention_scratch)(const BatchView&, const KVShape&, int64_t num_heads, int num_threads);  // for any window
  void (*swiglu)(int64_t num_tokens, View gate, View up, View dst, Worker&);
  void (*geglu)(int64_t num_tokens, View gate, View up, View dst, Worker&);
  void (*sigmoid_scale)(int64_t num_tokens, View buf, View by, Worker&);  // by [T, 1]
  void (*moe)(const MoeArgs&, Worker&);
  void (*add)(int64_t num_tokens, View src, View dst, Worker&);
  void (*linear)(const LinearArgs&, Worker&);
  // A panel of q4_words that is packed as q4_1, to words. Null where an instruction set multiplies q4_1 as it is.
  void (*to_words)(const PackedMatrix&, int64_t panel);
  void (*gated)(const GatedArgs&, Worker&);
  void (*sample)(const SampleArgs&, Worker&);
  // What the machine can do at most: read memory, fused multiply-adds, exact u4 x s8 products summed in int16 for a
  // block of 32. Each returns a value that depends on all its work; *_ops is the operations of one round.
  float (*probe_read)(const uint8_t* data, int64_t num_bytes);
  float (*probe_f32)(int64_t rounds);
  float (*probe_int8)(int64_t rounds);
  int64_t probe_f32_ops, probe_int8_ops;
};

// Tables of the instruction sets that this build contains and this CPU runs, best first; count in *num.
const Kernels* const* available_kernels(int* num);

}  // namespace farthing
