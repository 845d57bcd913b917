// The input of a task of RoI max pooling. All memory is allocated; the task fills the channels of its image.
#pragma once

#include "tensors.h"

namespace fast_rfcn {

struct PoolPlan {
  MapView map;
  ScalarType dtype;
  int height, width;  // bins
  const RoisByImage* rois;
  const Span* spans;  // [R][height + width], rows before columns
  void* pooled;       // [R, C, height, width]
  void* argmax;       // [R, C, height, width], uint16 or int32, or null
  bool wide_argmax;   // int32
  bool past_caches;   // whether to write outputs past the caches

  int64_t bins() const { return static_cast<int64_t>(height) * width; }
};

struct ScatterPlan {
  ScalarType dtype;
  int64_t channels, cells, bins;
  const RoisByImage* rois;
  const void* grad;    // [R, C, bins]
  const void* argmax;  // [R, C, bins]
  bool wide_argmax;
  void* total;  // [N, C, cells]
};

}  // namespace fast_rfcn
