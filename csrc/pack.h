// Weights as the kernels read them: panels of P rows, so that one vector holds one column (or four) of P rows. P is the
// instruction set's (Kernels::panel_rows): 8, or 16 where vectors are twice as wide.
//
// A matrix comes in one of the formats of kernels/formats.py and is packed once, at load. Every value keeps its exact
// meaning, but for q4_words. f32, f16 and bf16 lie as [cols][P] numbers; the others as one block after the other, each 32 columns of P rows:
//
//   scales   of P rows (BlockShape says which), field by field: [field][P]
//   codes    vectors of 4 P bytes: byte r * 4 + c of step s is the unsigned code of row r, column 4 s + c. Codes of 8 bits
//            take a vector for each of the 8 steps; of 4 to 6 bits the low four lie in 4 vectors, step s in half s / 4 of
//            vector s % 4; of 2 and 3 bits the low two in 2 vectors, step s in bits 2 (s / 2) on of vector s % 2, and so
//            do the bits above four of codes of 6 bits. The last bit of codes of 3 and 5 bits: bit s of one vector.
//
// Where a format has numbers for 256 columns, they lie as [field][P] in front of each 8 blocks; numbers of whole rows lie
// in front of all.
// A weight is scale * (code - zero) + minimum, or scale times an entry of a table.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "kernels.h"

namespace farthing {

constexpr int64_t kQuantBlock = 32;     // columns of an activation block
constexpr int64_t kMostPanelRows = 16;  // of any instruction set

enum class Packed : int {
  f32, f16, bf16,
  q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl, q4_k, q5_k, q6_k, q3_k, q2_k, tq2_0, iq4_xs,  // ggml's
  q6, q5, q4, q3, q2, c4, c3, t2,                                                     // our own
  q4_words,  // q4_1, as AVX-512 multiplies it: Kernels::to_words
};

// How a block's scales (and minima) are kept, for one row, and what they mean.
enum class Scaling : int {
  f16,          // scale
  f16_minimum,  // scale, minimum
  e8,           // one byte: 2^((u >> 3) - 23) * (1 + (u & 7) / 8)
  e8_zero,      // the same, and a zero point in steps of 2^(bits - 8): minimum = -scale * zero
  super_f16,    // none here; f16 scale of 256 columns
  super_s8,     // signed byte for each part; times the f16 of 256 columns
  super_u8,     // bytes of scale and minimum; times two f16 of 256 columns, minimum = -(dmin * byte)
  super_u4,     // the same in the halves of one byte for each part
  words,        // two int16, for each row side by side: scale, and minimum in eighths; times the f32 of the row
};

enum class Table : int { none, iq4_nl, c3 };

struct BlockShape {
  int bits;  // of a code as it is packed
  Scaling scaling;
  int zero;       // among the codes; of what a table says: none
  int parts = 1;  // pieces of the 32 columns with a scale of their own
  Table table = Table::none;

  constexpr bool has_minimum() const {
    return scaling == Scaling::f16_minimum || scaling == Scaling::e8_zero || scaling == Scaling::super_u8 ||
           scaling == Scaling::super_u4 || scaling == Scaling::words;
  }
  constexpr bool has_f16() const { return scaling == Scaling::f16 || scaling == Scaling::f16_minimum; }
  // As a file has them: q4_words are made of f16.
  constexpr int field_bytes() const { return has_f16() || scaling == Scaling::words ? 2 : 1; }
  constexpr int row_header() const {  // bytes of a row's scales in front of a block
    switch (scaling) {
      case Scaling::f16_minimum: case Scaling::words: return 4;
      case Scaling::f16: case Scaling::e8_zero: case Scaling::super_u8: return 2;
      case Scaling::e8: return 1;
      case Scaling::super_f16: return 0;
      default: return parts;
    }
  }
  constexpr int row_super() const {  // bytes of a row in front of 8 blocks
    switch (scaling) {
      case Scaling::super_f16: case Scaling::super_s8: return 2;
      case Scaling::super_u8: case Scaling::super_u4: return 4;
      default: return 0;
    }
  }
  constexpr int row_unit() const { return scaling == Scaling::words ? 4 : 0; }  // bytes of a row in front of all its blocks
};

constexpr BlockShape shape_of(Packed kind) {
  switch (kind) {
    case Packed::q8_0: return {8, Scaling::f16, 128};
    case Packed::q4_0: return {4, Scaling::f16, 8};
    case Packed::q4_1: return {4, Scaling::f16_minimum, 0};
    case Packed::q5_0: return {5, Scaling::f16, 16};
    case Packed::q5_1: return {5, Scaling::f16_minimum, 0};
    case Packed::iq4_nl: return {4, Scaling::f16, 0, 1, Table::iq4_nl};
    case Packed::q4_k: return {4, Scaling::super_u8, 0};
    case Packed::q5_k: return {5, Scaling::super_u8, 0};
    case Packed::q6_k: return {6, Scaling::super_s8, 32, 2};
    case Packed::q3_k: return {3, Scaling::super_s8, 4, 2};
    case Packed::q2_k: return {2, Scaling::super_u4, 0, 2};
    case Packed::tq2_0: return {2, Scaling::super_f16, 1};
    case Packed::iq4_xs: return {4, Scaling::super_s8, 0, 1, Table::iq4_nl};
    case Packed::q6: return {6, Scaling::e8_zero, 0};
    case Packed::q5: return {5, Scaling::e8_zero, 0};
    case Packed::q4: return {4, Scaling::e8_zero, 0};
    case Packed::q3: return {3, Scaling::e8_zero, 0};
    case Packed::q2: return {2, Scaling::e8_zero, 0};
    case Packed::c4: return {4, Scaling::e8, 0, 1, Table::iq4_nl};
    case Packed::c3: return {3, Scaling::e8, 0, 1, Table::c3};
    case Packed::t2: return {2, Scaling::e8, 1};
    case Packed::q4_words: return {4, Scaling::words, 8};
    default: return {0, Scaling::f16, 0};
  }
}

constexpr int64_t kSuperBlocks = 8;  // blocks that share numbers, where they share any

// Of one row, `cols` columns; a power of two of rows lies side by side.
constexpr int64_t packed_row_bytes(Packed kind, int64_t cols) {
  if (kind == Packed::f32) return cols * 4;
  if (kind == Packed::f16 || kind == Packed::bf16) return cols * 2;
  const BlockShape s = shape_of(kind);
  return s.row_unit() + cols / kQuantBlock * (s.row_header() + s.bits * kQuantBlock / 8) +
         cols / (kSuperBlocks * kQuantBlock) * s.row_super();
}

struct PackedMatrix {
  Packed kind;
  int64_t rows, cols;
  int64_t panel_rows, panel_bytes;
  uint8_t* data;  // 64-byte aligned, whole panels; missing rows are zero

