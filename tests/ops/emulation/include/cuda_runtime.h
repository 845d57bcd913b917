// The part of CUDA's language and runtime that the kernels use, for the emulated device.
#pragma once

#include <bit>
#include <cmath>

#include "../device.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#define threadIdx (::emulation::builtins.thread)
#define blockIdx (::emulation::builtins.block)
#define blockDim (::emulation::builtins.block_size)
#define gridDim (::emulation::builtins.grid)

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

#define EMULATED(what, lanes, value) \
  ::emulation::warp_collective(::emulation::Collective::what, lanes, value, 0, __LINE__)
#define __syncthreads() static_cast<void>(::emulation::block_barrier(__LINE__))
#define __syncthreads_count(value) ::emulation::block_barrier(__LINE__, (value) != 0)
#define __syncthreads_or(value) (::emulation::block_barrier(__LINE__, (value) != 0) != 0)
#define __syncthreads_and(value) (::emulation::block_barrier(__LINE__, !(value)) == 0)
#define __syncwarp(...) static_cast<void>(EMULATED(sync, ::emulation::lanes_or_all(__VA_ARGS__), 0))
#define __any_sync(lanes, value) static_cast<int>(EMULATED(any, lanes, (value) != 0))
#define __all_sync(lanes, value) static_cast<int>(EMULATED(all, lanes, (value) != 0))
#define __ballot_sync(lanes, value) static_cast<unsigned>(EMULATED(ballot, lanes, (value) != 0))
#define __match_any_sync(lanes, value) static_cast<unsigned>(EMULATED(match_any, lanes, ::emulation::bits_of(value)))
#define __reduce_or_sync(lanes, value) static_cast<unsigned>(EMULATED(bit_or, lanes, static_cast<unsigned>(value)))
#define __reduce_and_sync(lanes, value) static_cast<unsigned>(EMULATED(bit_and, lanes, static_cast<unsigned>(value)))
#define __reduce_xor_sync(lanes, value) static_cast<unsigned>(EMULATED(bit_xor, lanes, static_cast<unsigned>(value)))
#define __reduce_add_sync(lanes, value) static_cast<unsigned>(EMULATED(add, lanes, static_cast<unsigned>(value)))
#define __reduce_min_sync(lanes, value) static_cast<unsigned>(EMULATED(least, lanes, static_cast<unsigned>(value)))
#define __reduce_max_sync(lanes, value) static_cast<unsigned>(EMULATED(most, lanes, static_cast<unsigned>(value)))
#define __shfl_sync(lanes, value, from) ::emulation::shuffle(lanes, value, (from) % 32, __LINE__)
#define __shfl_up_sync(lanes, value, by) \
  ::emulation::shuffle(lanes, value, ::emulation::lane() - static_cast<int>(by), __LINE__)
#define __shfl_down_sync(lanes, value, by) \
  ::emulation::shuffle(lanes, value, ::emulation::lane() + static_cast<int>(by), __LINE__)
#define __shfl_xor_sync(lanes, value, by) \
  ::emulation::shuffle(lanes, value, ::emulation::lane() ^ static_cast<int>(by), __LINE__)

namespace emulation {
inline unsigned lanes_or_all(unsigned lanes = 0xffffffffu) { return lanes; }
}  // namespace emulation

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __clzll(long long bits) { return bits == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(bits)); }

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline int __double2hiint(double value) { return static_cast<int>(std::bit_cast<long long>(value) >> 32); }

template <typename T>
T __ldg(const T* address) {
  return *address;
}

#define EMULATED_ATOMIC(name, expression)                                                \
  template <typename T>                                                                  \
  EMULATION_UNWATCHED T name(T* address, T value) {                                      \
    return ::emulation::atomically(address, [&](T before) EMULATION_UNWATCHED -> T { return expression; }); \
  }
EMULATED_ATOMIC(atomicAdd, before + value)
EMULATED_ATOMIC(atomicAnd, before & value)
EMULATED_ATOMIC(atomicOr, before | value)
EMULATED_ATOMIC(atomicXor, before ^ value)
EMULATED_ATOMIC(atomicMin, value < before ? value : before)
EMULATED_ATOMIC(atomicMax, before < value ? value : before)
EMULATED_ATOMIC(atomicExch, (static_cast<void>(before), value))
template <typename T>
EMULATION_UNWATCHED T atomicCAS(T* address, T expected, T value) {
  return ::emulation::atomically(address, [&](T before) EMULATION_UNWATCHED -> T { return before == expected ? value : before; });
}

// Their errors must not be ignored; build.py makes that an error of the compiler.
using cudaError_t = int;
using cudaStream_t = void*;
enum : int { cudaSuccess = 0, cudaErrorNoKernelImageForDevice = 209 };
enum cudaDeviceAttr : int {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };

inline const char* cudaGetErrorString(cudaError_t) { return ::emulation::error_text(); }
[[nodiscard]] inline cudaError_t cudaGetLastError() { return ::emulation::take_error(); }
[[nodiscard]] inline cudaError_t cudaSetDevice(int index) {
  ::emulation::use_device(index);
  return cudaSuccess;
}
[[nodiscard]] inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return ::emulation::synchronize(stream); }
[[nodiscard]] inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int device) {
  *value = ::emulation::attribute(name, device);
  return cudaSuccess;
}
template <typename K>
[[nodiscard]] cudaError_t cudaFuncSetAttribute(K* kernel, cudaFuncAttribute, int bytes) {
  return ::emulation::allow_shared(reinterpret_cast<::emulation::Kernel>(kernel), bytes);
}
[[nodiscard]] inline cudaError_t cudaMemsetAsync(void* address, int byte, size_t bytes, cudaStream_t stream) {
  return ::emulation::fill(address, byte, bytes, stream);
}
[[nodiscard]] inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return ::emulation::copy(to, from, bytes, kind != cudaMemcpyHostToDevice, kind == cudaMemcpyDeviceToHost, stream);
}
