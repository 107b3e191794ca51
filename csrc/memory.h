// Memory for what is streamed: weights and pages. In whole 2 MiB pages where the system grants them, because a token
// touches all weights once and would otherwise wait for the address of every 4 KiB of them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
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

// The same in a file without a name in `folder`: where memory is short, the system drops parts that were not read lately and
// reads them again. For weights of which a token touches few.
class FileArena {
 public:
  explicit FileArena(const std::string& folder);  // throws std::runtime_error, as allocate() does where the disk is full
  ~FileArena();
  FileArena(const FileArena&) = delete;
  FileArena& operator=(const FileArena&) = delete;
  uint8_t* allocate(size_t bytes);

 private:
  void write_back();
  int file_ = -1;
  std::vector<std::pair<uint8_t*, size_t>> regions_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0, file_bytes_ = 0;
};

// Reads of this process that waited for the disk, since its start.
int64_t num_page_faults();

// Asks the system to read what lies at `data`, if it is in a file and not in memory.
void will_need(const uint8_t* data, size_t bytes);

}  // namespace farthing
