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

template <typename S>
__device__ __forceinline__ bool has_nan(const Cell<S>& cell) {
  bool found = false;
#pragma unroll
  for (int k = 0; k < kGroup<S>; ++k) {
    const Number<S> value = to_number(cell.channel[k]);
    found |= value != value;
  }
  return found;
}

// Whether a value replaces the best so far. The first of equal values stays, and a NaN stays.
template <bool kNan = true, typename T>
__device__ __forceinline__ bool beats(T value, T best) {
  return kNan ? !(value <= best) && best == best : value > best;
}

// The largest cell, and with places its position y * width + x. The loops over the cells of a row are not unrolled:
// lanes have different numbers of cells, and would wait for the remainders of each other.
template <typename S, typename Bins, bool kWithPlaces>
struct CellMaximum {
  Bins bins;
  using Entry = Span;
  static constexpr bool kPlaces = kWithPlaces, kFasterWithoutNan = true;

  __device__ Entry entry(const Number<S>* roi, bool vertical, int bin) const { return bins.entry(roi, vertical, bin); }
  static __device__ void clear(Entry& entry) { entry = {0, 0}; }

  template <typename Planes>
  __device__ void operator()(const Planes& planes, Entry rows, Entry columns, Reduced<S>& reduced) const {
    if (planes.may_have_nan) {
      reduce<true>(planes, rows, columns, reduced);
    } else {
      reduce<false>(planes, rows, columns, reduced);
    }
  }

 private:
  template <bool kNan, typename Planes>
  __device__ void reduce(const Planes& planes, Entry rows, Entry columns, Reduced<S>& reduced) const {
    const int width = static_cast<int>(bins.map_width);
    const bool empty = rows.end <= rows.first || columns.end <= columns.first;
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) {
      reduced.value[k] = empty ? 0 : -INFINITY;
      reduced.place[k] = empty ? -1 : rows.first * width + columns.first;
    }
    for (int y = rows.first; y < rows.end; ++y) {
#pragma unroll 1
      for (int x = columns.first; x < columns.end; ++x) {
        const Cell<S> cell = planes.at(y, x);
#pragma unroll
        for (int k = 0; k < kGroup<S>; ++k) {
          const Number<S> value = to_number(cell.channel[k]);
          if constexpr (!kNan && !kPlaces) {
            reduced.value[k] = ::fmax(value, reduced.value[k]);
          } else if (beats<kNan>(value, reduced.value[k])) {
            reduced.value[k] = value, reduced.place[k] = y * width + x;
          }
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
  static constexpr bool kPlaces = false, kFasterWithoutNan = false;

  __device__ Entry entry(const Number<S>* roi, bool vertical, int bin) const { return bins.entry(roi, vertical, bin); }
  static __device__ void clear(Entry& entry) { entry = {0, 0}; }

  template <typename Planes>
  __device__ void operator()(const Planes& planes, Entry rows, Entry columns, Reduced<S>& reduced) const {
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] = 0;
    for (int y = rows.first; y < rows.end; ++y) {
#pragma unroll 1
      for (int x = columns.first; x < columns.end; ++x) {
        const Cell<S> cell = planes.at(y, x);
#pragma unroll
        for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] += to_number(cell.channel[k]);
      }
    }
    const int count = larger(rows.end - rows.first, 0) * larger(columns.end - columns.first, 0);
    const Number<S> share = 1 / static_cast<Number<S>>(larger(count, 1));
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] *= share;
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
    value[k] = on_top_left * to_number(top_left.channel[k]);
    value[k] = ::fma(on_top_right, to_number(top_right.channel[k]), value[k]);
    value[k] = ::fma(on_bottom_left, to_number(bottom_left.channel[k]), value[k]);
    value[k] = ::fma(on_bottom_right, to_number(bottom_right.channel[k]), value[k]);
  }
}

// The cells of two samples along one axis, each once, and their weights in the mean of a bin. -1 stands for no cell.
template <typename T>
struct Taps {
  int32_t cell[4];
  T weight[4];

  __device__ Taps(const SampleAxis<T>& axis, int bin, int sample, int64_t size) {
    const T share = 1 / static_cast<T>(axis.per_bin);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Neighbours<T> near(axis.at(bin, sample + i), size);
      const bool counts = near.inside && sample + i < axis.per_bin;
      cell[2 * i] = counts ? near.lower : -1, weight[2 * i] = share * near.weight_lower;
      cell[2 * i + 1] = counts ? near.upper : -1, weight[2 * i + 1] = share * near.weight_upper;
    }
#pragma unroll
    for (int i = 1; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < i; ++j) {
        if (cell[i] == cell[j]) weight[j] += weight[i], cell[i] = -1;
      }
    }
  }
};

// The mean of the samples; a sample outside the map counts as 0. The weight of a cell is its row's weight times its
// column's weight.
template <typename S>
struct SampleMean {
  using T = Number<S>;
  SampledBins<T> bins;
  static constexpr bool kPlaces = false, kFasterWithoutNan = false;

  // Two samples or fewer: their cells, computed once. More: the samples.
  struct Entry {
    int pairs, bin;
    union Kept {
      Taps<T> taps;
      SampleAxis<T> axis;
    } kept;

    __device__ Entry(const SampleAxis<T>& axis, int bin, int64_t size)
        : pairs((axis.per_bin + 1) / 2), bin(bin), kept{.axis = axis} {
      if (pairs == 1) kept.taps = Taps<T>(axis, bin, 0, size);
    }
    __device__ Taps<T> taps(int pair, int64_t size) const {
      return pairs == 1 ? kept.taps : Taps<T>(kept.axis, bin, 2 * pair, size);
    }
  };

  __device__ Entry entry(const T* roi, bool vertical, int bin) const {
    return Entry(bins.axis(roi, vertical), bin, vertical ? bins.map_height : bins.map_width);
  }
  static __device__ void clear(Entry& entry) { entry.pairs = 0; }

  template <typename Planes>
  __device__ void operator()(const Planes& planes, const Entry& rows, const Entry& columns, Reduced<S>& reduced) const {
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) reduced.value[k] = 0;
    for (int i = 0; i < rows.pairs; ++i) {
      const Taps<T> y = rows.taps(i, bins.map_height);
      for (int j = 0; j < columns.pairs; ++j) {
        const Taps<T> x = columns.taps(j, bins.map_width);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          if (y.cell[r] < 0) continue;
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            if (x.cell[c] < 0) continue;
            const Cell<S> cell = planes.at(y.cell[r], x.cell[c]);
            const T weight = y.weight[r] * x.weight[c];
#pragma unroll
            for (int k = 0; k < kGroup<S>; ++k) {
              reduced.value[k] = ::fma(weight, to_number(cell.channel[k]), reduced.value[k]);
            }
          }
        }
      }
    }
  }
};

// The largest sample and its index, row-major within the bin; a sample outside the map counts as 0.
template <typename S>
struct SampleMaximum {
  using T = Number<S>;
  using Entry = typename SampledBins<T>::Entry;
  SampledBins<T> bins;
  static constexpr bool kPlaces = true, kFasterWithoutNan = false;

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
