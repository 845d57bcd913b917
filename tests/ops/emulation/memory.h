// The state of memory: the tensor or shared array that each byte belongs to, and its last writes and reads. Every load
// and store of a kernel is checked here. Two accesses race if they touch the same granule, one of them writes, not
// both are atomic, and no barrier lies between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace emulation {

constexpr int kWarp = 32;
constexpr int kMostThreads = 1024;
constexpr size_t kArena = 1 << 20;  // bytes: dynamic shared memory in the first half, static arrays in the second

enum class Access { read, write, atomic };

// The time of the running thread, and the accesses of its warp that it has seen.
struct Clock {
  uint32_t launch = 1;  // number of the first block of this launch
  uint32_t block = 1;   // blocks are numbered through all launches
  uint32_t epoch = 0;   // block barriers that the block has passed
  int thread = -1;      // -1: the host runs
  uint32_t tick[kMostThreads / kWarp] = {};  // barriers of each warp
  uint32_t seen[kMostThreads][kWarp] = {};   // accesses of lane j of the warp before this tick are seen
  uint32_t seen_by_all[kMostThreads / kWarp] = {};  // by every lane, of every lane

  void new_block(int num_threads);
  void sync(int warp, unsigned lanes);
  bool sees(int other, uint32_t its_tick) const {
    if (other / kWarp != thread / kWarp) return false;
    return its_tick < seen_by_all[thread / kWarp] || its_tick < seen[thread][other % kWarp];
  }
};

// The last write of a granule, and the reads since.
struct Mark {
  uint32_t write_block = 0, write_epoch = 0, write_tick = 0;  // block 0: never written
  uint16_t writer = 0;
  bool atomic = false;
  uint32_t read_block = 0, read_epoch = 0, read_tick = 0;
  uint32_t read_warps = 0, read_lanes = 0;  // the lanes are valid if they belong to one warp
  uint32_t other_block = 0;                 // another block that read it
};

// The bytes of a tensor. Kernels write only to tensors that their operator made. The others come from the host.
struct Region {
  uintptr_t begin = 0, end = 0;
  size_t granule = 1;
  std::vector<Mark> marks;  // one per granule; empty: from the host, read-only
};

class Memory {
 public:
  Clock clock;

  // Tensors.
  void add(void* data, size_t bytes);
  void remove(void* data);
  void make_output(void* data, size_t item_size);  // not yet written
  void host_writes(void* data, size_t bytes);
  void seal();                                      // all existing tensors become inputs
  int64_t unwritten(const void* data, size_t bytes) const;  // granules

  // Shared arrays of a block, distinguished by `name`.
  void begin_block(size_t dynamic_bytes);
  void* shared_array(int name, size_t bytes, size_t align, size_t granule);
  void* dynamic_array(size_t align);
  size_t static_bytes() const { return static_bytes_; }

  bool is_shared(uintptr_t address) const { return address - reinterpret_cast<uintptr_t>(arena_) < kArena; }
  bool in_tensor(uintptr_t address) { return region(address) != nullptr; }

  // `astray`: the fault of an access outside all arrays. `access`: the fault of an access inside one. "": no fault.
  std::string astray(uintptr_t address, size_t size, Access kind);
  std::string access(uintptr_t address, size_t size, Access kind);

  static unsigned char poison;  // fills unwritten memory

 private:
  struct Array {
    int name;
    uintptr_t begin, end;
    size_t granule;
  };

  Region* region(uintptr_t address);
  Array* array(uintptr_t address);
  std::string touch(Mark& mark, Access kind, bool shared);

  std::map<uintptr_t, Region> regions_;
  Region* last_ = nullptr;
  Array* last_array_ = nullptr;
  std::vector<Array> arrays_;
  char* arena_ = nullptr;
  Mark* arena_marks_ = nullptr;  // one per byte; a granule uses the mark of its first byte
  uintptr_t dynamic_ = 0;
  size_t dynamic_bytes_ = 0, static_bytes_ = 0, static_end_ = 0;
};

extern Memory memory;

}  // namespace emulation
