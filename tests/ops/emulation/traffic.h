// Counts of the memory traffic of kernels: bytes, sectors of global memory, turns of the banks of shared memory. While
// counting, accesses are not checked, and of a large grid only some blocks run.
//
// Accesses of a warp belong together if they are at one place in the program and each is its lane's n-th access there.
// A GPU does the same if the lanes of a warp do not diverge. If they diverge, this is close to it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "memory.h"

namespace emulation {

constexpr int kSector = 32;  // the smallest number of bytes that global memory moves
constexpr int kBanks = 32;   // banks of shared memory, 4 bytes wide

// Counts of one kernel. [0]: reads, [1]: writes.
struct Counts {
  uint64_t blocks = 0, all_blocks = 0, barriers = 0;  // blocks that ran, all blocks, barriers of those that ran
  uint64_t accesses[2] = {};  // loads and stores of warps: of global memory, of shared memory
  uint64_t bytes[2] = {}, sectors[2] = {};  // of global memory
  uint64_t shared_bytes[2] = {}, turns[2] = {}, fewest_turns[2] = {};
};

class Traffic {
 public:
  uint64_t most_blocks = 0;  // that run in a launch; 0: counting is off

  std::string whole;         // names of kernels that run whole, separated by spaces

  bool on() const { return most_blocks > 0; }
  uint64_t blocks_of(const std::string& kernel) const;  // that run in a launch
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
