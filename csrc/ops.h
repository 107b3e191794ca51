// The operations of kernels.h, one set per instruction set; dispatch.cpp gathers them into tables.
#pragma once
#include "kernels.h"

#ifndef FARTHING_ISA
#error "compiled once per instruction set: define FARTHING_ISA"
#endif

namespace farthing {
namespace FARTHING_ISA {

void embed(const BatchView&, const PackedMatrix& weight, float scale, View dst, Worker&);
void rms_norm(int64_t num_tokens, View src, View dst, const float* weight, float eps, int64_t group, Worker&);
void rotary(const BatchView&, int64_t head_dim, const float* inv_freq, bool interleaved, float scale, float* table, Worker&);
void rope(int64_t num_tokens, View buf, int64_t head_dim, const float* table, bool interleaved, Worker&);
void store_kv(const BatchView&, const KVShape&, const KVLayer&, View k, View v, Worker&);
void rope_tokens(int64_t first, int64_t end, View buf, int64_t head_dim, const float* table, bool interleaved);
void store_tokens(const BatchView&, const KVShape&, const KVLayer&, bool is_key, View x, int64_t head, int64_t first, int64_t end);
void attention(const AttentionArgs&, Worker&);
bool attends_to_codes(const BatchView&, const KVShape&, int64_t num_heads);
int64_t attention_scratch(const BatchView&, const KVShape&, int64_t num_heads, int num_threads);
void swiglu(int64_t num_tokens, View gate, View up, View dst, Worker&);
void geglu(int64_t num_tokens, View gate, View up, View dst, Worker&);
void swiglu_row(const float* gate, const float* up, float* dst, int64_t n);
void sigmoid_scale(int64_t num_tokens, View buf, View by, Worker&);
void moe(const MoeArgs&, Worker&);
void add(int64_t num_tokens, View src, View dst, Worker&);
void linear(const LinearArgs&, Worker&);
void gated(const GatedArgs&, Worker&);
#if defined(FARTHING_ISA_avx512)
void to_words(const PackedMatrix&, int64_t panel);
#endif
void sample(const SampleArgs&, Worker&);
float probe_read(const uint8_t* data, int64_t num_bytes);
float probe_f32(int64_t rounds);
float probe_int8(int64_t rounds);

}  // namespace FARTHING_ISA
}  // namespace farthing
