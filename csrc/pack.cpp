#include "pack.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#define FARTHING_ISA portable
#include "simd.h"
#undef FARTHING_ISA

namespace farthing {

namespace {

using portable::f16_to_f32;
using portable::f32_to_f16;

struct Source {
  const char* name;
  int64_t block, bytes;
  Packed packed;
};

constexpr Source kSources[] = {
    {"f32", 1, 4, Packed::f32},       {"f16", 1, 2, Packed::f16},       {"bf16", 1, 2, Packed::bf16},
    {"q4_0", 32, 18, Packed::q4_0},   {"q4_1", 32, 20, Packed::q4_1},   {"q8_0", 32, 34, Packed::q8_0},
    {"q5_0", 32, 22, Packed::q8_0},   {"iq4_nl", 32, 18, Packed::q8_0}, {"q5_1", 32, 24, Packed::q8_16},
    {"q4_k", 256, 144, Packed::q4_k}, {"q5_k", 256, 176, Packed::q8_16}, {"q6_k", 256, 210, Packed::q8_16},
};

const Source* find_source(const std::string& name) {
  for (const Source& s : kSources)
    if (name == s.name) return &s;
  return nullptr;
}

struct PackedShape {
  int64_t block;                       // columns of a packed block
  int64_t scale_bytes, minimum_bytes;  // of one row, in front of the codes
  int64_t code_bits;
  int64_t row_bytes() const { return scale_bytes + minimum_bytes + block * code_bits / 8; }
};

PackedShape packed_shape(Packed kind) {
  switch (kind) {
    case Packed::f32: return {1, 0, 0, 32};
    case Packed::f16: return {1, 0, 0, 16};
    case Packed::bf16: return {1, 0, 0, 16};
    case Packed::q4_0: return {32, 2, 0, 4};
    case Packed::q4_1: return {32, 2, 2, 4};
    case Packed::q4_k: return {32, 4, 4, 4};
    case Packed::q8_0: return {32, 2, 0, 8};
    case Packed::q8_16: return {16, 4, 4, 8};
  }
  return {};
}

uint16_t read_u16(const uint8_t* p) {
  uint16_t v;
  memcpy(&v, p, 2);
  return v;
}

// Up to 256 columns of one row: unsigned codes, and scale and minimum for every `step` columns.
struct Codes {
  uint8_t code[256];
  float scale[16];
  float minimum[16];
  uint16_t scale_f16, minimum_f16;  // the same, for the formats with one block of 32
};

// ggml's 6-bit scales and minima of Q4_K and Q5_K: 8 of each in 12 bytes.
void k_scale_min(const uint8_t* q, int j, int* scale, int* minimum) {
  if (j < 4) {
    *scale = q[j] & 63;
    *minimum = q[j + 4] & 63;
  } else {
    *scale = (q[j + 4] & 15) | ((q[j - 4] >> 6) << 4);
    *minimum = (q[j + 4] >> 4) | ((q[j] >> 6) << 4);
  }
}

constexpr int8_t kIq4nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// 8-bit codes are stored + 128, so that they are unsigned.
void decode(const std::string& name, const uint8_t* p, Codes& out) {
  if (name == "q4_0" || name == "q4_1" || name == "iq4_nl") {
    const bool has_minimum = name == "q4_1";
    out.scale_f16 = read_u16(p);
    out.minimum_f16 = has_minimum ? read_u16(p + 2) : 0;
    const uint8_t* q = p + (has_minimum ? 4 : 2);
    for (int i = 0; i < 16; ++i) {
      out.code[i] = q[i] & 15;
      out.code[i + 16] = q[i] >> 4;
    }
    if (name == "iq4_nl")
      for (int i = 0; i < 32; ++i) out.code[i] = static_cast<uint8_t>(kIq4nl[out.code[i]] + 128);
  } else if (name == "q8_0") {
    out.scale_f16 = read_u16(p);
    for (int i = 0; i < 32; ++i) out.code[i] = static_cast<uint8_t>(p[2 + i] ^ 0x80);
  } else if (name == "q5_0" || name == "q5_1") {
    const bool has_minimum = name == "q5_1";
    out.scale_f16 = read_u16(p);
    const uint8_t* high = p + (has_minimum ? 4 : 2);
    uint32_t bits;
    memcpy(&bits, high, 4);
    const uint8_t* q = high + 4;
    for (int i = 0; i < 16; ++i) {
      out.code[i] = static_cast<uint8_t>((q[i] & 15) | ((bits >> i & 1) << 4));
      out.code[i + 16] = static_cast<uint8_t>((q[i] >> 4) | ((bits >> (i + 16) & 1) << 4));
    }
    const int offset = has_minimum ? 128 : 112;  // q5_0's zero is 16
    for (int i = 0; i < 32; ++i) out.code[i] = static_cast<uint8_t>(out.code[i] + offset);
    if (has_minimum)
      for (int i = 0; i < 2; ++i) {
        out.scale[i] = f16_to_f32(out.scale_f16);
        out.minimum[i] = f16_to_f32(read_u16(p + 2));
      }
  } else if (name == "q4_k" || name == "q5_k") {
    const bool has_fifth = name == "q5_k";
    const float d = f16_to_f32(read_u16(p)), dmin = f16_to_f32(read_u16(p + 2));
    const uint8_t* high = p + 16;
    const uint8_t* q = p + (has_fifth ? 48 : 16);
    for (int j = 0; j < 8; ++j) {  // 8 blocks of 32; blocks 2 i and 2 i + 1 share 32 bytes
      int scale, minimum;
      k_scale_min(p + 4, j, &scale, &minimum);
      const uint8_t* nibbles = q + (j / 2) * 32;
      for (int i = 0; i < 32; ++i) {
        int code = j % 2 ? nibbles[i] >> 4 : nibbles[i] & 15;
        if (has_fifth) code += (high[i] >> j & 1) << 4;
        out.code[j * 32 + i] = static_cast<uint8_t>(has_fifth ? code + 128 : code);
      }
      const float s = d * static_cast<float>(scale), m = -(dmin * static_cast<float>(minimum));
      if (has_fifth) {
        out.scale[2 * j] = out.scale[2 * j + 1] = s;
        out.minimum[2 * j] = out.minimum[2 * j + 1] = m;
      } else {
        out.scale[j] = s;
        out.minimum[j] = m;
      }
    }
  } else {  // q6_k
    const uint8_t *low = p, *high = p + 128;
    const int8_t* scales = reinterpret_cast<const int8_t*>(p + 192);
    const float d = f16_to_f32(read_u16(p + 208));
    for (int half = 0; half < 2; ++half, low += 64, high += 32)
      for (int i = 0; i < 32; ++i)
        for (int quarter = 0; quarter < 4; ++quarter) {
          const int nibble = quarter < 2 ? low[i + 32 * quarter] & 15 : low[i + 32 * (quarter - 2)] >> 4;
          const int code = nibble | (high[i] >> (2 * quarter) & 3) << 4;
          out.code[half * 128 + quarter * 32 + i] = static_cast<uint8_t>(code - 32 + 128);
        }
    for (int j = 0; j < 16; ++j) {
      out.scale[j] = d * static_cast<float>(scales[j]);
      out.minimum[j] = 0.0f;
    }
  }
}

// Writes row r of a packed block: its scale, its minimum, its codes.
void put(const PackedMatrix& m, uint8_t* block, int64_t r, const Codes& codes, int64_t first, int64_t index) {
  const PackedShape shape = packed_shape(m.kind);
  const bool is_f16 = shape.scale_bytes == 2;
  uint8_t* minima = block + m.panel_rows * shape.scale_bytes;
  uint8_t* out = minima + m.panel_rows * shape.minimum_bytes;
  const void* scale = is_f16 ? static_cast<const void*>(&codes.scale_f16) : &codes.scale[index];
  const void* minimum = is_f16 ? static_cast<const void*>(&codes.minimum_f16) : &codes.minimum[index];
  memcpy(block + r * shape.scale_bytes, scale, static_cast<size_t>(shape.scale_bytes));
  memcpy(minima + r * shape.minimum_bytes, minimum, static_cast<size_t>(shape.minimum_bytes));
  const uint8_t* code = codes.code + first;
  if (shape.code_bits == 4) {
    for (int64_t j = 0; j < 4; ++j)
      for (int64_t c = 0; c < 4; ++c)
        out[(j * m.panel_rows + r) * 4 + c] = static_cast<uint8_t>(code[4 * j + c] | code[4 * (j + 4) + c] << 4);
  } else {
    for (int64_t s = 0; s < shape.block / 4; ++s) memcpy(out + (s * m.panel_rows + r) * 4, code + 4 * s, 4);
  }
}

void pack_panel(const Source& source, const std::string& name, const PackedMatrix& m, const uint8_t* data, int64_t panel) {
  uint8_t* out = m.data + panel * m.panel_bytes;
  const PackedShape shape = packed_shape(m.kind);
  const int64_t source_row = m.cols / source.block * source.bytes, block_bytes = m.panel_rows * shape.row_bytes();
  memset(out, 0, static_cast<size_t>(m.panel_bytes));
  for (int64_t r = 0; r < m.panel_rows && panel * m.panel_rows + r < m.rows; ++r) {
    const uint8_t* row = data + (panel * m.panel_rows + r) * source_row;
    if (source.block == 1) {
      for (int64_t c = 0; c < m.cols; ++c)
        memcpy(out + c * block_bytes + r * source.bytes, row + c * source.bytes, static_cast<size_t>(source.bytes));
      continue;
    }
    Codes codes;
    for (int64_t b = 0; b < m.cols / source.block; ++b) {
      decode(name, row + b * source.bytes, codes);
      const int64_t parts = source.block / shape.block;
      for (int64_t i = 0; i < parts; ++i) put(m, out + (b * parts + i) * block_bytes, r, codes, i * shape.block, i);
    }
  }
}

}  // namespace

int64_t row_bytes(const std::string& format, int64_t cols) {
  const Source* source = find_source(format);
  if (!source || cols % source->block) return 0;
  return cols / source->block * source->bytes;
}

PackedMatrix pack(const std::string& format, int64_t rows, int64_t cols, int64_t panel_rows, const uint8_t* data,
                  const std::function<uint8_t*(size_t)>& allocate, Team& team) {
  const Source* source = find_source(format);
  if (!source) throw std::invalid_argument("unknown weight format " + format);
  if (rows < 1 || cols < 1 || cols % source->block)
    throw std::invalid_argument("a matrix of format " + format + " needs a multiple of " + std::to_string(source->block) +
                                " columns, not " + std::to_string(rows) + " x " + std::to_string(cols));
  PackedMatrix m;
  m.kind = source->packed;
  m.rows = rows;
  m.cols = cols;
  m.panel_rows = panel_rows;
  const PackedShape shape = packed_shape(m.kind);
  m.panel_bytes = cols / shape.block * panel_rows * shape.row_bytes();
  m.data = allocate(m.num_bytes());
  team.run([&](Worker& w) { w.for_each(m.num_panels(), [&](int64_t p) { pack_panel(*source, format, m, data, p); }); });
  return m;
}

LinearScratch linear_scratch(int64_t num_tokens, int64_t max_cols) {
  const int64_t cols = (max_cols + kQuantBlock - 1) / kQuantBlock * kQuantBlock;
  auto whole_lines = [](int64_t n) { return (n + 63) / 64 * 64; };
  const int64_t unpacked = 2 * kMostPanelRows * kColsPerPass * 4, running = kTokensPerPass * 2 * kMostPanelRows * 4;
  const int64_t expanded = kPanelsPerTile * cols / kQuantBlock * kExpandedBytes;
  const int64_t shared = activation_bytes(num_tokens, cols);
  const int64_t own = activation_bytes(kTokensQuantizedByEach, cols);
  return {whole_lines(shared), whole_lines(own) + whole_lines(std::max(unpacked + running, expanded))};
}

}  // namespace farthing
