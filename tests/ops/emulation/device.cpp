// Fibres, barriers and launches. Compiled without sanitizers; their callbacks are in callbacks.cpp.
#include "device.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "findings.h"
#include "memory.h"
#include "traffic.h"

namespace emulation {

Builtins builtins;

namespace {

constexpr size_t kStack = 64 << 10;
constexpr size_t kMostFindings = 8;
constexpr uint64_t kMostSteps = 100'000'000;  // of one block; a block with more counts as endless

// The size of the emulated device, set by profiles.
struct Profile {
  int processors = 132;
  int block_shared = 232448;      // bytes that a kernel may ask for
  int processor_shared = 233472;
  int plain_shared = 49152;       // without a request
} profile;

enum class State { ready, at_block_barrier, at_warp, done };

struct Fibre {
  ucontext_t start;
  jmp_buf resume;
  bool begun = false;
  State state = State::done;
  int line = 0;  // source line of its barrier
  uint64_t result = 0;
};

// Lanes that have reached a collective of their warp.
struct Meeting {
  unsigned arrived = 0, lanes = 0;
  Collective what{};
  int line = 0;
  uint64_t value[kWarp];
  int from[kWarp];
};

Fibre fibres[kMostThreads];
Meeting meetings[kMostThreads / kWarp];
char* stacks = nullptr;
jmp_buf scheduler;
std::vector<int> ready;
std::mt19937_64 chance;

Body the_body;
Kernel the_kernel;
void* the_arguments;
uintptr_t arguments_begin = 0, arguments_end = 0;

int num_threads = 0, num_alive = 0, num_at_barrier = 0, barrier_line = 0, barrier_values = 0;
bool stopped = false;  // the block cannot go on
uint64_t steps = 0;

std::vector<std::string> findings;
std::set<std::pair<uintptr_t, std::string>> found_at;
int error = 0;
std::string text;
char stream_of_torch;     // its address is the current stream
bool has_device = false;  // this operator has called cudaSetDevice
bool guarded = false;     // the device will be what it was before
std::string of_host;      // the first fault of this operator's host code
bool asked = true;        // for the error of the latest launch

// A copy to the host that has not happened: the host does not wait.
struct Pending {
  void* to;
  std::vector<char> values;
};
std::vector<Pending> pending;

// The error of a call on this stream.
int checked(const void* stream) {
  if (stream != &stream_of_torch) return host_fault("a call that is not on the current stream");
  return std::exchange(error, 0);
}

std::map<Kernel, int> allowed_shared;
std::map<std::string, uint64_t> launched;

std::string name_of(Kernel kernel) {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<void*>(kernel), &info) || info.dli_sname == nullptr) return "a kernel";
  int status = 0;
  char* readable = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  std::string name = status == 0 ? readable : info.dli_sname;
  std::free(readable);
  name = name.substr(0, name.find('('));
  for (size_t at; (at = name.find("fast_rfcn::")) != std::string::npos;) name.erase(at, 11);
  return name.rfind("void ", 0) == 0 ? name.substr(5) : name;
}

// The running fibre waits or ends. The scheduler continues.
void leave() {
  if (_setjmp(fibres[memory.clock.thread].resume) == 0) _longjmp(scheduler, 1);
}

void make_ready(int thread) {
  fibres[thread].state = State::ready;
  ready.push_back(thread);
}

void open_block_barrier() {
  for (int i = 0; i < num_threads; ++i) {
    if (fibres[i].state != State::at_block_barrier) continue;
    fibres[i].result = static_cast<uint64_t>(barrier_values);
    make_ready(i);
  }
  num_at_barrier = barrier_values = 0;
  ++memory.clock.epoch;
}

void live() {
  while (true) {
    the_body(the_kernel, the_arguments);
    Fibre& me = fibres[memory.clock.thread];
    me.state = State::done;
    if (--num_alive > 0 && num_at_barrier == num_alive) open_block_barrier();
    leave();
  }
}

