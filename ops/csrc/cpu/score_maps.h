// The plan of every position-sensitive operator on the CPU. All classes of one bin read the same cells. So a task
// copies the score maps of one bin as a slab [cells][lanes] and reduces this bin for every RoI of the image, a vector
// of classes at a time. The backward pass fills such a slab and writes it to the gradient. Each task has its own slab,
// so there are no atomics, and the order of sums does not depend on the number of threads.
//
// In channels-last maps, the classes of a bin are far apart. So all slabs of an image are made first, a cell at a time.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "../ps_rois.h"
#include "tensors.h"

namespace fast_rfcn {

// Number of classes of a block. The last block may have fewer.
template <typename T>
constexpr int64_t kClasses = 128 / static_cast<int64_t>(sizeof(T));

// The classes of a block lie in lanes, a multiple of this number. Lanes without a class are arbitrary.
template <typename T>
constexpr int64_t kLaneStep = 32 / static_cast<int64_t>(sizeof(T));

// Number of runs of bins; one task sums the votes of a run. It is fixed, so that the order of a sum does not depend on
// the threads.
constexpr int64_t kVoteRuns = 16;

// Maps with fewer cells have a uint16 argmax, with this number for an empty bin; others have int32, with -1.
constexpr int64_t kNarrowCells = 65535;

struct ScorePlan {
  MapView map;  // the score maps; backward: their gradient, [N, D * k * k, H, W] contiguous
  ScalarType dtype;
  int k;
  const RoisByImage* rois;  // in the order of visiting_order(); a visit is an index into rois->order
  int64_t num_rois;
  const void* cells;  // the cells that each bin reads: BinSpans or BinSamples<T>
  // The lanes of each run of bins and each visit: [blocks][runs][R][lanes].
  void* partial = nullptr;
  int64_t runs = 1;          // k * k runs of one bin, or kVoteRuns, or (backward) 1 if all bins share a gradient
  int32_t* where = nullptr;  // argmax [blocks][k * k][R][lanes], or null
  void* output = nullptr;    // [R, D, k, k] or [R, D]; backward: the gradient [R, D, k, k] or [R, D], dense
  void* argmax = nullptr;    // [R, D, k, k], uint16 or int32, or null
  bool wide_argmax = false;
  void* slabs = nullptr;  // [blocks][k * k][cells][lanes] of the present image, for channels-last maps

  int64_t num_bins() const { return static_cast<int64_t>(k) * k; }
  int64_t classes() const { return map.channels / num_bins(); }
  template <typename T>
  int64_t blocks() const {
    return (classes() + kClasses<T> - 1) / kClasses<T>;
  }
  template <typename T>
  int64_t classes_of(int64_t block) const {
    return smaller(classes() - block * kClasses<T>, kClasses<T>);
  }
  template <typename T>
  int64_t lanes_of(int64_t block) const {
    return (classes_of<T>(block) + kLaneStep<T> - 1) / kLaneStep<T> * kLaneStep<T>;
  }
  // The lanes of all blocks.
  template <typename T>
  int64_t lanes() const {
    return (blocks<T>() - 1) * kClasses<T> + lanes_of<T>(blocks<T>() - 1);
  }
  template <typename T>
  T* slot(int64_t block, int64_t run, int64_t visit) const {
    return static_cast<T*>(partial) + at<T>(block, run, runs, visit, num_rois);
  }
  template <typename T>
  int32_t* place(int64_t block, int64_t bin, int64_t visit) const {
    return where + at<T>(block, bin, num_bins(), visit, num_rois);
  }
  template <typename T>
  T* slab(int64_t block, int64_t bin, int64_t cell) const {
    return static_cast<T*>(slabs) + at<T>(block, bin, num_bins(), cell, map.cells());
  }

