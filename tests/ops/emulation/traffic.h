// What kernels ask of memory, counted: bytes, sectors of global memory, turns of shared memory's banks. While this is
// on, accesses are not checked, and of a large grid only some blocks run.
//
// A warp's accesses belong together if they stand at one place of the program and are each lane's n-th there. That is
// what a GPU does where the lanes of a warp take the same way; where they do not, it is close to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "memory.h"

namespace emulation {

constexpr int kSector = 32;  // bytes that global memory moves at least
constexpr int kBanks = 32;   // of shared memory, 4 bytes wide

// Of one kernel; [0] is read, [1] is written.
struct Counts {
  uint64_t blocks = 0, all_blocks = 0, barriers = 0;  // that ran, that there are, that those that ran waited at
  uint64_t bytes[2] = {}, sectors[2] = {};  // of global memory
  uint64_t shared_bytes[2] = {}, turns[2] = {}, fewest_turns[2] = {};
};

class Traffic {
 public:
  uint64_t most_blocks = 0;  // of a launch that are run; 0: this is off

  bool on() const { return most_blocks > 0; }
  void note(int thread, uintptr_t address, size_t size, Access kind, bool shared, const void* place);
  void end_block(const std::string& kernel, int num_threads);
  std::map<std::string, Counts> counts;

 private:
  struct One {
    uintptr_t place, address;
    uint8_t size, writes, shared;
  };
  void add(Counts& counts, const One* const* lanes, int num);

  std::vector<One> noted_[kMostThreads];
};

extern Traffic traffic;

}  // namespace emulation
