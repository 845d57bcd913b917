// Compiles the file named by FAST_RFCN_KERNELS once for each instruction set, in a namespace of that name. This file
// has no include guard. Include all other headers of the kernels before: code that is first compiled in here may use
// instructions that the machine does not have.
#if defined(__x86_64__) && defined(__GNUC__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
namespace fast_rfcn::avx2 {
#define FAST_RFCN_VECTOR_BYTES 32
#include "vector.h"
#include FAST_RFCN_KERNELS
#undef FAST_RFCN_VECTOR_BYTES
}  // namespace fast_rfcn::avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif
namespace fast_rfcn::avx512 {
#define FAST_RFCN_VECTOR_BYTES 64
#include "vector.h"
#include FAST_RFCN_KERNELS
#undef FAST_RFCN_VECTOR_BYTES
}  // namespace fast_rfcn::avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace fast_rfcn::baseline {
#define FAST_RFCN_VECTOR_BYTES 16
#include "vector.h"
#include FAST_RFCN_KERNELS
#undef FAST_RFCN_VECTOR_BYTES
}  // namespace fast_rfcn::baseline
