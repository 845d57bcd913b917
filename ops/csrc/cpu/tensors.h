// Shared code of the CPU kernels, except inner loops: views of tensors, checks, RoIs by image, tasks on threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "../rois.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fast_rfcn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The two 16-bit floating types, as they are in memory.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Calls f(storage type, arithmetic type) for the dtype of the features.
template <typename F>
void with_types(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{}, float{});
    case ScalarType::Double:
      return f(double{}, double{});
    case ScalarType::Half:
      return f(Half{}, float{});
    case ScalarType::BFloat16:
      return f(BFloat16{}, float{});
    default:
      STD_TORCH_CHECK(false, "expected features of float32, float64, float16 or bfloat16, got ", toString(dtype));
  }
}

inline ScalarType edge_dtype(ScalarType features) {
  return features == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Features [N, C, H, W] of any strides (in elements).
struct MapView {
  const void* data;
  int64_t images, channels, height, width;
  int64_t stride[4];

  explicit MapView(const Tensor& features)
      : data(features.const_data_ptr()),
        images(features.size(0)),
        channels(features.size(1)),
        height(features.size(2)),
        width(features.size(3)) {
    for (int dim = 0; dim < 4; ++dim) stride[dim] = features.stride(dim);
  }
  int64_t cells() const { return height * width; }
  bool planes_are_dense() const { return stride[3] == 1 && stride[2] == width; }
};

// These checks are for direct callers of the dispatcher. Public functions raise a ValueError before.
inline void check_rois(const Tensor& features, const Tensor& rois) {
  STD_TORCH_CHECK(features.dim() == 4, "expected features [N, C, H, W], got ", features.dim(), " dimensions");
  STD_TORCH_CHECK(rois.dim() == 2 && rois.size(1) == kRoiColumns, "expected rois [R, 5]");
  STD_TORCH_CHECK(rois.scalar_type() == edge_dtype(features.scalar_type()),
                  "expected rois of float32 (float64 for float64 features), got ", toString(rois.scalar_type()));
  STD_TORCH_CHECK(rois.is_cpu() && features.is_cpu(), "expected features and rois on the CPU");
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// Puts large outputs into 2 MiB pages: the first access to new memory costs a page fault for each 4 KiB, more than the
// pooling.
inline Tensor with_large_pages(Tensor output) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHuge = 2 << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(output.data_ptr());
  const uintptr_t end = begin + output.numel() * output.element_size();
  const uintptr_t from = (begin + kHuge - 1) / kHuge * kHuge, to = end / kHuge * kHuge;
  if (to > from + kHuge) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#endif
  return output;
}

// A new tensor like `like`.
inline Tensor new_output(const Tensor& like, const std::vector<int64_t>& size, ScalarType dtype) {
  return with_large_pages(torch::stable::new_empty(like, size, dtype));
}

// Indices of the RoIs of each image. A RoI with a wrong image index counts for image 0; its bins are empty.
struct RoisByImage {
  std::vector<int64_t> order;
  std::vector<int64_t> bounds;  // image n has order[bounds[n]] .. order[bounds[n + 1] - 1]

  template <typename T>
  RoisByImage(const T* rois, int64_t num_rois, int64_t num_images) : order(num_rois), bounds(num_images + 1) {
    for (int64_t r = 0; r < num_rois; ++r) ++bounds[image(rois, r, num_images) + 1];
    for (int64_t n = 0; n < num_images; ++n) bounds[n + 1] += bounds[n];
    std::vector<int64_t> next(bounds.begin(), bounds.end() - 1);
    for (int64_t r = 0; r < num_rois; ++r) order[next[image(rois, r, num_images)]++] = r;
  }

 private:
  template <typename T>
  static int64_t image(const T* rois, int64_t r, int64_t num_images) {
    return larger<int64_t>(image_of(rois + r * kRoiColumns, num_images), 0);
  }
};

// Number of channels that one task of a scatter owns; their planes fit in the L2 cache.
constexpr int64_t kScatterPlanes = 16;

// Outputs of at least this size are written past the caches. Ordinary writes first read each line from memory, and the
// present content of the caches is more useful than the beginning of such an output.
constexpr int64_t kStreamBytes = 8 << 20;

inline bool streams(const Tensor& output) { return output.numel() * output.element_size() >= kStreamBytes; }

// Makes writes past the caches visible to other threads.
inline void end_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Runs f(task) for every task, on the next free thread. Each task writes its own memory, so results do not depend on
// the schedule.
template <typename F>
void for_each_task(int64_t num_tasks, const F& f) {
  std::atomic<int64_t> next{0};
  const int64_t threads = smaller<int64_t>(torch::stable::get_num_threads(), num_tasks);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      for (int64_t task; (task = next.fetch_add(1)) < num_tasks;) f(task);
    }
    end_streams();
  });
}

// Memory of one thread, 64-byte aligned: a few slabs of one image. It grows to the largest requested size and is freed
// when the thread ends.
class Scratch {
 public:
  template <typename T>
  static T* take(int slot, int64_t count) {
    thread_local Scratch scratch[5];
    return static_cast<T*>(scratch[slot].reserve(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  void* reserve(int64_t bytes) {
    if (bytes > capacity_) {
      const int64_t rounded = (bytes + 4095) / 4096 * 4096;
      memory_.reset(std::aligned_alloc(64, rounded));
      STD_TORCH_CHECK(memory_ != nullptr, "no memory for ", rounded, " bytes of scratch");
      capacity_ = rounded;
    }
    return memory_.get();
  }
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  int64_t capacity_ = 0;
};

}  // namespace fast_rfcn