 private:
  // The first lane of an entry of a table [blocks][rows][columns][lanes].
  template <typename T>
  int64_t at(int64_t block, int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    return block * rows * columns * kClasses<T> + (row * columns + column) * lanes_of<T>(block);
  }
};

// RoIs by image, sorted by size, so that the CPU predicts the ends of the loops over cells well. Wrong predictions
// would cost more than the sums.
template <typename T>
RoisByImage visiting_order(const T* rois, int64_t num_rois, int64_t num_images, int k, T scale) {
  RoisByImage visits(rois, num_rois, num_images);
  constexpr T kWidest = 64;
  std::vector<int32_t> size(num_rois);
  for (int64_t r = 0; r < num_rois; ++r) {
    const T* roi = rois + r * kRoiColumns;
    const auto cells = [&](T low, T high) {
      const T extent = (high - low) * scale / static_cast<T>(k);
      return extent > 0 ? static_cast<int32_t>(smaller(extent, kWidest)) : 0;  // 0 for NaN, too
    };
    size[r] = cells(roi[kY1], roi[kY2]) * 128 + cells(roi[kX1], roi[kX2]);
  }
  for (int64_t n = 0; n < num_images; ++n) {
    std::stable_sort(visits.order.begin() + visits.bounds[n], visits.order.begin() + visits.bounds[n + 1],
                     [&](int64_t a, int64_t b) { return size[a] < size[b]; });
  }
  return visits;
}

// Number of RoIs that one task packs or unpacks.
constexpr int64_t kPackRois = 16;

inline void check_score_maps(const Tensor& score_maps, const Tensor& rois, int64_t k) {
  check_rois(score_maps, rois);
  STD_TORCH_CHECK(k > 0 && score_maps.size(1) % (k * k) == 0, "expected D * k * k channels of score maps");
}

inline ScalarType arithmetic_dtype(ScalarType dtype) { return edge_dtype(dtype); }

// Memory for `count` numbers, shared by the threads of one call.
inline Tensor shared_scratch(const Tensor& like, int64_t count, ScalarType dtype) {
  return new_output(like, {count}, dtype);
}

struct ScoreKernels {
  void (*regroup)(const ScorePlan&, int64_t task);  // slabs of one (image, row of cells) of channels-last maps
  void (*reduce)(const ScorePlan&, int64_t task);   // bins of one (image, block of classes, run)
  void (*finish)(const ScorePlan&, int64_t task);   // outputs of kPackRois RoIs of one block
};

struct SpreadKernels {
  void (*pack)(const ScorePlan&, int64_t task);    // gradients of kPackRois RoIs of one block
  void (*spread)(const ScorePlan&, int64_t task);  // the gradient of one (image, block of classes, bin)
};

// The passes of a forward operator.
template <typename T>
void run_forward(ScorePlan plan, const Tensor& like, ScoreKernels kernels) {
  const int64_t blocks = plan.blocks<T>(), lanes = plan.lanes<T>(), tasks = blocks * plan.runs;
  const ScalarType dtype = arithmetic_dtype(plan.dtype);
  const Tensor partial = shared_scratch(like, plan.runs * plan.num_rois * lanes, dtype);
  const int64_t places = plan.argmax == nullptr ? 0 : plan.num_bins() * plan.num_rois * lanes;
  const Tensor where = shared_scratch(like, places, ScalarType::Int);
  const bool channels_last = plan.map.stride[1] == 1 && !plan.map.planes_are_dense();
  const Tensor slabs = shared_scratch(like, channels_last ? plan.num_bins() * plan.map.cells() * lanes : 0, dtype);
  plan.partial = partial.mutable_data_ptr();
  plan.where = plan.argmax == nullptr ? nullptr : static_cast<int32_t*>(where.mutable_data_ptr());
  plan.slabs = channels_last ? slabs.mutable_data_ptr() : nullptr;
  if (!channels_last) {
    for_each_task(plan.map.images * tasks, [&](int64_t task) { kernels.reduce(plan, task); });
  } else {
    for (int64_t image = 0; image < plan.map.images; ++image) {
      for_each_task(plan.map.height, [&](int64_t row) { kernels.regroup(plan, image * plan.map.height + row); });
      for_each_task(tasks, [&](int64_t task) { kernels.reduce(plan, image * tasks + task); });
    }
  }
  const int64_t packs = (plan.num_rois + kPackRois - 1) / kPackRois;
  for_each_task(blocks * packs, [&](int64_t task) { kernels.finish(plan, task); });
}

// The passes of a backward operator.
template <typename T>
void run_backward(ScorePlan plan, const Tensor& like, SpreadKernels kernels) {
  const Tensor partial =
      shared_scratch(like, plan.runs * plan.num_rois * plan.lanes<T>(), arithmetic_dtype(plan.dtype));
  plan.partial = partial.mutable_data_ptr();
  const int64_t blocks = plan.blocks<T>(), packs = (plan.num_rois + kPackRois - 1) / kPackRois;
  for_each_task(blocks * packs, [&](int64_t task) { kernels.pack(plan, task); });
  for_each_task(plan.map.images * blocks * plan.num_bins(), [&](int64_t task) { kernels.spread(plan, task); });
}

// A gradient [R, D, k, k] to read: dense, or one number per class if all bins share it (the gradient of a vote).
struct BinGradient {
  Tensor tensor;
  bool shared;

  explicit BinGradient(const Tensor& grad)
      : tensor(grad), shared(grad.numel() > 0 && grad.stride(2) == 0 && grad.stride(3) == 0) {
    if (shared) {
      Tensor voted = grad;
      voted = torch::stable::narrow(voted, 2, 0, 1);
      tensor = torch::stable::narrow(voted, 3, 0, 1);
    }
    tensor = dense(tensor);
  }
};

}  // namespace fast_rfcn
