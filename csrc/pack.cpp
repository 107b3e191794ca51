#include "pack.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "source_blocks.h"
#include "threads.h"

namespace farthing {

namespace {

// Adds the low bits of a row's 32 codes to their vectors, as pack.h draws them.
void put_codes(int bits, const uint8_t* code, int64_t panel_rows, int64_t r, uint8_t* out) {
  const int64_t vector = 4 * panel_rows;
  for (int i = 0; i < kQuantBlock; ++i) {
    const int s = i / 4;
    uint8_t* const at = out + r * 4 + i % 4;
    auto add = [&](int64_t index, int value, int shift) {
      at[index * vector] = static_cast<uint8_t>(at[index * vector] | value << shift);
    };
    if (bits == 8) {
      add(s, code[i], 0);
    } else if (bits >= 4) {
      add(s % 4, code[i] & 15, s / 4 * 4);
      if (bits == 5) add(4, code[i] >> 4, s);
      if (bits == 6) add(4 + s % 2, code[i] >> 4, s / 2 * 2);
    } else {
      add(s % 2, code[i] & 3, s / 2 * 2);
      if (bits == 3) add(2, code[i] >> 2, s);
    }
  }
}

// A row's numbers, field by field, each beside those of the other rows.
void put_fields(const uint8_t* numbers, int num_bytes, int field_bytes, int64_t panel_rows, int64_t r, uint8_t* out) {
  for (int i = 0; i < num_bytes; i += field_bytes)
    memcpy(out + i * panel_rows + r * field_bytes, numbers + i, static_cast<size_t>(field_bytes));
}

void pack_panel(const Source& source, const PackedMatrix& m, const uint8_t* data, int64_t panel) {
  const BlockShape shape = shape_of(m.kind);
  const int64_t P = m.panel_rows, source_row = m.cols / source.block * source.bytes;
  const int64_t header = P * shape.row_header(), block_bytes = header + P * shape.bits * kQuantBlock / 8;
  memset(m.data + panel * m.panel_bytes, 0, static_cast<size_t>(m.panel_bytes));
  uint8_t* const out = m.data + panel * m.panel_bytes + P * shape.row_unit();
  for (int64_t r = 0; r < P && panel * P + r < m.rows; ++r) {
    const uint8_t* row = data + (panel * P + r) * source_row;
    if (source.block == 1) {
      for (int64_t c = 0; c < m.cols; ++c)
        memcpy(out + (c * P + r) * source.bytes, row + c * source.bytes, static_cast<size_t>(source.bytes));
      continue;
    }
    SourceBlock from;
    uint8_t* at = out;
    for (int64_t b = 0; b < m.cols / source.block; ++b) {
      read_block(source, row + b * source.bytes, from);
      put_fields(from.super, shape.row_super(), 2, P, r, at);
      at += P * shape.row_super();
      for (int64_t i = 0; i < source.block / kQuantBlock; ++i, at += block_bytes) {
        put_fields(from.header[i], shape.row_header(), shape.field_bytes(), P, r, at);
        put_codes(shape.bits, from.code + i * kQuantBlock, P, r, at + header);
      }
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
                  const std::function<uint8_t*(size_t)>& allocate, decltype(Kernels::to_words) to_words, Team& team) {
  const Source* source = find_source(format);
  if (!source) throw std::invalid_argument("unknown weight format " + format);
  if (rows < 1 || cols < 1 || cols % source->block)
    throw std::invalid_argument("a matrix of format " + format + " needs a multiple of " + std::to_string(source->block) +
                                " columns, not " + std::to_string(rows) + " x " + std::to_string(cols));
  PackedMatrix m;
  m.kind = to_words && source->packed == Packed::q4_1 ? Packed::q4_words : source->packed;
  m.rows = rows;
  m.cols = cols;
  m.panel_rows = panel_rows;
  m.panel_bytes = panel_rows * packed_row_bytes(m.kind, cols);
  m.data = allocate(m.num_bytes());
  team.run([&](Worker& w) {
    w.for_each(m.num_panels(), [&](int64_t p) {
      pack_panel(*source, m, data, p);
      if (m.kind == Packed::q4_words) to_words(m, p);
    });
  });
  return m;
}

LinearScratch linear_scratch(int64_t num_tokens, int64_t max_cols) {
  const int64_t cols = (max_cols + kQuantBlock - 1) / kQuantBlock * kQuantBlock;
  auto whole_lines = [](int64_t n) { return (n + 63) / 64 * 64; };
  const int64_t unpacked = 2 * kMostPanelRows * kColsPerPass * 4, running = kTokensPerPass * 2 * kMostPanelRows * 4;
  const int64_t expanded = kPanelsPerTile * cols / kQuantBlock * kExpandedBytes;
  const int64_t shared = activation_bytes(num_tokens, cols);
  const int64_t own = activation_bytes(kTokensQuantizedByEach, cols), gated = kTokensPerGate * 2 * kColumnsPerGate * 4;
  return {whole_lines(shared), whole_lines(own) + whole_lines(std::max(unpacked + running, expanded)) + gated};
}

}  // namespace farthing
