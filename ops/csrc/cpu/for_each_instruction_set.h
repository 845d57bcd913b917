// Compiles the file named by FAST_RFCN_KERNELS once for each instruction set, in a namespace of that name. No include
// guard. Everything that the kernels use from other headers must be included before: what is first compiled in here
// may use instructions that the machine lacks.
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
