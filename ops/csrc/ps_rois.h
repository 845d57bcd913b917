// The bins of position-sensitive RoI pooling on a score map, for the CPU and CUDA kernels. The operations are those of
// ops/ps_roi_pool.py and ops/deform_ps_roi_pool.py, in the same order. ps_roi_align samples like roi_align, see
// SampleAxis in rois.h.
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

// One axis of a RoI in deform_ps_roi_pool: sample i of a bin is at first(bin, shift) + i * step.
template <typename T>
struct DeformAxis {
  T start;
  T extent;  // size of the RoI, in cells
  T bin_size;
  T step;
  bool known;

  FAST_RFCN_HD DeformAxis(T low, T high, T scale, int bins, int samples) : known(is_finite(low) && is_finite(high)) {
    const T half = static_cast<T>(0.5);
    start = known ? round_away(low) * scale - half : static_cast<T>(0);
    extent = known ? larger((round_away(high) + 1) * scale - half - start, static_cast<T>(0.1)) : static_cast<T>(0);
    bin_size = extent / static_cast<T>(bins);
    step = bin_size / static_cast<T>(samples);
  }

  // `shift` is the offset of the bin as a fraction of the RoI's size.
  FAST_RFCN_HD T first(int bin, T shift) const { return static_cast<T>(bin) * bin_size + start + shift * extent; }
  FAST_RFCN_HD T at(T first, int sample) const { return first + static_cast<T>(sample) * step; }
  // Whether a sample counts. Those that do are moved to the border of the map, see Neighbours.
  FAST_RFCN_HD bool on_map(T position, int64_t size) const {
    return known && position >= static_cast<T>(-0.5) && position <= static_cast<T>(size) - static_cast<T>(0.5);
  }
};

}  // namespace fast_rfcn
