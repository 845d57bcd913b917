// The cells that the bins of position-sensitive RoI pooling read: one rectangle each.
#pragma once

#include "score_maps.h"

namespace fast_rfcn {

// Rows and columns of the bins, in the order of the visits: a task reads one row of each table from end to end.
class BinSpans {
 public:
  template <typename T>
  BinSpans(const T* rois, const RoisByImage& visits, const MapView& map, int k, T scale)
      : map_width(map.width), k_(k), num_rois_(static_cast<int64_t>(visits.order.size())), spans_(2 * k * num_rois_) {
    for (int64_t visit = 0; visit < num_rois_; ++visit) {
      const T* roi = rois + visits.order[visit] * kRoiColumns;
      if (image_of(roi, map.images) < 0) continue;
      const PsPoolAxis<T> y(roi[kY1], roi[kY2], scale, k), x(roi[kX1], roi[kX2], scale, k);
      for (int i = 0; i < k; ++i) spans_[i * num_rois_ + visit] = y.bin(i, map.height);
      for (int j = 0; j < k; ++j) spans_[(k + j) * num_rois_ + visit] = x.bin(j, map.width);
    }
  }

  Span rows(int64_t visit, int i) const { return spans_[i * num_rois_ + visit]; }
  Span columns(int64_t visit, int j) const { return spans_[(k_ + j) * num_rois_ + visit]; }

  const int64_t map_width;

 private:
  int k_;
  int64_t num_rois_;
  std::vector<Span> spans_;  // [2 * k][R], rows before columns
};

}  // namespace fast_rfcn
