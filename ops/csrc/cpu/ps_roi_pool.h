// Which cells the bins of position-sensitive RoI pooling read: a rectangle each.
#pragma once

#include "score_maps.h"

namespace fast_rfcn {

// Rows and columns of the bins of every RoI.
struct BinSpans {
  int k;
  int64_t map_width;
  std::vector<Span> spans;  // [R][2 * k], rows before columns

  template <typename T>
  BinSpans(const T* rois, int64_t num_rois, const MapView& map, int k, T scale) : k(k), map_width(map.width) {
    spans.reserve(num_rois * 2 * k);
    for (int64_t r = 0; r < num_rois; ++r, rois += kRoiColumns) {
      const bool known = image_of(rois, map.images) >= 0;
      const PsPoolAxis<T> y(rois[kY1], rois[kY2], scale, k), x(rois[kX1], rois[kX2], scale, k);
      for (int i = 0; i < k; ++i) spans.push_back(known ? y.bin(i, map.height) : Span{0, 0});
      for (int j = 0; j < k; ++j) spans.push_back(known ? x.bin(j, map.width) : Span{0, 0});
    }
  }
  Span rows(int64_t roi, int i) const { return spans[roi * 2 * k + i]; }
  Span columns(int64_t roi, int j) const { return spans[roi * 2 * k + k + j]; }
};

}  // namespace fast_rfcn
