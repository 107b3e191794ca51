// Weights as the kernels read them: panels of P rows, so that one vector holds one column (or four) of P rows. P is the
// instruction set's (Kernels::panel_rows): 8, or 16 where vectors are twice as wide.
//
// A matrix comes in one of GGUF's formats and is packed once, at load. Every value keeps its exact meaning:
//   packed   from                     panel of P rows, repeated along the columns
//   f32      f32                      [cols][P] float
//   f16 bf16 f16 bf16                 [cols][P] uint16
//   q4_0     q4_0                     per 32 columns: P scales f16, codes
//   q4_1     q4_1                     per 32 columns: P scales f16, P minima f16, codes
//   q4_k     q4_k                     per 32 columns: P scales f32, P minima f32, codes
//   q8_0     q8_0 q5_0 iq4_nl         per 32 columns: P scales f16, codes
//   q8_16    q5_1 q5_k q6_k           per 16 columns: P scales f32, P minima f32, codes
// Codes: byte r * 4 + c of step s is the unsigned code of row r, column 4 s + c. Codes of 4 bits keep step j in the low
// and step j + 4 in the high half of vector j. A weight is scale * (code - zero) + minimum, zero being 8 for q4_0, 128
// for the 8-bit ones (their signed code + 128), 0 for q4_1 and q4_k.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "kernels.h"

namespace farthing {

constexpr int64_t kQuantBlock = 32;     // columns of an activation block
constexpr int64_t kMostPanelRows = 16;  // of any instruction set

enum class Packed : int { f32, f16, bf16, q4_0, q4_1, q4_k, q8_0, q8_16 };

struct PackedMatrix {
  Packed kind;
  int64_t rows, cols;
  int64_t panel_rows, panel_bytes;
  uint8_t* data;  // 64-byte aligned, whole panels; missing rows are zero

  int64_t num_panels() const { return (rows + panel_rows - 1) / panel_rows; }
  size_t num_bytes() const { return static_cast<size_t>(num_panels() * panel_bytes); }
  bool has_codes() const { return kind >= Packed::q4_0; }
  const uint8_t* panel(int64_t p) const { return data + p * panel_bytes; }
};

// Bytes of one row in the named GGUF format, or 0 when the format is unknown or cols is no multiple of its block.
int64_t row_bytes(const std::string& format, int64_t cols);

// data: rows * row_bytes(format, cols) bytes. Throws std::invalid_argument for an unknown format or a bad size.
PackedMatrix pack(const std::string& format, int64_t rows, int64_t cols, int64_t panel_rows, const uint8_t* data,
                  const std::function<uint8_t*(size_t)>& allocate, Team& team);

// Activations in 8 bits: 32 columns of G tokens side by side, x about scale * code, scale = max|x| / 127. Four columns of
// a token lie beside the same four of the next, so that a vector holds them of 8 tokens.
template <int G>
struct ActivationBlock {
  int8_t codes[kQuantBlock / 4][G][4];
  float scale[G];
  float scaled_sum[G];  // scale * sum of codes
  int32_t sum[G];       // of codes
  int32_t sum16[2][G];  // of each half
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
  float* block_max;     // null, or [num_tokens, blocks]: where the largest of each kLogitBlock outputs goes, of one weight
  uint8_t* scratch;     // linear_scratch_bytes(), shared by the team, 64-byte aligned
  int64_t scratch_per_worker;
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

constexpr int64_t kTokensQuantizedByEach = 2;  // so few that quantizing them twice is cheaper than a barrier
constexpr int64_t kTokensPerPass = 240;    // tokens whose sums a worker keeps in float32 products
constexpr int64_t kColsPerPass = 256;      // columns that it unpacks at a time
constexpr int64_t kExpandedBytes = 640;    // at most, of 32 columns of a panel with one code to a byte
constexpr int64_t kPanelsPerTile = 2;      // panels that share one reading of many tokens' activations

}  // namespace farthing
