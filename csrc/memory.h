// Memory for what is streamed: weights and pages. In whole 2 MiB pages where the system grants them, because a token
// touches all weights once and would otherwise wait for the address of every 4 KiB of them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace farthing {

struct Unmap {
  size_t bytes = 0;
  void operator()(uint8_t* p) const;
};
// Zero, 64-byte aligned, and lazy: it costs memory only where it is written.
using Region = std::unique_ptr<uint8_t, Unmap>;
Region map_region(size_t bytes);  // throws std::bad_alloc

// Hands out parts of regions; they live as long as the arena.
class Arena {
 public:
  uint8_t* allocate(size_t bytes);

 private:
  std::vector<Region> regions_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
};

}  // namespace farthing
