// The bins of position-sensitive RoI pooling on a score map, for the CPU and CUDA kernels. The operations are those of
// ops/ps_roi_pool.py, in the same order. ps_roi_align samples like roi_align, see SampleAxis in rois.h.
#pragma once

#include "rois.h"

namespace fast_rfcn {

// One axis of a RoI in ps_roi_pool: corners are rounded in input pixels, 1 is added to the end, then both are scaled.
template <typename T>
struct PsPoolAxis {
  T start;
  T bin_size;
  bool known;

  FAST_RFCN_HD PsPoolAxis(T low, T high, T scale, int bins) : known(is_finite(low) && is_finite(high)) {
    start = round_away(low) * scale;
    const T extent = (round_away(high) + 1) * scale - start;
    bin_size = larger(extent, static_cast<T>(0.1)) / static_cast<T>(bins);
  }

  // Cells of one bin on a map of `size` cells.
  FAST_RFCN_HD Span bin(int index, int64_t size) const {
    if (!known) return {0, 0};
    const T first = static_cast<T>(::floor(static_cast<T>(index) * bin_size + start));
    const T end = static_cast<T>(::ceil(static_cast<T>(index + 1) * bin_size + start));
    const int64_t zero = 0;
    return {static_cast<int32_t>(smaller(larger(to_integer(first), zero), size)),
            static_cast<int32_t>(smaller(larger(to_integer(end), zero), size))};
  }
};

}  // namespace fast_rfcn
