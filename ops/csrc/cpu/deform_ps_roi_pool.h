// Deformable position-sensitive RoI pooling on the CPU: the plan of one call, and the cells that a bin reads.
#pragma once

#include "../ps_rois.h"
#include "tensors.h"

namespace fast_rfcn {

// A task pools the bins of one RoI, or computes the gradient of its offsets, or of one plane of the score maps. It
// writes no other memory, so there are no atomics, and the order of sums does not depend on the number of threads.
struct DeformPlan {
  MapView map;  // the score maps; backward: their gradient, [N, D * k * k, H, W] contiguous
  ScalarType dtype;
  const void* rois;
  const void* offsets;  // [R, 2 * groups, k, k], or null
  int64_t num_rois;
  int64_t groups;  // of classes that share their offsets
  int k;
  int samples;
  double spatial_scale;
  double offset_scale;
  const RoisByImage* by_image = nullptr;  // backward
  const void* grad = nullptr;             // [R, D, k, k], dense
  void* output = nullptr;                 // [R, D, k, k], or the gradient of the offsets

  int64_t num_bins() const { return static_cast<int64_t>(k) * k; }
  int64_t classes() const { return map.channels / num_bins(); }
  int64_t per_group() const { return classes() / groups; }
};

// A row (or column) of cells that the samples of a bin read: the sum of their weights, and how much it changes if the
// samples move by one cell.
template <typename T>
struct DeformTap {
  int64_t cell;
  T weight;
  T slope;
};

// The taps of a bin along one axis. The weight of a cell is its row's weight times its column's weight.
template <typename T>
struct DeformTaps {
  DeformTap<T>* taps;
  int64_t size;
  int count;  // samples on the map

  DeformTaps(DeformTap<T>* memory, const DeformAxis<T>& axis, int bin, T shift, int samples, int64_t cells)
      : taps(memory), size(0), count(0) {
    const T first = axis.first(bin, shift);
    for (int i = 0; i < samples; ++i) {
      const T position = axis.at(first, i);
      if (!axis.on_map(position, cells)) continue;
      const Neighbours<T> near(position, cells);
      const T slope = near.follows ? static_cast<T>(1) : static_cast<T>(0);
      add(near.lower, near.weight_lower, -slope);
      add(near.upper, near.weight_upper, slope);
      ++count;
    }
  }

 private:
  // Samples are in order along the axis, so a cell that is already listed is one of the last two.
  void add(int32_t cell, T weight, T slope) {
    for (int64_t back = 1; back <= 2 && back <= size; ++back) {
      DeformTap<T>& last = taps[size - back];
      if (last.cell == cell) {
        last.weight += weight;
        last.slope += slope;
        return;
      }
    }
    taps[size++] = {cell, weight, slope};
  }
};

}  // namespace fast_rfcn
