// What one task of RoI max pooling is given: everything is in place, and it fills its image's channels.
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
  void* argmax;       // the same, uint16 or int32, or null
  bool wide_argmax;   // int32
  bool past_caches;   // how outputs are written

  int64_t bins() const { return static_cast<int64_t>(height) * width; }
};

struct ScatterPlan {
  ScalarType dtype;
  int64_t channels, cells, bins;
  const RoisByImage* rois;
  const void* grad;    // [R, C, bins]
  const void* argmax;  // the same
  bool wide_argmax;
  void* total;  // [N, C, cells]
};

}  // namespace fast_rfcn
