// The reductions of a bin: the mean or maximum of its cells, or of its bilinear samples. Each reduction has an Entry,
// the data of one bin along one axis, and reduces one bin for a group of channels.
#pragma once

#include "../bins.h"
#include "planes.cuh"

namespace fast_rfcn {

// Results of one bin.
template <typename S>
struct Reduced {
  Number<S> value[kGroup<S>];
  int place[kGroup<S>];  // cells or samples of the maxima, -1 for none
};

// Whether a value replaces the best so far. The first of equal values stays, and a NaN stays.
template <typename T>
__device__ __forceinline__ bool beats(T value, T best) {
  return !(value <= best) && best == best;
}

// The largest cell, and with places its position y * width + x.
template <typename S, typename Bins, bool kWithPlaces>
struct CellMaximum {
  Bins bins;
  using Entry = Span;
  static constexpr bool kPlaces = kWithPlaces;

  __device__ Entry entry(const Number<S>* roi, bool vertical, int bin) const { return bins.entry(roi, vertical, bin); }
  static __device__ void clear(Entry& entry) { entry = {0, 0}; }

  template <typename Planes>
  __device__ void operator()(const Planes& planes, const Entry& rows, const Entry& columns, Reduced<S>& reduced) const {
    const int width = static_cast<int>(bins.map_width);
    const bool empty = rows.end <= rows.first || columns.end <= columns.first;
    Cell<S> cell{};
    if (!empty) cell = planes.at(rows.first, columns.first);
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) {
      reduced.value[k] = empty ? 0 : to_number(cell.channel[k]);
      reduced.place[k] = empty ? -1 : rows.first * width + columns.first;
    }
    for (int y = rows.first; y < rows.end; ++y) {
      for (int x = columns.first; x < columns.end; ++x) {
        cell = planes.at(y, x);
#pragma unroll
        for (int k = 0; k < kGroup<S>; ++k) {
          const Number<S> value = to_number(cell.channel[k]);
          if (beats(value, reduced.value[k])) reduced.value[k] = value, reduced.place[k] = y * width + x;
        }
      }
    }
  }
};

// The mean of the cells, 0 for none.
template <typename S, typename Bins>
struct CellMean {
  Bins bins;
  using Entry = Span;
  static constexpr bool kPlaces = false;

  __device__ Entry entry(const Number<S>* roi, bool vertical, int bin) const { return bins.entry(roi, vertical, bin); }
  static __device__ void clear(Entry& entry) { entry = {0, 0}; }

  template <typename Planes>
  __device__ void operator()(const Planes& planes, const Entry& rows, const Entry& columns, Reduced<S>& reduced) const {
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] = 0;
    for (int y = rows.first; y < rows.end; ++y) {
      for (int x = columns.first; x < columns.end; ++x) {
        const Cell<S> cell = planes.at(y, x);
#pragma unroll
        for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] += to_number(cell.channel[k]);
      }
    }
    const int64_t count =
        static_cast<int64_t>(larger(rows.end - rows.first, 0)) * larger(columns.end - columns.first, 0);
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] /= static_cast<Number<S>>(larger<int64_t>(count, 1));
  }
};

// The value of one sample for a group of channels.
template <typename S, typename Planes>
__device__ __forceinline__ void read_sample(const Planes& planes, const Neighbours<Number<S>>& y,
                                            const Neighbours<Number<S>>& x, Number<S> (&value)[kGroup<S>]) {
  const Cell<S> top_left = planes.at(y.lower, x.lower), top_right = planes.at(y.lower, x.upper);
  const Cell<S> bottom_left = planes.at(y.upper, x.lower), bottom_right = planes.at(y.upper, x.upper);
  const Number<S> on_top_left = y.weight_lower * x.weight_lower, on_top_right = y.weight_lower * x.weight_upper;
  const Number<S> on_bottom_left = y.weight_upper * x.weight_lower, on_bottom_right = y.weight_upper * x.weight_upper;
#pragma unroll
  for (int k = 0; k < kGroup<S>; ++k) {
    value[k] = on_top_left * to_number(top_left.channel[k]) + on_top_right * to_number(top_right.channel[k]) +
               on_bottom_left * to_number(bottom_left.channel[k]) +
               on_bottom_right * to_number(bottom_right.channel[k]);
  }
}

// The mean of the samples; a sample outside the map counts as 0.
template <typename S>
struct SampleMean {
  using T = Number<S>;
  using Entry = typename SampledBins<T>::Entry;
  SampledBins<T> bins;
  static constexpr bool kPlaces = false;

  __device__ Entry entry(const T* roi, bool vertical, int bin) const { return bins.entry(roi, vertical, bin); }
  static __device__ void clear(Entry& entry) { entry.axis.per_bin = 0; }

  template <typename Planes>
  __device__ void operator()(const Planes& planes, const Entry& rows, const Entry& columns, Reduced<S>& reduced) const {
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] = 0;
    for (int i = 0; i < rows.axis.per_bin; ++i) {
      const Neighbours<T> y(rows.axis.at(rows.bin, i), bins.map_height);
      if (!y.inside) continue;
      for (int j = 0; j < columns.axis.per_bin; ++j) {
        const Neighbours<T> x(columns.axis.at(columns.bin, j), bins.map_width);
        if (!x.inside) continue;
        T value[kGroup<S>];
        read_sample<S>(planes, y, x, value);
#pragma unroll
        for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] += value[k];
      }
    }
    const T count = static_cast<T>(larger(rows.axis.per_bin * columns.axis.per_bin, 1));
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] /= count;
  }
};

// The largest sample and its index, row-major within the bin; a sample outside the map counts as 0.
template <typename S>
struct SampleMaximum {
  using T = Number<S>;
  using Entry = typename SampledBins<T>::Entry;
  SampledBins<T> bins;
  static constexpr bool kPlaces = true;

  __device__ Entry entry(const T* roi, bool vertical, int bin) const { return bins.entry(roi, vertical, bin); }
  static __device__ void clear(Entry& entry) { entry.axis.per_bin = 0; }

  template <typename Planes>
  __device__ void operator()(const Planes& planes, const Entry& rows, const Entry& columns, Reduced<S>& reduced) const {
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] = 0, reduced.place[k] = -1;
    for (int i = 0; i < rows.axis.per_bin; ++i) {
      const Neighbours<T> y(rows.axis.at(rows.bin, i), bins.map_height);
      for (int j = 0; j < columns.axis.per_bin; ++j) {
        const Neighbours<T> x(columns.axis.at(columns.bin, j), bins.map_width);
        T value[kGroup<S>] = {};
        if (y.inside && x.inside) read_sample<S>(planes, y, x, value);
        const int sample = i * columns.axis.per_bin + j;
#pragma unroll
        for (int k = 0; k < kGroup<S>; ++k) {
          if (sample == 0 || beats(value[k], reduced.value[k])) reduced.value[k] = value[k], reduced.place[k] = sample;
        }
      }
    }
  }
};

}  // namespace fast_rfcn
