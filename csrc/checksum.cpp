#include "checksum.h"

#include <cstring>

namespace farthing {

namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9,
                   kPrime4 = 0x85EBCA77C2B2AE63, kPrime5 = 0x27D4EB2F165667C5;

uint64_t rotated(uint64_t x, int bits) { return (x << bits) | (x >> (64 - bits)); }

template <class T>
uint64_t read(const uint8_t* at) {
  T value;
  memcpy(&value, at, sizeof value);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  value = sizeof value == 8 ? __builtin_bswap64(value) : __builtin_bswap32(value);
#endif
  return value;
}

uint64_t mixed(uint64_t lane, uint64_t input) { return rotated(lane + input * kPrime2, 31) * kPrime1; }

}  // namespace

uint64_t checksum(const uint8_t* data, size_t num_bytes) {
  const uint8_t* const end = data + num_bytes;
  uint64_t sum = kPrime5;
  if (num_bytes >= 32) {  // four lanes, so that a multiplication need not wait for the one before it
    uint64_t lanes[4] = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
    for (; end - data >= 32; data += 32)
      for (int i = 0; i < 4; ++i) lanes[i] = mixed(lanes[i], read<uint64_t>(data + 8 * i));
    sum = rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12) + rotated(lanes[3], 18);
    for (uint64_t lane : lanes) sum = (sum ^ mixed(0, lane)) * kPrime1 + kPrime4;
  }
  sum += num_bytes;
  for (; end - data >= 8; data += 8) sum = rotated(sum ^ mixed(0, read<uint64_t>(data)), 27) * kPrime1 + kPrime4;
  if (end - data >= 4) {
    sum = rotated(sum ^ (read<uint32_t>(data) * kPrime1), 23) * kPrime2 + kPrime3;
    data += 4;
  }
  for (; data < end; ++data) sum = rotated(sum ^ (*data * kPrime5), 11) * kPrime1;
  sum = (sum ^ (sum >> 33)) * kPrime2;
  sum = (sum ^ (sum >> 29)) * kPrime3;
  return sum ^ (sum >> 32);
}

}  // namespace farthing
