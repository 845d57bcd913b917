// Which instruction set the kernels of this process use: the best that the machine has, or what DETECTOR_ISA asks for
// ("baseline", "avx2", "avx512"; tests compare them). No kernel fuses multiply and add, so results are the same.
#pragma once

namespace fast_rfcn {

enum class Isa { baseline, avx2, avx512 };
Isa isa();

}  // namespace fast_rfcn

// The kernel `function` of the chosen instruction set, in a file that included for_each_instruction_set.h.
#if defined(__x86_64__) && defined(__GNUC__)
#define FAST_RFCN_CHOOSE(function)                                   \
  (::fast_rfcn::isa() == ::fast_rfcn::Isa::avx512 ? avx512::function \
   : ::fast_rfcn::isa() == ::fast_rfcn::Isa::avx2 ? avx2::function   \
                                                  : baseline::function)
#else
#define FAST_RFCN_CHOOSE(function) baseline::function
#endif
