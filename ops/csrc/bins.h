// The bins of every operator behind one interface, and the weights of their cells, for the CUDA kernels. The code also
// compiles for the host, so that tests on a CPU can compare it with the PyTorch kernels.
#pragma once

#include "ps_rois.h"

namespace fast_rfcn {

// Cells of the bins of roi_pool.
template <typename T>
struct PoolBins {
  int height, width;
  int64_t map_height, map_width;
  T scale;
  Quantization rule;

  FAST_RFCN_HD Span entry(const T* roi, bool vertical, int bin) const {
    const PoolAxis<T> axis(roi[vertical ? kY1 : kX1], roi[vertical ? kY2 : kX2], scale, rule);
    return axis.bin(bin, vertical ? height : width, vertical ? map_height : map_width, rule);
  }
};

// Cells of the bins of ps_roi_pool.
template <typename T>
struct PsPoolBins {
  int bins;
  int64_t map_height, map_width;
  T scale;

  FAST_RFCN_HD PsPoolAxis<T> axis(const T* roi, bool vertical) const {
    return PsPoolAxis<T>(roi[vertical ? kY1 : kX1], roi[vertical ? kY2 : kX2], scale, bins);
  }
  FAST_RFCN_HD Span entry(const T* roi, bool vertical, int bin) const {
    return axis(roi, vertical).bin(bin, vertical ? map_height : map_width);
  }
};

// Samples of the bins of roi_align, roi_warp and ps_roi_align.
template <typename T>
struct SampledBins {
  int height, width;
  int64_t map_height, map_width;
  T scale;
  int64_t sampling_ratio;
  bool aligned, inner;

  struct Entry {
    SampleAxis<T> axis;
    int bin;
  };

  FAST_RFCN_HD SampleAxis<T> axis(const T* roi, bool vertical) const {
    return SampleAxis<T>(roi[vertical ? kY1 : kX1], roi[vertical ? kY2 : kX2], vertical ? height : width, scale,
                         sampling_ratio, aligned, inner);
  }
  FAST_RFCN_HD Entry entry(const T* roi, bool vertical, int bin) const { return {axis(roi, vertical), bin}; }
};

// The cells that a bin averages along one axis, and their weights in the average. The weight of a cell of the map is
// its row's weight times its column's weight. In SpanWeights, the bin averages the cells of a span.
template <typename T>
struct SpanWeights {
  PsPoolAxis<T> edges;

  FAST_RFCN_HD Span touched(int bin, int64_t size) const { return edges.bin(bin, size); }
  FAST_RFCN_HD T weight(int bin, int cell, int64_t size) const {
    const Span span = edges.bin(bin, size);
    return cell >= span.first && cell < span.end ? 1 / static_cast<T>(span.end - span.first) : static_cast<T>(0);
  }
};

// The same for a bin that averages bilinear samples.
template <typename T>
struct SampleWeights {
  SampleAxis<T> samples;

  // The cells between the first and the last sample, and one cell more at each end because of rounding errors.
  FAST_RFCN_HD Span touched(int bin, int64_t size) const {
    const T one = samples.at(bin, 0), other = samples.at(bin, samples.per_bin - 1);
    const T low = smaller(one, other), high = larger(one, other);
    if (samples.per_bin == 0 || !(high >= -2) || !(low <= static_cast<T>(size + 1))) return {0, 0};
    const int64_t first = to_integer(static_cast<T>(::floor(low))) - 1, zero = 0;
    const int64_t end = to_integer(static_cast<T>(::floor(high))) + 3;
    return {static_cast<int32_t>(larger(smaller(first, size - 1), zero)),
            static_cast<int32_t>(larger(smaller(end, size), zero))};
  }
  FAST_RFCN_HD T weight(int bin, int cell, int64_t size) const {
    T sum = 0;
    for (int i = 0; i < samples.per_bin; ++i) {
      const Neighbours<T> near(samples.at(bin, i), size);
      if (near.lower == cell) sum += near.weight_lower;
      if (near.upper == cell) sum += near.weight_upper;
    }
    return sum / static_cast<T>(larger(samples.per_bin, 1));
  }
};

template <typename T>
FAST_RFCN_HD SpanWeights<T> weights_of(const PsPoolBins<T>& bins, const T* roi, bool vertical) {
  return {bins.axis(roi, vertical)};
}
template <typename T>
FAST_RFCN_HD SampleWeights<T> weights_of(const SampledBins<T>& bins, const T* roi, bool vertical) {
  return {bins.axis(roi, vertical)};
}

}  // namespace fast_rfcn
