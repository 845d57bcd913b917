#include "traffic.h"

#include <algorithm>
#include <set>

namespace emulation {

Traffic traffic;

namespace {

size_t distinct(std::vector<uintptr_t>& values) {
  std::sort(values.begin(), values.end());
  return static_cast<size_t>(std::unique(values.begin(), values.end()) - values.begin());
}

}  // namespace

uint64_t Traffic::blocks_of(const std::string& kernel) const {
  const std::string name = " " + kernel.substr(0, kernel.find('<')) + " ";
  return (" " + whole + " ").find(name) != std::string::npos ? ~uint64_t{0} : most_blocks;
}

void Traffic::note(int thread, uintptr_t address, size_t size, Access kind, bool shared, const void* place) {
  noted_[thread].push_back({reinterpret_cast<uintptr_t>(place), address, static_cast<uint8_t>(size),
                            kind != Access::read, shared});
}

void Traffic::end_block(const std::string& kernel, int num_threads) {
  Counts& of_kernel = counts[kernel];
  ++of_kernel.blocks;
  of_kernel.barriers += memory.clock.epoch;
  for (int first = 0; first < num_threads; first += kWarp) {
    const int end = std::min(first + kWarp, num_threads);
    std::set<uintptr_t> places;
    std::vector<const One*> at(end - first), ends(end - first);
    for (int i = first; i < end; ++i) {
      std::vector<One>& noted = noted_[i];
      std::stable_sort(noted.begin(), noted.end(), [](const One& a, const One& b) { return a.place < b.place; });
      for (const One& one : noted) places.insert(one.place);
      at[i - first] = noted.data(), ends[i - first] = noted.data() + noted.size();
    }
    for (const uintptr_t place : places) {
      while (true) {
        const One* lanes[kWarp];
        int num = 0;
        for (size_t i = 0; i < at.size(); ++i) {
          if (at[i] != ends[i] && at[i]->place == place) lanes[num++] = at[i]++;
        }
        if (num == 0) break;
        add(of_kernel, lanes, num);
      }
    }
    for (int i = first; i < end; ++i) noted_[i].clear();
  }
}

// `lanes` are in order. Wide accesses to shared memory take turns of 128 bytes. In a turn each bank gives one word.
void Traffic::add(Counts& counts, const One* const* lanes, int num) {
  const One& one = *lanes[0];
  std::vector<uintptr_t> touched;
  ++counts.accesses[one.shared];
  if (!one.shared) {
    for (int i = 0; i < num; ++i) {
      counts.bytes[one.writes] += lanes[i]->size;
      for (uintptr_t at = lanes[i]->address / kSector; at <= (lanes[i]->address + lanes[i]->size - 1) / kSector; ++at) {
        touched.push_back(at);
      }
    }
    counts.sectors[one.writes] += distinct(touched);
    return;
  }
  const int together = std::min(kWarp, 4 * kBanks / std::max<int>(4, one.size));
  for (int first = 0; first < num; first += together) {
    touched.clear();
    for (int i = first; i < std::min(first + together, num); ++i) {
      counts.shared_bytes[one.writes] += lanes[i]->size;
      for (uintptr_t at = lanes[i]->address / 4; at <= (lanes[i]->address + lanes[i]->size - 1) / 4; ++at) {
        touched.push_back(at);
      }
    }
    touched.resize(distinct(touched));
    uint64_t of_bank[kBanks] = {};
    for (const uintptr_t word : touched) ++of_bank[word % kBanks];
    counts.turns[one.writes] += *std::max_element(of_bank, of_bank + kBanks);
    counts.fewest_turns[one.writes] += (touched.size() + kBanks - 1) / kBanks;
  }
}

}  // namespace emulation
