// Shared host code of the CUDA kernels: number types, views of tensors, checks, the stream and launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../rois.h"

namespace fast_rfcn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Storage types and the type of their arithmetic, also of edges: double for double, else float.
template <typename S>
struct NumberOf {
  using type = float;
};
template <>
struct NumberOf<double> {
  using type = double;
};
template <typename S>
using Number = typename NumberOf<S>::type;

__device__ __forceinline__ float to_number(float value) { return value; }
__device__ __forceinline__ double to_number(double value) { return value; }
__device__ __forceinline__ float to_number(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_number(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename S>
__device__ __forceinline__ S from_number(Number<S> value) {
  if constexpr (sizeof(S) >= sizeof(float)) {
    return value;
  } else if constexpr (std::is_same_v<S, __half>) {
    return __float2half_rn(value);
  } else {
    return __float2bfloat16_rn(value);
  }
}

// Calls f with a value of the storage type of the dtype.
template <typename F>
void with_storage(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(__half{});
    case ScalarType::BFloat16:
      return f(__nv_bfloat16{});
    default:
      STD_TORCH_CHECK(false, "expected float32, float64, float16 or bfloat16, got ", toString(dtype));
  }
}

inline ScalarType number_dtype(ScalarType storage) {
  return storage == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check(cudaError_t error) { STD_TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error)); }

// The device of a tensor and its current stream. The device is current during the lifetime of this object.
class Device {
 public:
  explicit Device(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    check(cudaSetDevice(index_));  // this library is linked to its own CUDA runtime
  }

  cudaStream_t stream() const { return stream_; }

  int64_t attribute(cudaDeviceAttr name) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, index_));
    return value;
  }

  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared_bytes,
              const Arguments&... arguments) const {
    // A kernel must ask for more than 48 KB of shared memory, static shared memory included.
    if (shared_bytes > 32 * 1024) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
    }
    kernel<<<grid, block, shared_bytes, stream_>>>(arguments...);
    check(cudaGetLastError());
  }

  // Sets every byte: 0, or 0xff, which marks an empty bin in an argmax of either width.
  void fill(Tensor& tensor, int byte) const {
    if (tensor.numel() == 0) return;
    check(cudaMemsetAsync(tensor.mutable_data_ptr(), byte, tensor.numel() * tensor.element_size(), stream_));
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

inline int64_t blocks_for(int64_t count, int64_t per_block) { return (count + per_block - 1) / per_block; }

inline dim3 grid_of(int64_t blocks, int64_t splits = 1) {
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max() && splits <= 65535, "too many blocks: ", blocks);
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(splits));
}

// A grid with one thread per item, limited to the threads that the GPU can hold; kernels then loop.
constexpr int kItemThreads = 256;
inline dim3 grid_of_items(const Device& device, int64_t items) {
  const int64_t full = device.attribute(cudaDevAttrMultiProcessorCount) * (2048 / kItemThreads);
  return grid_of(smaller(blocks_for(items, kItemThreads), full));
}

// A tensor [A, B, C, D] of any strides (in elements).
template <typename S>
struct View {
  const S* data;
  int64_t size[4];
  int64_t stride[4];

  explicit View(const Tensor& tensor) : data(static_cast<const S*>(tensor.const_data_ptr())) {
    for (int dim = 0; dim < 4; ++dim) size[dim] = tensor.size(dim), stride[dim] = tensor.stride(dim);
  }
  __host__ __device__ int64_t images() const { return size[0]; }
  __host__ __device__ int64_t channels() const { return size[1]; }
  __host__ __device__ int64_t height() const { return size[2]; }
  __host__ __device__ int64_t width() const { return size[3]; }
  __host__ __device__ int64_t cells() const { return size[2] * size[3]; }
};

// Positions of maxima: uint16 on maps of fewer than 65535 cells, else int32; null if they are not stored.
struct Places {
  void* data;
  bool wide;

  __device__ void put(int64_t index, int place) const {
    if (wide) {
      static_cast<int32_t*>(data)[index] = place;
    } else {
      static_cast<uint16_t*>(data)[index] = static_cast<uint16_t>(place);
    }
  }
  __device__ int get(int64_t index) const {
    if (wide) return static_cast<const int32_t*>(data)[index];
    const int place = static_cast<const uint16_t*>(data)[index];
    return place == 65535 ? -1 : place;
  }
};

inline bool wide_places(int64_t cells) { return cells >= 65535; }

// These checks are for direct callers of the dispatcher. Public functions raise a ValueError before.
inline void check_rois(const Tensor& rois, ScalarType features) {
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == kRoiColumns, "expected rois [R, 5]");
  STD_TORCH_CHECK(rois.scalar_type() == number_dtype(features),
                  "expected rois of float32 (float64 for float64 features), got ", toString(rois.scalar_type()));
  STD_TORCH_CHECK(rois.is_cuda(), "expected rois on the device of the features");
}

inline void check_features(const Tensor& features, const Tensor& rois) {
  STD_TORCH_CHECK(features.dim() == 4, "expected features [N, C, H, W], got ", features.dim(), " dimensions");
  check_rois(rois, features.scalar_type());
}

inline void check_gradient(const Tensor& grad, const Tensor& rois, const std::vector<int64_t>& size) {
  STD_TORCH_CHECK(grad.dim() == 4 && size.size() == 4, "expected a gradient [R, C, height, width] and a size of 4");
  STD_TORCH_CHECK(grad.size(0) == rois.size(0), "expected a gradient for each of ", rois.size(0), " RoIs");
  check_rois(rois, grad.scalar_type());
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor new_output(const Tensor& like, const std::vector<int64_t>& size, ScalarType dtype) {
  return torch::stable::new_empty(like, size, dtype);
}

template <typename T>
const T* input(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* output(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace fast_rfcn
