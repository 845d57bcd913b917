#include "instruction_set.h"

#include <cstdlib>
#include <cstring>

namespace fast_rfcn {

static Isa best() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Isa::avx512 : __builtin_cpu_supports("avx2") ? Isa::avx2 : Isa::baseline;
#else
  return Isa::baseline;
#endif
}

Isa isa() {
  static const Isa chosen = [] {
    const Isa most = best();
    const char* asked = std::getenv("DETECTOR_ISA");
    if (asked == nullptr) return most;
    const Isa wanted = std::strcmp(asked, "baseline") == 0 ? Isa::baseline
                       : std::strcmp(asked, "avx2") == 0   ? Isa::avx2
                                                           : Isa::avx512;
    return wanted < most ? wanted : most;
  }();
  return chosen;
}

}  // namespace fast_rfcn