void resume(int thread) {
  Fibre& fibre = fibres[thread];
  memory.clock.thread = thread;
  const unsigned x = builtins.block_size.x, y = builtins.block_size.y, number = static_cast<unsigned>(thread);
  builtins.thread = {number % x, number / x % y, number / x / y};
  if (_setjmp(scheduler) == 0) {
    if (fibre.begun) _longjmp(fibre.resume, 1);
    fibre.begun = true;
    getcontext(&fibre.start);
    fibre.start.uc_stack.ss_sp = stacks + thread * kStack;
    fibre.start.uc_stack.ss_size = kStack;
    fibre.start.uc_link = nullptr;
    makecontext(&fibre.start, &live, 0);
    setcontext(&fibre.start);
  }
  memory.clock.thread = -1;
}

void report_waiting() {
  std::map<std::string, int> waiting;
  for (int i = 0; i < num_threads; ++i) {
    const Fibre& fibre = fibres[i];
    const std::string line = std::to_string(fibre.line);
    ++waiting[fibre.state == State::done               ? "ended"
              : fibre.state == State::at_block_barrier ? "at __syncthreads of line " + line
                                                       : "at a warp's collective of line " + line];
  }
  std::string what = "threads wait for ever:";
  for (const auto& [where, count] : waiting) what += " " + std::to_string(count) + " " + where + ",";
  what.pop_back();
  find(what, nullptr);
}

void run_block(size_t shared_bytes) {
  memory.clock.new_block(num_threads);
  memory.begin_block(shared_bytes);
  std::fill(std::begin(meetings), std::end(meetings), Meeting{});
  num_alive = num_threads;
  num_at_barrier = barrier_values = 0;
  steps = 0;
  ready.clear();
  for (int i = 0; i < num_threads; ++i) make_ready(i);
  while (!ready.empty() && !stopped) {
    const size_t drawn = chance() % ready.size();
    std::swap(ready[drawn], ready.back());
    const int next = ready.back();
    ready.pop_back();
    resume(next);
  }
  if (num_alive == 0) return;
  if (!stopped) report_waiting();
  stopped = true;
  for (int i = 0; i < num_threads; ++i) {
    if (fibres[i].state != State::done) fibres[i].begun = false;  // never resumed
  }
}

// The result for every lane.
uint64_t common_result(const Meeting& meeting) {
  uint64_t any = 0, all = ~uint64_t{0}, odd = 0, sum = 0, least = ~uint64_t{0}, most = 0;
  unsigned ballot = 0;
  for (int i = 0; i < kWarp; ++i) {
    if (!(meeting.lanes >> i & 1)) continue;
    const uint64_t value = meeting.value[i];
    any |= value, all &= value, odd ^= value, sum += value;
    least = std::min(least, value), most = std::max(most, value);
    if (value != 0) ballot |= 1u << i;
  }
  switch (meeting.what) {
    case Collective::any: return ballot != 0;
    case Collective::all: return ballot == meeting.lanes;
    case Collective::ballot: return ballot;
    case Collective::bit_or: return any;
    case Collective::bit_and: return all;
    case Collective::bit_xor: return odd;
    case Collective::add: return sum;
    case Collective::least: return least;
    case Collective::most: return most;
    default: return 0;
  }
}

// The result for one lane, of collectives whose results differ between lanes.
uint64_t result_of(const Meeting& meeting, int lane) {
  if (meeting.what == Collective::match_any) {
    uint64_t same = 0;
    for (int i = 0; i < kWarp; ++i) {
      if (meeting.lanes >> i & 1 && meeting.value[i] == meeting.value[lane]) same |= uint64_t{1} << i;
    }
    return same;
  }
  const int from = meeting.from[lane] >= 0 && meeting.from[lane] < kWarp ? meeting.from[lane] : lane;
  if (!(meeting.lanes >> from & 1)) find("a shuffle from a lane that is not there", nullptr);
  return meeting.value[from];
}

}  // namespace

