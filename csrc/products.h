// What linear() and moe() share: 8-bit activations, and panels of a weight times tokens. One set per instruction set.
#pragma once
#include <algorithm>

#include "ops.h"
#include "pack.h"
#include "simd.h"

namespace farthing {
namespace FARTHING_ISA {

// Tokens to a group, which are multiplied in tiles of up to half or all of them; a pass holds whole groups.
#if defined(FARTHING_ISA_avx512)
constexpr int64_t kTile = 12, kSmallGroup = 4;
#else
constexpr int64_t kTile = kIsPortable ? 4 : 8, kSmallGroup = 1;  // a smaller group too would be no faster
constexpr int64_t kManyTokens = 40;  // from so many on it pays to spread the weights out, one code to a byte
#endif
inline int group_size(int64_t num_tokens) {
  return num_tokens > kSmallGroup ? kTile : num_tokens > 1 ? kSmallGroup : 1;
}

constexpr int64_t kBlocksPerItem = 12;  // blocks of a group that one item of work quantizes: with few tokens there are few groups

// Tokens per pass: what one worker's second-level cache holds beside the weights, in whole tiles.
inline int64_t tokens_per_pass(int64_t num_tokens, int64_t cols, bool is_int8) {
  constexpr int64_t kPassBytes = 256 * 1024;
  const int64_t fitting = kPassBytes / (cols * static_cast<int64_t>(sizeof(ActivationBlock<1>)) / kQuantBlock);
  const int64_t most = is_int8 ? std::max<int64_t>(kTile, fitting / kTile * kTile) : kTokensPerPass;
  return std::clamp((num_tokens + kTile - 1) / kTile * kTile, kTile, most);
}

// The same where several members work: many tokens are shared out first, so that each multiplies those whose activations it
// wrote.
inline int64_t tokens_per_pass(int64_t num_tokens, int64_t cols, bool is_int8, int num_workers) {
  const bool is_shared_out = num_tokens >= 4 * kTile * num_workers;
  return tokens_per_pass(is_shared_out ? (num_tokens + num_workers - 1) / num_workers : num_tokens, cols, is_int8);
}

// Panels per chunk of work. Few tokens: large chunks, in which the next panels are fetched in time. Many: small ones, which
// leave nobody waiting.
inline int64_t panels_per_chunk(int64_t total_panels, int64_t num_tokens, int num_workers) {
  const int64_t share = total_panels / (num_workers * (num_tokens > 64 ? 32 : 4)) / 2 * 2;
  return std::min<int64_t>(std::max<int64_t>(share, 2), 64);
}

// Blocks [first, end) of a.src's tokens [t0, t1), of one group, into x: the blocks of all groups one after the other.
void quantize(const LinearArgs& a, uint8_t* x, int64_t t0, int64_t t1, int64_t first, int64_t end);

// All of a.src into x, by the whole team.
void quantize_all(const LinearArgs& a, uint8_t* x, Worker&);

// Panels [begin, end) of a weight times tokens [t0, t1), t0 a multiple of kTile, to a.dst's columns from `first` on. x: the
// tokens' 8-bit blocks, or null where weights are read as float32. own: linear_scratch().per_worker bytes less those of
// activations.
void multiply(const LinearArgs& a, const PackedMatrix& m, const float* bias, int64_t first, const uint8_t* x, int64_t begin,
              int64_t end, int64_t t0, int64_t t1, uint8_t* own);

}  // namespace FARTHING_ISA
}  // namespace farthing
