#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace emulation {

Memory memory;
unsigned char Memory::poison = 0x7f;

namespace {

constexpr size_t kBetweenArrays = 256;     // unused bytes
constexpr size_t kDynamicGranule = 2;
constexpr size_t kMostGranule = 8;

void* zeros(size_t bytes) {
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

const char* verb(Access kind) {
  return kind == Access::read ? "read" : kind == Access::write ? "write" : "atomic";
}

}  // namespace

void Clock::new_block(int num_threads) {
  ++block;
  epoch = 0;
  std::memset(tick, 0, sizeof(tick));
  std::memset(seen_by_all, 0, sizeof(seen_by_all));
  std::memset(seen, 0, sizeof(seen[0]) * num_threads);
}

// Each of these lanes has now seen the accesses of all of them, and all that any of them had seen.
void Clock::sync(int warp, unsigned lanes) {
  ++tick[warp];
  if (lanes == ~0u) {
    seen_by_all[warp] = tick[warp];
    return;
  }
  uint32_t together[kWarp] = {};
  for (int i = 0; i < kWarp; ++i) {
    if (!(lanes >> i & 1)) continue;
    for (int j = 0; j < kWarp; ++j) together[j] = std::max(together[j], seen[warp * kWarp + i][j]);
  }
  for (int i = 0; i < kWarp; ++i) {
    if (lanes >> i & 1) together[i] = tick[warp];
  }
  for (int i = 0; i < kWarp; ++i) {
    if (lanes >> i & 1) std::memcpy(seen[warp * kWarp + i], together, sizeof(together));
  }
}

void Memory::add(void* data, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  regions_[begin] = Region{begin, begin + bytes, 1, {}};
}

void Memory::remove(void* data) {
  regions_.erase(reinterpret_cast<uintptr_t>(data));
  last_ = nullptr;
}

Region* Memory::region(uintptr_t address) {
  if (last_ != nullptr && address >= last_->begin && address < last_->end) return last_;
  auto after = regions_.upper_bound(address);
  if (after == regions_.begin()) return nullptr;
  Region& found = std::prev(after)->second;
  return address < found.end ? last_ = &found : nullptr;
}

void Memory::make_output(void* data, size_t item_size) {
  Region* found = region(reinterpret_cast<uintptr_t>(data));
  if (found == nullptr) return;
  found->granule = std::min(item_size, kMostGranule);
  found->marks.assign((found->end - found->begin + found->granule - 1) / found->granule, Mark{});
  std::memset(data, poison, found->end - found->begin);
}

void Memory::host_writes(void* data, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  Region* found = region(begin);
  if (found == nullptr || found->marks.empty()) return;
  for (uintptr_t at = begin; at < begin + bytes; at += found->granule) {
    found->marks[(at - found->begin) / found->granule].write_block = clock.block;
  }
}

void Memory::seal() {
  for (auto& [begin, each] : regions_) each.marks.clear();
}

int64_t Memory::unwritten(const void* data, size_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const Region* found = const_cast<Memory*>(this)->region(begin);
  if (found == nullptr || found->marks.empty()) return 0;
  int64_t count = 0;
  for (uintptr_t at = begin; at < begin + bytes; at += found->granule) {
    count += found->marks[(at - found->begin) / found->granule].write_block == 0;
  }
  return count;
}

void Memory::begin_block(size_t dynamic_bytes) {
  if (arena_ == nullptr) {
    arena_ = static_cast<char*>(zeros(kArena));
    arena_marks_ = static_cast<Mark*>(zeros(kArena * sizeof(Mark)));
  }
  arrays_.clear();
  last_array_ = nullptr;
  dynamic_bytes_ = dynamic_bytes;
  dynamic_ = 0;
  static_bytes_ = 0;
  static_end_ = kArena / 2;
}

void* Memory::shared_array(int name, size_t bytes, size_t align, size_t granule) {
  for (const Array& array : arrays_) {
    if (array.name == name) return reinterpret_cast<void*>(array.begin);
  }
  // Aligned exactly as requested, not better.
  const size_t at = (static_end_ + kBetweenArrays + 2 * align - 1) / (2 * align) * (2 * align) + align;
  const auto begin = reinterpret_cast<uintptr_t>(arena_) + at;
  last_array_ = nullptr;
  arrays_.push_back({name, begin, begin + bytes, std::min(granule, kMostGranule)});
  std::memset(reinterpret_cast<void*>(begin), poison, bytes);
  static_end_ = at + bytes;
  static_bytes_ = (static_bytes_ + align - 1) / align * align + bytes;
  return reinterpret_cast<void*>(begin);
}

void* Memory::dynamic_array(size_t align) {
  if (dynamic_ == 0) {
    dynamic_ = reinterpret_cast<uintptr_t>(arena_) + 4096 + align;
    last_array_ = nullptr;
    arrays_.push_back({-1, dynamic_, dynamic_ + dynamic_bytes_, kDynamicGranule});
    std::memset(reinterpret_cast<void*>(dynamic_), poison, dynamic_bytes_);
  }
  return reinterpret_cast<void*>(dynamic_);
}

Memory::Array* Memory::array(uintptr_t address) {
  if (last_array_ != nullptr && address >= last_array_->begin && address < last_array_->end) return last_array_;
  for (Array& each : arrays_) {
    if (address >= each.begin && address < each.end) return last_array_ = &each;
  }
  return nullptr;
}

std::string Memory::astray(uintptr_t address, size_t size, Access kind) {
  if (is_shared(address)) {
    const Array* found = array(address);
    return found != nullptr && address + size <= found->end ? "" : std::string(verb(kind)) + " beyond a shared array";
  }
  const Region* found = region(address);
  if (found == nullptr) return std::string(verb(kind)) + " outside of every tensor";
  if (address + size > found->end) return std::string(verb(kind)) + " across the end of a tensor";
  if (kind != Access::read && found->marks.empty()) return std::string(verb(kind)) + " to a tensor that was given";
  return "";
}

std::string Memory::access(uintptr_t address, size_t size, Access kind) {
  const auto arena = reinterpret_cast<uintptr_t>(arena_);
  const bool shared = is_shared(address);
  std::string wrong;
  if (shared) {
    const size_t granule = array(address)->granule;
    for (uintptr_t at = address - address % granule; at < address + size && wrong.empty(); at += granule) {
      wrong = touch(arena_marks_[at - arena], kind, true);
    }
  } else if (Region* found = region(address); !found->marks.empty()) {
    const size_t last = (address + size - 1 - found->begin) / found->granule;
    for (size_t i = (address - found->begin) / found->granule; i <= last && wrong.empty(); ++i) {
      wrong = touch(found->marks[i], kind, false);
    }
  }
  return wrong;
}

std::string Memory::touch(Mark& mark, Access kind, bool shared) {
  const auto name = [&](uint32_t block, int thread) {
    return " thread " + std::to_string(thread) + (block == clock.block ? "" : " of another block");
  };
  const char* where = shared ? ", shared memory" : ", global memory";
  const uint32_t warp_bit = 1u << clock.thread / kWarp, lane_bit = 1u << clock.thread % kWarp;
  const uint32_t now = clock.tick[clock.thread / kWarp];
  const bool writes = kind != Access::read;
  std::string wrong;

  const bool by_this_block = mark.write_block == clock.block;
  const bool concurrent_write =
      by_this_block ? mark.writer != clock.thread && mark.write_epoch == clock.epoch &&
                          !clock.sees(mark.writer, mark.write_tick)
                    : !shared && mark.write_block >= clock.launch;
  if (concurrent_write && !(kind == Access::atomic && mark.atomic)) {
    wrong = std::string(verb(kind)) + " races with a write by" + name(mark.write_block, mark.writer) + where;
  } else if (kind != Access::write && (shared ? !by_this_block : mark.write_block == 0)) {
    wrong = std::string(verb(kind)) + " of what nobody wrote" + where;
  }
  if (mark.read_block != clock.block) {
    if (!shared && mark.read_block >= clock.launch) mark.other_block = mark.read_block;
    if (!writes) mark.read_block = clock.block;  // blocks may change the same number by atomics
    mark.read_warps = 0;
  }
  if (mark.read_epoch != clock.epoch) mark.read_epoch = clock.epoch, mark.read_warps = 0;
  if (mark.read_warps == 0) mark.read_lanes = 0;
  // In the thread's own warp only reads that it has not seen matter.
  if ((mark.read_warps & ~warp_bit) == 0) {
    const int first = clock.thread / kWarp * kWarp;
    for (uint32_t lanes = mark.read_lanes; lanes != 0; lanes &= lanes - 1) {
      const int lane = __builtin_ctz(lanes);
      if (clock.sees(first + lane, mark.read_tick)) mark.read_lanes &= ~(1u << lane);
    }
  }
  if (writes) {
    const bool other_warp = (mark.read_warps & ~warp_bit) != 0;
    const bool other_lane = (mark.read_lanes & ~lane_bit) != 0;
    const bool other_block = !shared && mark.other_block >= clock.launch && mark.other_block != clock.block;
    if (wrong.empty() && (other_warp || other_lane || other_block)) {
      wrong = std::string(verb(kind)) + " races with a read by another " +
              (other_block ? "block" : other_warp ? "warp" : "lane") + where;
    }
    mark.write_block = clock.block, mark.write_epoch = clock.epoch, mark.write_tick = now;
    mark.writer = static_cast<uint16_t>(clock.thread), mark.atomic = kind == Access::atomic;
    mark.read_warps = mark.read_lanes = 0;
  } else {
    mark.read_warps |= warp_bit, mark.read_lanes |= lane_bit, mark.read_tick = now;
  }
  return wrong;
}

}  // namespace emulation