void find(const std::string& what, void* place) {
  const auto address = reinterpret_cast<uintptr_t>(place);
  if (findings.size() >= kMostFindings || !found_at.insert({address, what.substr(0, 20)}).second) return;
  std::string where;
  if (Dl_info info{}; place != nullptr && dladdr(place, &info)) {
    char offset[32];
    std::snprintf(offset, sizeof(offset), " at [0x%zx]", address - reinterpret_cast<uintptr_t>(info.dli_fbase) - 1);
    where = offset;
  }
  const std::string thread = memory.clock.thread < 0 ? "" : ", thread " + std::to_string(memory.clock.thread);
  findings.push_back(what + where + ", block " + std::to_string(builtins.block.x) + " " +
                     std::to_string(builtins.block.y) + thread);
}

bool in_kernel() { return memory.clock.thread >= 0; }

bool is_own(uintptr_t address) {
  const auto stack = reinterpret_cast<uintptr_t>(stacks) + static_cast<size_t>(memory.clock.thread) * kStack;
  return address - stack < kStack || address - reinterpret_cast<uintptr_t>(&builtins) < sizeof(builtins);
}

bool is_constant(uintptr_t address) {
  if (address >= arguments_begin && address < arguments_end) return true;
  Dl_info info{};
  return dladdr(reinterpret_cast<void*>(address), &info) != 0 && info.dli_fbase != nullptr;
}

void abandon() {
  stopped = true;
  leave();
}

void step() {
  if (++steps < kMostSteps) return;
  find("a block that does not end", nullptr);
  abandon();
}

int block_barrier(int line, int value) {
  if (num_at_barrier > 0 && line != barrier_line) {
    find("threads of a block meet at different barriers, lines " + std::to_string(barrier_line) + " and " +
             std::to_string(line), __builtin_return_address(0));
  }
  const int me = memory.clock.thread;
  barrier_line = line;
  barrier_values += value;
  fibres[me].state = State::at_block_barrier, fibres[me].line = line;
  if (++num_at_barrier == num_alive) open_block_barrier();
  leave();
  return static_cast<int>(fibres[me].result);
}

int lane() { return memory.clock.thread % kWarp; }

uint64_t warp_collective(Collective what, unsigned lanes, uint64_t value, int from_lane, int line) {
  const int me = memory.clock.thread, warp = me / kWarp;
  Meeting& meeting = meetings[warp];
  if (!(lanes >> lane() & 1)) find("a lane calls a collective that it is not named in", __builtin_return_address(0));
  if (meeting.arrived == 0) {
    meeting.lanes = lanes, meeting.what = what, meeting.line = line;
  } else if (meeting.lanes != lanes || meeting.what != what || meeting.line != line) {
    find("lanes of a warp meet in different collectives, lines " + std::to_string(meeting.line) + " and " +
             std::to_string(line), __builtin_return_address(0));
  }
  meeting.arrived |= 1u << lane();
  meeting.value[lane()] = value, meeting.from[lane()] = from_lane;
  fibres[me].state = State::at_warp, fibres[me].line = line;
  if ((meeting.arrived & meeting.lanes) == meeting.lanes) {
    const bool apart = what == Collective::match_any || what == Collective::shuffle;
    const uint64_t common = apart || what == Collective::sync ? 0 : common_result(meeting);
    for (int i = 0; i < kWarp; ++i) {
      if (!(meeting.arrived >> i & 1)) continue;
      fibres[warp * kWarp + i].result = apart ? result_of(meeting, i) : common;
      make_ready(warp * kWarp + i);
    }
    if (what == Collective::sync) memory.clock.sync(warp, lanes);  // the other collectives order no memory
    meeting.arrived = 0;
  }
  leave();
  return fibres[me].result;
}

void* static_array(int name, size_t bytes, size_t align, size_t granule) {
  return memory.shared_array(name, bytes, align, granule);
}

void* dynamic_array(size_t align) { return memory.dynamic_array(align); }

void within(int most_threads, int) {
  if (num_threads <= most_threads) return;
  find(std::to_string(num_threads) + " threads, beyond the launch bounds of " + std::to_string(most_threads), nullptr);
}

