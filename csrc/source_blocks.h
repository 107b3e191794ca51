// Blocks of weights as they lie in a file (kernels/formats.py), taken apart.
#pragma once
#include "pack.h"

namespace farthing {

struct Source {
  const char* name;
  int64_t block, bytes;  // columns and bytes of a block of the file
  Packed packed;
};

// Null for an unknown name.
const Source* find_source(const std::string& name);

// One block of a file, up to 256 columns of one row: codes as BlockShape counts them, a row's numbers for each 32 columns,
// and those for all 256.
struct SourceBlock {
  uint8_t code[256];
  uint8_t header[8][4];
  uint8_t super[4];
};

void read_block(const Source& source, const uint8_t* bytes, SourceBlock& out);

}  // namespace farthing
