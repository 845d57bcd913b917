// The kernels are compiled with -fsanitize=thread and parts of -fsanitize=undefined, and linked with neither runtime:
// the calls that the compiler inserts before each access and each doubtful operation come here.
#include <cstddef>
#include <cstdint>

#include "device.h"
#include "findings.h"
#include "memory.h"
#include "traffic.h"

namespace emulation {

static void access(const void* pointer, size_t size, Access kind, void* place, size_t align = 1) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!in_kernel()) {
    if (memory.in_tensor(address)) host_fault("the host reads or writes memory of the device");
    return;
  }
  if (is_own(address)) return;
  step();
  if (traffic.on()) {
    const bool shared = memory.is_shared(address);
    if (shared || memory.in_tensor(address)) traffic.note(memory.clock.thread, address, size, kind, shared, place);
    return;
  }
  if (address % align != 0) find("a misaligned access", place), abandon();
  if (const std::string wrong = memory.astray(address, size, kind); !wrong.empty()) {
    if (kind == Access::read && is_constant(address)) return;
    find(wrong, place);
    abandon();
  }
  if (const std::string wrong = memory.access(address, size, kind); !wrong.empty()) find(wrong, place);
}

void before_atomic(void* address, size_t size, void* place) {
  access(address, size, Access::atomic, place, size);
}

static void doubtful(const char* what, void* place) {
  if (in_kernel()) find(what, place), abandon();
}

}  // namespace emulation

#define PLACE __builtin_return_address(0)
#define ACCESS(name, size, kind, align)                                    \
  extern "C" void __tsan_##name##size(void* address) {                     \
    emulation::access(address, size, emulation::Access::kind, PLACE, align); \
  }
#define ACCESSES(size)                     \
  ACCESS(read, size, read, size)           \
  ACCESS(write, size, write, size)         \
  ACCESS(volatile_read, size, read, size)  \
  ACCESS(volatile_write, size, write, size) \
  ACCESS(unaligned_read, size, read, 1)    \
  ACCESS(unaligned_write, size, write, 1)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

extern "C" {

void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* address, size_t size) {
  emulation::access(address, size, emulation::Access::read, PLACE);
}
void __tsan_write_range(void* address, size_t size) {
  emulation::access(address, size, emulation::Access::write, PLACE);
}

// Basic blocks are counted too, for loops without memory accesses.
void __sanitizer_cov_trace_pc() {
  if (emulation::in_kernel()) emulation::step();
}

// Reference counts of the host.
#define ATOMICS(bits)                                                                                           \
  uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* at, int) {                           \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                               \
  }                                                                                                             \
  void __tsan_atomic##bits##_store(volatile uint##bits##_t* at, uint##bits##_t value, int) {                    \
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                                              \
  }                                                                                                             \
  uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t* at, uint##bits##_t value, int) {       \
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                             \
  uint##bits##_t __tsan_atomic##bits##_fetch_add(volatile uint##bits##_t* at, uint##bits##_t value, int) {      \
    return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);                                                     \
  }                                                                                                             \
  uint##bits##_t __tsan_atomic##bits##_fetch_sub(volatile uint##bits##_t* at, uint##bits##_t value, int) {      \
    return __atomic_fetch_sub(at, value, __ATOMIC_SEQ_CST);                                                     \
  }                                                                                                             \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* at, uint##bits##_t* expected,      \
                                                    uint##bits##_t value, int, int) {                           \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);         \
  }                                                                                                             \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile uint##bits##_t* at, uint##bits##_t* expected,        \
                                                  uint##bits##_t value, int, int) {                             \
    return __atomic_compare_exchange_n(at, expected, value, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);          \
  }
ATOMICS(8)
ATOMICS(32)
ATOMICS(64)

#define DOUBTFUL(name, what, ...) \
  void __ubsan_handle_##name(__VA_ARGS__) { emulation::doubtful(what, PLACE); }
DOUBTFUL(type_mismatch_v1, "an access through a misaligned or null pointer", void*, void*)
DOUBTFUL(pointer_overflow, "a pointer that wraps around", void*, void*, void*)
DOUBTFUL(out_of_bounds, "an index beyond its array", void*, void*)
DOUBTFUL(shift_out_of_bounds, "a shift by more than the type has bits", void*, void*, void*)
DOUBTFUL(add_overflow, "an integer overflow", void*, void*, void*)
DOUBTFUL(sub_overflow, "an integer overflow", void*, void*, void*)
DOUBTFUL(mul_overflow, "an integer overflow", void*, void*, void*)
DOUBTFUL(negate_overflow, "an integer overflow", void*, void*)
DOUBTFUL(divrem_overflow, "a division by zero", void*, void*, void*)
DOUBTFUL(float_cast_overflow, "a number that its integer cannot hold", void*, void*)
}