void run(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, const void* stream, Body body, void* arguments,
         size_t arguments_size) {
  const std::string name = name_of(kernel);
  const auto fail = [&](const std::string& what) { text = name + ": " + what, error = 1; };
  if (!asked) return fail("nobody asked for the error of the launch before");
  asked = false;
  if (!has_device) return fail("launched before cudaSetDevice");
  if (stream != &stream_of_torch) return fail("not launched on the current stream");
  const uint64_t num_blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  if (num_blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return fail("no such grid");
  num_threads = static_cast<int>(block.x * block.y * block.z);
  if (num_threads < 1 || num_threads > kMostThreads) return fail("no such block");
  const auto request = allowed_shared.find(kernel);
  const int allowed = std::max(request == allowed_shared.end() ? 0 : request->second, profile.plain_shared);
  if (shared_bytes > static_cast<size_t>(allowed)) return fail("more shared memory than it asked for");
  if (stacks == nullptr) {
    stacks = static_cast<char*>(mmap(nullptr, kStack * kMostThreads, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  }
  the_kernel = kernel, the_body = body, the_arguments = arguments;
  arguments_begin = reinterpret_cast<uintptr_t>(arguments), arguments_end = arguments_begin + arguments_size;
  builtins.grid = grid, builtins.block_size = block;
  findings.clear(), found_at.clear();
  stopped = false;
  memory.clock.launch = memory.clock.block + 1;
  std::vector<uint64_t> blocks(num_blocks);
  for (uint64_t i = 0; i < num_blocks; ++i) blocks[i] = i;
  std::shuffle(blocks.begin(), blocks.end(), chance);
  size_t static_bytes = 0;
  uint64_t counted = 0;
  if (traffic.on()) traffic.counts[name].all_blocks += num_blocks;
  for (const uint64_t number : blocks) {
    builtins.block = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                      static_cast<unsigned>(number / grid.x / grid.y)};
    run_block(shared_bytes);
    if (traffic.on()) {
      traffic.end_block(name, num_threads);
      if (++counted == traffic.blocks_of(name)) break;
    }
    static_bytes = std::max(static_bytes, memory.static_bytes());
    if (stopped) break;
  }
  const size_t most = request == allowed_shared.end() ? profile.plain_shared : profile.block_shared;
  if (shared_bytes + static_bytes > most) {
    find(std::to_string(shared_bytes) + " dynamic and " + std::to_string(static_bytes) +
             " static bytes of shared memory, more than " + std::to_string(most), nullptr);
  }
  launched[name] += num_blocks;
  if (findings.empty()) return;
  text = name + ":";
  for (const std::string& each : findings) text += "\n  " + each;
  error = 1;
}

int host_fault(const std::string& what) {
  if (of_host.empty()) of_host = what;
  text = what;
  return 1;
}

static void expect_device(const char* what, int device) {
  if (device == kDevice) return;
  host_fault(std::string(what) + " device " + std::to_string(device) + ", the tensors are on another");
}

int attribute(int name, int device) {
  expect_device("an attribute of", device);
  const int values[] = {profile.processors, profile.block_shared, profile.processor_shared};
  return values[name];
}

int allow_shared(Kernel kernel, int bytes) {
  if (bytes > profile.block_shared) {
    text = name_of(kernel) + ": asks for more shared memory than there is";
    return 1;
  }
  allowed_shared[kernel] = bytes;
  return 0;
}

void* current_stream(int device) {
  expect_device("the stream of", device);
  return &stream_of_torch;
}

void guard_device(int device) {
  expect_device("a guard of", device);
  guarded = true;
}

void release_device() { guarded = false; }

void use_device(int device) {
  expect_device("cudaSetDevice of", device);
  if (!guarded) host_fault("cudaSetDevice without a guard, which sets the caller's device again");
  has_device = true;
}

int take_error() {
  asked = true;
  return std::exchange(error, 0);
}
const char* error_text() { return text.c_str(); }

// A fill or copy of memory of the device: "" or its fault.
static std::string astray(const void* address, size_t bytes, Access kind) {
  return bytes == 0 ? "" : memory.astray(reinterpret_cast<uintptr_t>(address), bytes, kind);
}

int fill(void* address, int byte, size_t bytes, const void* stream) {
  if (const std::string wrong = astray(address, bytes, Access::write); !wrong.empty()) return host_fault(wrong);
  memory.host_writes(address, bytes);
  std::memset(address, byte, bytes);
  return checked(stream);
}

int copy(void* to, const void* from, size_t bytes, bool from_device, bool to_host, const void* stream) {
  if (const std::string wrong = from_device ? astray(from, bytes, Access::read) : ""; !wrong.empty()) {
    return host_fault(wrong);
  }
  if (const std::string wrong = to_host ? "" : astray(to, bytes, Access::write); !wrong.empty()) {
    return host_fault(wrong);
  }
  if (from_device && !traffic.on() && memory.unwritten(from, bytes) > 0) text = "a copy of what nobody wrote", error = 1;
  if (const int wrong = checked(stream); wrong != 0) return wrong;
  if (to_host) {
    const char* values = static_cast<const char*>(from);
    pending.push_back({to, {values, values + bytes}});
    std::memset(to, Memory::poison, bytes);
  } else {
    memory.host_writes(to, bytes);
    std::memcpy(to, from, bytes);
  }
  return 0;
}

int synchronize(const void* stream) {
  for (const Pending& each : pending) std::memcpy(each.to, each.values.data(), each.values.size());
  pending.clear();
  return checked(stream);
}

}  // namespace emulation

#define FOR_PYTHON extern "C" __attribute__((visibility("default")))

FOR_PYTHON void emulation_profile(int processors, int block_shared, int processor_shared) {
  emulation::profile = {processors, block_shared, processor_shared, std::min(49152, block_shared)};
  emulation::allowed_shared.clear();
}

// Called before each operator: all existing tensors are its inputs. Half of the seeds use another poison.
FOR_PYTHON void emulation_begin(uint64_t seed) {
  emulation::chance.seed(seed);
  emulation::memory.seal();
  emulation::has_device = emulation::guarded = false, emulation::asked = true;
  emulation::of_host.clear();
  emulation::pending.clear();
  emulation::Memory::poison = seed % 2 == 0 ? 0x7f : 0xfb;
}

FOR_PYTHON int64_t emulation_unwritten(const void* data, size_t bytes) {
  return emulation::memory.unwritten(data, bytes);
}

// The fault of the operator's host code, or what it has left undone, or "".
FOR_PYTHON const char* emulation_left() {
  if (!emulation::of_host.empty()) return emulation::of_host.c_str();
  if (!emulation::pending.empty()) return "the host did not wait for a copy";
  return emulation::asked ? "" : "nobody asked for the error of the last launch";
}

// Number of blocks of each kernel that ran, one line each.
FOR_PYTHON const char* emulation_launched() {
  static std::string lines;
  lines.clear();
  for (const auto& [name, blocks] : emulation::launched) lines += name + "\t" + std::to_string(blocks) + "\n";
  return lines.c_str();
}

// From now on accesses are counted, not checked, and at most `most_blocks` blocks of a launch run, of the kernels in
// `whole` all. 0 switches this off.
FOR_PYTHON void emulation_count(uint64_t most_blocks, const char* whole) {
  emulation::traffic.most_blocks = most_blocks;
  emulation::traffic.whole = whole;
  emulation::traffic.counts.clear();
}

// One line per kernel: its name and the members of Counts.
FOR_PYTHON const char* emulation_counted() {
  static std::string lines;
  lines.clear();
  for (const auto& [name, each] : emulation::traffic.counts) {
    lines += name;
    for (const uint64_t number : {each.blocks, each.all_blocks, each.barriers, each.accesses[0], each.accesses[1], each.bytes[0],
                                  each.bytes[1], each.sectors[0], each.sectors[1], each.shared_bytes[0],
                                  each.shared_bytes[1], each.turns[0], each.turns[1], each.fewest_turns[0],
                                  each.fewest_turns[1]}) {
      lines += "\t" + std::to_string(number);
    }
    lines += "\n";
  }
  return lines.c_str();
}
