#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace farthing {

namespace {

constexpr size_t kHugePage = size_t{2} << 20, kRegion = size_t{32} << 20;

size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

#if defined(__SANITIZE_ADDRESS__)

// Under AddressSanitizer each part is an allocation of its own, so that reading past it is seen.
void Unmap::operator()(uint8_t* p) const { std::free(p); }

Region map_region(size_t bytes) {
  uint8_t* p = static_cast<uint8_t*>(std::aligned_alloc(64, rounded(bytes, 64)));
  if (!p) throw std::bad_alloc();
  memset(p, 0, bytes);
  return Region(p, Unmap{bytes});
}

uint8_t* Arena::allocate(size_t bytes) {
  regions_.push_back(map_region(bytes));
  return regions_.back().get();
}

#else

void Unmap::operator()(uint8_t* p) const { munmap(p, bytes); }

Region map_region(size_t bytes) {
  // One huge page more than asked for; what lies before the first whole one and behind the last is given back.
  const size_t size = rounded(bytes, kHugePage), mapped = size + kHugePage;
  if (size < bytes) throw std::bad_alloc();
  void* at = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  uint8_t* const begin = static_cast<uint8_t*>(at);
  uint8_t* const first = begin + (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (first > begin) munmap(begin, static_cast<size_t>(first - begin));
  if (begin + mapped > first + size) munmap(first + size, static_cast<size_t>(begin + mapped - (first + size)));
#if defined(MADV_HUGEPAGE)
  madvise(first, size, MADV_HUGEPAGE);  // a wish: without it the memory is the same, only slower
#endif
  return Region(first, Unmap{size});
}

uint8_t* Arena::allocate(size_t bytes) {
  bytes = rounded(bytes, 64);
  if (bytes > left_) {
    if (bytes >= kRegion / 2) {  // large ones get a region of their own and leave the rest of the last one open
      regions_.push_back(map_region(bytes));
      return regions_.back().get();
    }
    regions_.push_back(map_region(kRegion));
    next_ = regions_.back().get();
    left_ = kRegion;
  }
  uint8_t* part = next_;
  next_ += bytes;
  left_ -= bytes;
  return part;
}

#endif

}  // namespace farthing
