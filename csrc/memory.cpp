#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

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

namespace {

[[noreturn]] void fail(const std::string& what, int error) { throw std::runtime_error(what + ": " + std::strerror(error)); }

}  // namespace

FileArena::FileArena(const std::string& folder) {
  std::string name = folder + "/.farthing-experts-XXXXXX";
  file_ = mkstemp(name.data());
  if (file_ < 0) fail("a file in " + folder + " cannot be made", errno);
  unlink(name.c_str());  // it lives as long as it is open
}

FileArena::~FileArena() {
  for (const auto& [at, bytes] : regions_) munmap(at, bytes);
  if (file_ >= 0) close(file_);
}

uint8_t* FileArena::allocate(size_t bytes) {
  bytes = rounded(bytes, 64);
  if (bytes > left_) {
    write_back();
    const size_t size = rounded(std::max(bytes, kRegion), size_t{1} << 16);
    // Room is taken now: a write to a mapped page that the disk has no room for would end the process.
    if (const int error = posix_fallocate(file_, static_cast<off_t>(file_bytes_), static_cast<off_t>(size)))
      fail(std::to_string(size) + " bytes for experts cannot be had on disk", error);
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file_, static_cast<off_t>(file_bytes_));
    if (at == MAP_FAILED) throw std::bad_alloc();
    next_ = static_cast<uint8_t*>(at);
    regions_.emplace_back(next_, size);
    left_ = size;
    file_bytes_ += size;
  }
  uint8_t* part = next_;
  next_ += bytes;
  left_ -= bytes;
  return part;
}

// Begins to write the region that is full, so that its pages can be dropped when they have to.
void FileArena::write_back() {
#if defined(__linux__)
  if (!regions_.empty()) {
    const size_t bytes = regions_.back().second;
    sync_file_range(file_, static_cast<off_t>(file_bytes_ - bytes), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE);
  }
#endif
}

int64_t num_page_faults() {
  struct rusage usage;
  return getrusage(RUSAGE_SELF, &usage) ? 0 : usage.ru_majflt;
}

void will_need(const uint8_t* data, size_t bytes) {
  constexpr uintptr_t kPage = 4096;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / kPage * kPage, end = reinterpret_cast<uintptr_t>(data) + bytes;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
}

}  // namespace farthing
