// The instruction set of the kernels in this process: the best of the machine, or the one in DETECTOR_ISA ("baseline",
// "avx2", "avx512"; tests compare them). No kernel uses fused multiply-add, so all give the same results.
#pragma once

namespace fast_rfcn {

enum class Isa { baseline, avx2, avx512 };
Isa isa();

}  // namespace fast_rfcn

// The kernel `function` for the chosen instruction set, in a file that includes for_each_instruction_set.h.
#if defined(__x86_64__) && defined(__GNUC__)
#define FAST_RFCN_CHOOSE(function)                                   \
  (::fast_rfcn::isa() == ::fast_rfcn::Isa::avx512 ? avx512::function \
   : ::fast_rfcn::isa() == ::fast_rfcn::Isa::avx2 ? avx2::function   \
                                                  : baseline::function)
#else
#define FAST_RFCN_CHOOSE(function) baseline::function
#endif
