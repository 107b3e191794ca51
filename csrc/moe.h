// A mixture of experts: which a token takes, and where a block of tokens keeps what stands between the steps.
#pragma once
#include <algorithm>
#include <cstdint>

#include "pack.h"

namespace farthing {

enum class Gate : int { softmax, top_softmax, sigmoid };

// kernels/gates.py says what it means.
struct GateRule {
  Gate kind;
  int64_t top_k;
  bool is_renormalised;
  float scale;
  int64_t num_groups, num_kept_groups;
};

struct MoeArgs {
  int64_t num_tokens;
  View src;     // [T, hidden]
  View logits;  // [T, num_experts]
  View dst;     // [T, hidden], added to
  GateRule rule;
  const float* bias;  // [num_experts] of the selection, or null
  int64_t num_experts, expert_size;
  const PackedMatrix* matrices;        // of the program; the next three are places in it
  const int *gates, *ups, *downs;      // [num_experts]
  bool is_int8, has_codes, is_gathered;  // is_gathered: some weight has no integer codes or is not to be read by them
  bool is_in_file;                     // weights may have to be read from disk
  uint8_t* scratch;                    // moe_scratch() bytes
  int64_t scratch_per_worker;
  int64_t* num_read;                   // += experts that a block of tokens took
};

constexpr int64_t kMoeTokens = 512;  // of a block: bounds what is kept, and gives 64 experts of which 8 are taken 64 rows each

// Byte offsets in scratch of a block of tokens; an assignment is a token with one of its experts. They are sorted by
// expert, and within one by token, so that an expert's rows lie together.
struct MoeLayout {
  int64_t experts, weights, places;  // [T, top_k] int32, float, int32: place in the sorted order
  int64_t rows;                      // [sorted] int32: the token
  int64_t starts;                    // [E + 1] int32 into the sorted order
  int64_t active;                    // [E] int32: experts with rows, then their number
  int64_t codes_at;                  // [E] int64: where an expert's 8-bit rows begin
  int64_t items;                     // [3, E + 1] int64: first work item of each active expert, in each of three steps
  int64_t gathered, inner, outer;    // [sorted, hidden], [sorted, 2 size], [sorted, hidden] float
  int64_t codes;                     // 8-bit rows, of the input and then of what lies between
  int64_t total;
};

// Floats from row to row: an odd number of cache lines, as in the program's buffers.
inline int64_t moe_stride(int64_t width) { return ((width + 15) / 16 | 1) * 16; }

// Bytes of a worker's own, for the choice of one token.
inline int64_t moe_route_bytes(int64_t num_experts) { return (3 * 8 + 2) * num_experts; }

inline MoeLayout moe_layout(int64_t num_tokens, int64_t num_experts, int64_t top_k, int64_t hidden, int64_t size) {
  const int64_t n = std::min(num_tokens, kMoeTokens) * top_k, most_active = std::min(n, num_experts);
  int64_t end = 0;
  auto take = [&](int64_t bytes) {
    const int64_t at = end;
    end += (bytes + 63) / 64 * 64;
    return at;
  };
  MoeLayout l{};
  l.experts = take(n * 4);
  l.weights = take(n * 4);
  l.places = take(n * 4);
  l.rows = take(n * 4);
  l.starts = take((num_experts + 1) * 4);
  l.active = take((num_experts + 1) * 4);
  l.codes_at = take(num_experts * 8);
  l.items = take(3 * (num_experts + 1) * 8);
  l.gathered = take(n * moe_stride(hidden) * 4);
  l.inner = take(n * moe_stride(2 * size) * 4);
  l.outer = take(n * moe_stride(hidden) * 4);
  // Each expert's rows begin a group of their own, on a cache line.
  const int64_t blocks = (std::max(hidden, size) + kQuantBlock - 1) / kQuantBlock;
  l.codes = take((n + 11 * most_active) * blocks * static_cast<int64_t>(sizeof(ActivationBlock<1>)) + 64 * most_active);
  l.total = end;
  return l;
}

}  // namespace farthing
