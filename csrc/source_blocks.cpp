#include "source_blocks.h"

#include <cstring>

namespace farthing {

namespace {

constexpr Source kSources[] = {
    {"f32", 1, 4, Packed::f32},          {"f16", 1, 2, Packed::f16},          {"bf16", 1, 2, Packed::bf16},
    {"q8_0", 32, 34, Packed::q8_0},      {"q4_0", 32, 18, Packed::q4_0},      {"q4_1", 32, 20, Packed::q4_1},
    {"q5_0", 32, 22, Packed::q5_0},      {"q5_1", 32, 24, Packed::q5_1},      {"iq4_nl", 32, 18, Packed::iq4_nl},
    {"q4_k", 256, 144, Packed::q4_k},    {"q5_k", 256, 176, Packed::q5_k},    {"q6_k", 256, 210, Packed::q6_k},
    {"q3_k", 256, 110, Packed::q3_k},    {"q2_k", 256, 84, Packed::q2_k},     {"tq2_0", 256, 66, Packed::tq2_0},
    {"iq4_xs", 256, 136, Packed::iq4_xs}, {"q6", 32, 26, Packed::q6},          {"q5", 32, 22, Packed::q5},
    {"q4", 32, 18, Packed::q4},          {"q3", 32, 14, Packed::q3},          {"q2", 32, 10, Packed::q2},
    {"c4", 32, 17, Packed::c4},          {"c3", 32, 13, Packed::c3},          {"t2", 64, 14, Packed::t2},
};

// 32 codes from 16 bytes: the low halves first.
void nibbles(const uint8_t* q, uint8_t* code) {
  for (int i = 0; i < 16; ++i) {
    code[i] = q[i] & 15;
    code[i + 16] = q[i] >> 4;
  }
}

// Adds bit i of a plane to code i, `shift` bits up.
void add_bits(const uint8_t* plane, int num_codes, int shift, uint8_t* code) {
  for (int i = 0; i < num_codes; ++i) code[i] = static_cast<uint8_t>(code[i] | (plane[i / 8] >> (i % 8) & 1) << shift);
}

// 32 codes of two bits from 8 bytes, in bits 2 (i / 8) on of byte i % 8.
void add_pairs(const uint8_t* plane, int shift, uint8_t* code) {
  for (int i = 0; i < 32; ++i) code[i] = static_cast<uint8_t>(code[i] | (plane[i % 8] >> (2 * (i / 8)) & 3) << shift);
}

// 256 codes of two bits from 64 bytes: each 32 bytes are four runs of 32, from the low bits up.
void add_runs(const uint8_t* q, int shift, uint8_t* code) {
  for (int i = 0; i < 256; ++i)
    code[i] = static_cast<uint8_t>(code[i] | (q[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3) << shift);
}

// 256 bits from 32 bytes: bit i / 32 of byte i % 32.
void add_run_bits(const uint8_t* q, int shift, uint8_t* code) {
  for (int i = 0; i < 256; ++i) code[i] = static_cast<uint8_t>(code[i] | (q[i % 32] >> (i / 32) & 1) << shift);
}

// ggml's 6-bit scales and minima of q4_k and q5_k: 8 of each in 12 bytes.
void k_scales(const uint8_t* q, SourceBlock& out) {
  for (int j = 0; j < 8; ++j) {
    const bool is_low = j < 4;
    out.header[j][0] = static_cast<uint8_t>(is_low ? q[j] & 63 : (q[j + 4] & 15) | (q[j - 4] >> 6) << 4);
    out.header[j][1] = static_cast<uint8_t>(is_low ? q[j + 4] & 63 : q[j + 4] >> 4 | (q[j] >> 6) << 4);
  }
}

void read_k(Packed kind, const uint8_t* p, SourceBlock& out) {
  switch (kind) {
    case Packed::q4_k:
    case Packed::q5_k: {
      memcpy(out.super, p, 4);
      k_scales(p + 4, out);
      const uint8_t* q = p + (kind == Packed::q5_k ? 48 : 16);
      for (int i = 0; i < 256; ++i)
        out.code[i] = q[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
      if (kind == Packed::q5_k) add_run_bits(p + 16, 4, out.code);
      return;
    }
    case Packed::q6_k:
      for (int i = 0; i < 256; ++i) out.code[i] = p[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
      add_runs(p + 128, 4, out.code);
      for (int j = 0; j < 16; ++j) out.header[j / 2][j % 2] = p[192 + j];
      memcpy(out.super, p + 208, 2);
      return;
    case Packed::q3_k:
      add_runs(p + 32, 0, out.code);
      add_run_bits(p, 2, out.code);
      for (int j = 0; j < 16; ++j) {
        const uint8_t* q = p + 96;
        const int low = j < 8 ? q[j] & 15 : q[j - 8] >> 4, high = q[8 + j % 4] >> (2 * (j / 4)) & 3;
        out.header[j / 2][j % 2] = static_cast<uint8_t>((low | high << 4) - 32);
      }
      memcpy(out.super, p + 108, 2);
      return;
    case Packed::q2_k:
      add_runs(p + 16, 0, out.code);
      for (int j = 0; j < 16; ++j) out.header[j / 2][j % 2] = p[j];
      memcpy(out.super, p + 80, 4);
      return;
    case Packed::tq2_0:
      add_runs(p, 0, out.code);
      memcpy(out.super, p + 64, 2);
      return;
    default:  // iq4_xs
      memcpy(out.super, p, 2);
      for (int j = 0; j < 8; ++j) {
        const int low = p[4 + j / 2] >> (j % 2 * 4) & 15, high = (p[2] | p[3] << 8) >> (2 * j) & 3;
        out.header[j][0] = static_cast<uint8_t>((low | high << 4) - 32);
        nibbles(p + 8 + 16 * j, out.code + 32 * j);
      }
  }
}

// The 64 base-3 digits of 13 bytes, the least first.
void trits(const uint8_t* q, uint8_t* code) {
  for (int i = 0; i < 64; ++i) {
    static constexpr int kPower[5] = {1, 3, 9, 27, 81};
    code[i] = static_cast<uint8_t>(q[i / 5] / kPower[i % 5] % 3);
  }
}

}  // namespace

const Source* find_source(const std::string& name) {
  for (const Source& s : kSources)
    if (name == s.name) return &s;
  return nullptr;
}

void read_block(const Source& source, const uint8_t* p, SourceBlock& out) {
  const BlockShape shape = shape_of(source.packed);
  memset(out.code, 0, sizeof out.code);
  if (source.block == 256) return read_k(source.packed, p, out);
  const uint8_t* q = p + shape.row_header();  // in these a row's numbers come first
  memcpy(out.header[0], p, static_cast<size_t>(shape.row_header()));
  switch (source.packed) {
    case Packed::q8_0:
      for (int i = 0; i < 32; ++i) out.code[i] = static_cast<uint8_t>(q[i] ^ 0x80);  // code + 128
      return;
    case Packed::q5_0:
    case Packed::q5_1:  // ggml has the fifth bits in front
      nibbles(q + 4, out.code);
      return add_bits(q, 32, 4, out.code);
    case Packed::t2:
      memcpy(out.header[1], p, 1);
      return trits(q, out.code);
    default: break;
  }
  if (shape.bits >= 4) {
    nibbles(q, out.code);
    if (shape.bits == 5) add_bits(q + 16, 32, 4, out.code);
    if (shape.bits == 6) add_pairs(q + 16, 4, out.code);
  } else {
    add_pairs(q, 0, out.code);
    if (shape.bits == 3) add_bits(q + 8, 32, 2, out.code);
  }
}

}  // namespace farthing