  int64_t num_panels() const { return (rows + panel_rows - 1) / panel_rows; }
  size_t num_bytes() const { return static_cast<size_t>(num_panels() * panel_bytes); }
  bool has_codes() const { return kind >= Packed::q8_0; }
  const uint8_t* panel(int64_t p) const { return data + p * panel_bytes; }
};

// Bytes of one row in the named format, or 0 when the format is unknown or cols is no multiple of its block.
int64_t row_bytes(const std::string& format, int64_t cols);

// data: rows * row_bytes(format, cols) bytes. With to_words q4_1 becomes q4_words. Throws std::invalid_argument for an
// unknown format or a bad size.
PackedMatrix pack(const std::string& format, int64_t rows, int64_t cols, int64_t panel_rows, const uint8_t* data,
                  const std::function<uint8_t*(size_t)>& allocate, decltype(Kernels::to_words) to_words, Team& team);

// Activations in 8 bits: 32 columns of G tokens side by side, x about scale * code, scale = max|x| / 127. Four columns of
// a token lie beside the same four of the next: what belongs to a token lies 4 bytes after that of the one before.
template <int G>
struct ActivationBlock {
  int8_t codes[kQuantBlock / 4][G][4];
  float scale[G];
  float scaled_sum[G];  // scale * sum of codes
  int32_t sum[G];       // of codes
  int32_t first_sum[G]; // of those of the first half
  int32_t word[G];      // 8 * sum in the upper half, from which 8 * sum is taken: where sums of products with q4_words begin

  int32_t sum_of_half(int half, int t) const { return half == 0 ? first_sum[t] : sum[t] - first_sum[t]; }
};

// What linear() has done with each piece of dst that it has finished, tokens [first_token, end_token) of columns
// [first, end), by the member that made it: whole units of columns.
struct Afterwards {
  void (*run)(const void* context, int64_t first_token, int64_t end_token, int64_t first, int64_t end);
  const void* context;
  int64_t unit;  // whole panels, of which every weight has a whole number
};

// dst[t, 0..rows) (+)= src[t] @ weight.T + bias for each weight, side by side in dst.
struct LinearArgs {
  int64_t num_tokens;
  View src, dst;
  const int32_t* rows;  // of src that quantize() takes; null: in order
  const PackedMatrix* const* weights;
  const float* const* biases;  // entries may be null
  int num_weights;
  bool is_added;
  bool is_int8;         // multiply integer codes where the weight has them
  bool is_quantized;    // src's codes are in scratch already (gated())
  const float* norm_weight;  // null, or [src.width]: src is normed as rms_norm() would, on its way to codes. Of weights
  float norm_eps;            // that all have codes
  const Afterwards* after;  // may be null
  float* block_max;     // null, or [num_tokens, blocks]: where the largest of each kLogitBlock outputs goes, of one weight
  uint8_t* scratch;     // linear_scratch_bytes(), shared by the team, 64-byte aligned
  int64_t scratch_per_worker;
};

// act(src @ gate.T + bias) * (src @ up.T + bias) as the 8-bit codes that a linear() reads whose src it is, without the
// floats between them. Of weights that have codes, whose rows are whole blocks.
struct GatedArgs {
  LinearArgs products;  // weights: gate, up; no dst
  bool is_gelu;
  uint8_t* codes;       // the scratch of that linear(), whose areas of the workers are used too
};

// Bytes of scratch: first the shared activation blocks, then one area per worker.
struct LinearScratch {
  int64_t shared, per_worker;
};
LinearScratch linear_scratch(int64_t num_tokens, int64_t max_cols);

// Of num_tokens, in groups of any size from 1 to 12.
inline int64_t activation_bytes(int64_t num_tokens, int64_t cols) {
  return (num_tokens + 11) * (cols / kQuantBlock) * static_cast<int64_t>(sizeof(ActivationBlock<1>));
}

constexpr int64_t kTokensPerGate = 144;    // tokens and columns whose products gated() keeps at a time: whole tiles
constexpr int64_t kColumnsPerGate = 64;    // whole pairs of blocks
constexpr int64_t kTokensQuantizedByEach = 2;  // so few that quantizing them twice is cheaper than a barrier
constexpr int64_t kTokensPerPass = 240;    // tokens whose sums a worker keeps in float32 products
constexpr int64_t kColsPerPass = 256;      // columns that it unpacks at a time
constexpr int64_t kExpandedBytes = 640;    // at most, of 32 columns of a panel with one code to a byte
constexpr int64_t kPanelsPerTile = 2;      // panels that share one reading of many tokens' activations

}  // namespace farthing
