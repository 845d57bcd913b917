// The input of the tasks of RoIAlign and RoIWarp.
#pragma once

#include "tensors.h"

namespace fast_rfcn {

// A cell that a group of samples reads along one axis, and its weight.
template <typename T>
struct Tap {
  int32_t cell;
  T weight;
};

// The taps of each RoI along each axis, in groups. For the mean, a group is a bin: the taps of its samples are merged,
// and their weights are divided by the number of samples. This is correct since the mean over the grid is the product
// of the means along the axes. For the maximum, a group is one sample. A sample outside the map has no taps.
template <typename T>
struct TapTable {
  struct Axis {
    int64_t first_group;
    int32_t per_bin;  // samples per bin
  };
  std::vector<Tap<T>> taps;
  std::vector<int64_t> bounds{0};  // taps of group g are bounds[g] .. bounds[g + 1] - 1
  std::vector<Axis> axes;          // [R][2], rows before columns

  const Tap<T>* begin(int64_t group) const { return taps.data() + bounds[group]; }
  const Tap<T>* end(int64_t group) const { return taps.data() + bounds[group + 1]; }

  void add(const SampleAxis<T>& axis, int bins, int64_t size, bool merge) {
    axes.push_back({static_cast<int64_t>(bounds.size()) - 1, axis.per_bin});
    const T share = merge ? static_cast<T>(1) / static_cast<T>(larger(axis.per_bin, 1)) : static_cast<T>(1);
    for (int bin = 0; bin < bins; ++bin) {
      for (int sample = 0; sample < axis.per_bin; ++sample) {
        const T position = axis.at(bin, sample);
        if (position >= -1 && position <= static_cast<T>(size)) {
          const Neighbours<T> near(position, size);
          put(near.lower, near.weight_lower * share);
          put(near.upper, near.weight_upper * share);
        }
        if (!merge) bounds.push_back(static_cast<int64_t>(taps.size()));
      }
      if (merge) bounds.push_back(static_cast<int64_t>(taps.size()));
    }
  }

 private:
  void put(int32_t cell, T weight) {
    const int64_t group_begin = bounds.back();
    for (int64_t i = static_cast<int64_t>(taps.size()) - 1; i >= larger<int64_t>(group_begin, taps.size() - 2); --i) {
      if (taps[i].cell == cell) {
        taps[i].weight += weight;
        return;
      }
    }
    taps.push_back({cell, weight});
  }
};

struct AlignOptions {
  int height, width;  // bins
  double spatial_scale;
  int64_t sampling_ratio;
  bool aligned, inner;

  int64_t bins() const { return static_cast<int64_t>(height) * width; }
};

// One axis of one RoI. A RoI with a wrong image index has no samples.
template <typename T>
SampleAxis<T> sample_axis(const T* roi, bool vertical, int64_t images, const AlignOptions& options) {
  SampleAxis<T> axis(roi[vertical ? kY1 : kX1], roi[vertical ? kY2 : kX2], vertical ? options.height : options.width,
                     static_cast<T>(options.spatial_scale), options.sampling_ratio, options.aligned, options.inner);
  if (image_of(roi, images) < 0) axis.per_bin = 0;
  return axis;
}

template <typename T>
TapTable<T> make_taps(const T* rois, int64_t num_rois, int64_t images, int64_t map_height, int64_t map_width,
                      const AlignOptions& options, bool merge) {
  TapTable<T> table;
  table.axes.reserve(2 * num_rois);
  table.bounds.reserve(num_rois * (options.height + options.width) + 1);
  for (int64_t r = 0; r < num_rois; ++r, rois += kRoiColumns) {
    table.add(sample_axis(rois, true, images, options), options.height, map_height, merge);
    table.add(sample_axis(rois, false, images, options), options.width, map_width, merge);
  }
  return table;
}

// The input of a task: features or their gradient, and outputs [R, C, height, width] or their gradient.
struct AlignPlan {
  ScalarType dtype;
  AlignOptions options;
  int64_t images, channels, map_height, map_width;
  const RoisByImage* rois;
  const void* taps;          // TapTable of the arithmetic type
  const MapView* features;   // for kernels that read features
  const void* input;         // gradient of the outputs, for kernels that read it
  const int32_t* winner;     // argmax, for kernels that read it
  void* output;              // the tensor to write
  int32_t* argmax;           // for kernels that write it
  const void* edges;         // RoIs [R, 5], for RoIWarp
  bool past_caches = false;  // whether to write outputs past the caches

  int64_t cells() const { return map_height * map_width; }
  template <typename T>
  const TapTable<T>& table() const {
    return *static_cast<const TapTable<T>*>(taps);
  }
};

}  // namespace fast_rfcn
