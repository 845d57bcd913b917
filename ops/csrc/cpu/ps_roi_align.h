// The cells that the bins of position-sensitive RoIAlign read, and their weights. The weight of a cell is its row's
// weight times its column's weight. Samples on the same row share its entry, so there are far fewer than four per
// sample.
#pragma once

#include "score_maps.h"

namespace fast_rfcn {

// A row (or column) of cells and its weight, summed over the samples of a bin.
template <typename T>
struct Tap {
  int32_t cell;
  T weight;
};

template <typename T>
struct Taps {
  const Tap<T>* begin;
  const Tap<T>* end;
};

template <typename T>
class BinSamples {
 public:
  BinSamples(const T* rois, const RoisByImage& visits, const MapView& map, int k, T scale, int64_t sampling_ratio)
      : map_width(map.width),
        k_(k),
        groups_((visits.order.size() + kGroup - 1) / kGroup),
        counts_(visits.order.size()) {
    const int64_t num_rois = static_cast<int64_t>(visits.order.size());
    for_each_task(static_cast<int64_t>(groups_.size()), [&](int64_t group) {
      const int64_t begin = group * kGroup, end = smaller(begin + kGroup, num_rois);
      groups_[group].bounds.push_back(0);
      for (int64_t visit = begin; visit < end; ++visit) {
        const T* roi = rois + visits.order[visit] * kRoiColumns;
        const bool known = image_of(roi, map.images) >= 0;
        const int64_t down = add_axis(groups_[group], known, roi[kY1], roi[kY2], scale, sampling_ratio, map.height);
        const int64_t across = add_axis(groups_[group], known, roi[kX1], roi[kX2], scale, sampling_ratio, map.width);
        counts_[visit] = static_cast<T>(down * across);
      }
    });
  }

  Taps<T> rows(int64_t visit, int i) const { return taps(visit, i); }
  Taps<T> columns(int64_t visit, int j) const { return taps(visit, k_ + j); }
  // Number of samples of each bin, including samples off the map.
  T count(int64_t visit) const { return counts_[visit]; }

  const int64_t map_width;

 private:
  static constexpr int64_t kGroup = 64;
  struct Group {
    std::vector<Tap<T>> taps;
    std::vector<size_t> bounds;  // for each visit: bins of rows, then of columns; one more at the end
  };

  Taps<T> taps(int64_t visit, int bin) const {
    const Group& group = groups_[visit / kGroup];
    const size_t* bound = group.bounds.data() + visit % kGroup * 2 * k_ + bin;
    return {group.taps.data() + bound[0], group.taps.data() + bound[1]};
  }

  // Appends the taps of all bins along one axis. Returns the number of samples per bin.
  int64_t add_axis(Group& group, bool known, T low, T high, T scale, int64_t sampling_ratio, int64_t size) {
    known = known && is_finite(low) && is_finite(high);
    const SampleAxis<T> axis(known ? low : T{0}, known ? high : T{0}, k_, scale, sampling_ratio, true, false);
    for (int bin = 0; bin < k_; ++bin) {
      const size_t first = group.taps.size();
      for (int sample = 0; known && sample < axis.per_bin; ++sample) {
        const T position = axis.at(bin, sample);
        if (!(position >= -1 && position <= static_cast<T>(size))) continue;
        const Neighbours<T> near(position, size);
        add_tap(group.taps, first, near.lower, near.weight_lower);
        add_tap(group.taps, first, near.upper, near.weight_upper);
      }
      group.bounds.push_back(group.taps.size());
    }
    return known ? axis.per_bin : 0;
  }

  // Samples are in order along the axis, so a cell that is already listed is one of the last two.
  static void add_tap(std::vector<Tap<T>>& taps, size_t first, int32_t cell, T weight) {
    for (size_t back = 1; back <= 2 && taps.size() >= first + back; ++back) {
      Tap<T>& last = taps[taps.size() - back];
      if (last.cell == cell) {
        last.weight += weight;
        return;
      }
    }
    taps.push_back({cell, weight});
  }

  int k_;
  std::vector<Group> groups_;
  std::vector<T> counts_;
};

}  // namespace fast_rfcn
