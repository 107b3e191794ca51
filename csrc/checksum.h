// XXH64 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md) with seed 0: finds damage at the speed of memory. It is no
// protection against somebody who wants to deceive.
#pragma once
#include <cstddef>
#include <cstdint>

namespace farthing {

uint64_t checksum(const uint8_t* data, size_t num_bytes);

}  // namespace farthing
