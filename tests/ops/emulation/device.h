// A CUDA device on the CPU, for translated kernels. Blocks run one after another in random order. The threads of a
// block are fibres. A random ready fibre runs until it waits at a barrier or ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>

#define EMULATION_UNWATCHED __attribute__((no_sanitize("thread", "undefined")))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulation {

struct Builtins {
  uint3 thread, block;
  dim3 block_size, grid;
};
extern Builtins builtins;

enum class Collective : int { sync, any, all, ballot, match_any, shuffle, bit_or, bit_and, bit_xor, add, least, most };

// Each returns when all threads that it waits for have arrived. `line` is the line in the source.
int block_barrier(int line, int value = 0);  // returns the sum of the values
uint64_t warp_collective(Collective what, unsigned lanes, uint64_t value, int from_lane, int line);
int lane();

void* static_array(int name, size_t bytes, size_t align, size_t granule);
void* dynamic_array(size_t align);
void before_atomic(void* address, size_t size, void* place);

using Kernel = void (*)();
using Body = void (*)(Kernel kernel, void* arguments);
void run(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes, const void* stream, Body body, void* arguments,
         size_t arguments_size);
void within(int most_threads, int blocks = 1);  // the launch bounds of the running kernel

// For the runtime. Functions that return an int return an error. All tensors are on one device, and at the start of an
// operator another one is current, as in a program that uses two GPUs.
constexpr int kDevice = 1;
void* current_stream(int device);
void guard_device(int device);  // until release_device
void release_device();
void use_device(int device);
int attribute(int name, int device);
int allow_shared(Kernel kernel, int bytes);
int take_error();
const char* error_text();
int fill(void* address, int byte, size_t bytes, const void* stream);
int copy(void* to, const void* from, size_t bytes, bool from_device, bool to_host, const void* stream);
int synchronize(const void* stream);
int host_fault(const std::string& what);  // of the operator's host code; returns an error

// `kernel<<<grid, block, ...>>>(arguments)` is translated to `Launch(kernel, grid, block, ...)(arguments)`.
template <typename... Parameters>
struct Launch {
  void (*kernel)(Parameters...);
  dim3 grid, block;
  size_t shared_bytes;
  const void* stream;

  EMULATION_UNWATCHED Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes = 0,
                             const void* stream = nullptr)
      : kernel(kernel), grid(grid), block(block), shared_bytes(shared_bytes), stream(stream) {}

  template <typename... Arguments>
  EMULATION_UNWATCHED void operator()(const Arguments&... arguments) const {
    std::tuple<Parameters...> values(arguments...);
    const Body body = [](Kernel kernel, void* values) {
      std::apply(reinterpret_cast<void (*)(Parameters...)>(kernel), *static_cast<std::tuple<Parameters...>*>(values));
    };
    run(reinterpret_cast<Kernel>(kernel), grid, block, shared_bytes, stream, body, &values,
        sizeof(values));
  }
};

// `__shared__ T name[2][3];` is translated to `auto& name = shared_array<T[2][3]>(__COUNTER__);`.
template <typename T>
EMULATION_UNWATCHED T& shared_array(int name, size_t align = alignof(T)) {
  using Item = std::remove_all_extents_t<T>;
  const size_t granule = std::is_class_v<Item> ? 2 : alignof(Item);  // of a class, the members may be smaller
  return *static_cast<T*>(static_array(name, sizeof(T), align, granule));
}
template <typename T>
EMULATION_UNWATCHED T* dynamic_shared(size_t align = alignof(T)) {
  return static_cast<T*>(dynamic_array(align));
}

template <typename T>
EMULATION_UNWATCHED uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
EMULATION_UNWATCHED T shuffle(unsigned lanes, T value, int from, int line) {
  const uint64_t bits = warp_collective(Collective::shuffle, lanes, bits_of(value), from, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T, typename F>
__attribute__((noinline)) EMULATION_UNWATCHED T atomically(T* address, const F& change) {
  before_atomic(address, sizeof(T), __builtin_return_address(0));
  const T before = *address;
  *address = change(before);
  return before;
}

}  // namespace emulation
