// The positions of RoIs, bins and samples on a feature map: all index and weight arithmetic of the CPU and CUDA
// kernels. The operations are those of ops/roi_pool.py and ops/roi_align.py, in the same order, with T = float (double
// for double features). Compile without fused multiply-add (-ffp-contract=off, --fmad=false), which would move bin
// edges.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define FAST_RFCN_HD __host__ __device__ __forceinline__
#else
#define FAST_RFCN_HD inline
#endif

namespace fast_rfcn {

// A RoI, as five numbers in memory.
constexpr int kRoiColumns = 5;
enum RoiColumn { kImage = 0, kX1 = 1, kY1 = 2, kX2 = 3, kY2 = 4 };

// Cell positions are clamped to +-kFar before they become integers. The bins of such a RoI are empty with any clamp.
constexpr int kFar = 1 << 24;

template <typename T>
FAST_RFCN_HD T smaller(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
FAST_RFCN_HD T larger(T a, T b) {
  return a < b ? b : a;
}

// Rounds half away from zero, as C does.
template <typename T>
FAST_RFCN_HD T round_away(T value) {
  return static_cast<T>(::round(value));
}

template <typename T>
FAST_RFCN_HD int64_t to_integer(T value) {
  if (!(value == value)) return 0;
  return static_cast<int64_t>(larger(smaller(value, static_cast<T>(kFar)), static_cast<T>(-kFar)));
}

template <typename T>
FAST_RFCN_HD bool is_finite(T value) {
  return value - value == 0;
}

FAST_RFCN_HD int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

// The image of a RoI, or -1 if there is no such image (the kernels treat such a RoI as empty).
template <typename T>
FAST_RFCN_HD int64_t image_of(const T* roi, int64_t num_images) {
  const T index = roi[kImage];
  return index > -1 && index < static_cast<T>(num_images) ? static_cast<int64_t>(index) : -1;
}

// Cells first..end - 1 along one axis; none if end <= first.
struct Span {
  int32_t first;
  int32_t end;
};

// In the order of QUANTIZATIONS in ops/roi_pool.py.
enum class Quantization : int { caffe, floor, split, outer };

// One axis of a RoI in roi_pool.
template <typename T>
struct PoolAxis {
  T start;
  T extent;
  bool known;

  FAST_RFCN_HD PoolAxis(T low, T high, T scale, Quantization rule) : known(is_finite(low) && is_finite(high)) {
    if (rule == Quantization::floor) {
      start = ::floor(low * scale);
      extent = ::floor((high - low) * scale);
    } else if (rule == Quantization::outer) {
      start = ::floor(low * scale);
      extent = ::ceil(high * scale) - start;
    } else {
      start = round_away(low * scale);
      extent = round_away(high * scale) - start;
    }
  }

  // The cells of one of `bins` bins on a map of `size` cells.
  FAST_RFCN_HD Span bin(int index, int bins, int64_t size, Quantization rule) const {
    int64_t first, end;
    if (rule == Quantization::caffe) {
      const T bin_size = larger(extent + 1, static_cast<T>(1)) / static_cast<T>(bins);
      first = to_integer(static_cast<T>(::floor(static_cast<T>(index) * bin_size)));
      end = to_integer(static_cast<T>(::ceil(static_cast<T>(index + 1) * bin_size)));
    } else {
      const int64_t cells = to_integer(extent);
      if (rule == Quantization::floor) {
        const int64_t step = floor_divide(cells, bins);
        first = index * step;
        end = (index + 1) * step;
      } else {
        first = floor_divide(index * cells, bins);
        end = floor_divide((index + 1) * cells + (rule == Quantization::outer ? bins - 1 : 0), bins);
      }
    }
    const int64_t origin = to_integer(start), zero = 0;
    first = smaller(larger(first + origin, zero), size);
    end = smaller(larger(end + origin, zero), size);
    return {static_cast<int32_t>(first), known ? static_cast<int32_t>(end) : static_cast<int32_t>(first)};
  }
};

// One axis of a RoI in roi_align: sample i of bin p is at start + p * size + (i + shift) * size / divisions.
template <typename T>
struct SampleAxis {
  T start;
  T size;
  T shift;
  T divisions;
  int per_bin;

  FAST_RFCN_HD SampleAxis(T low, T high, int bins, T scale, int64_t sampling_ratio, bool aligned, bool inner) {
    const T offset = aligned ? static_cast<T>(0.5) : static_cast<T>(0);
    start = low * scale - offset;
    T extent = high * scale - offset - start;
    if (!aligned) extent = larger(extent, static_cast<T>(1));
    size = extent / static_cast<T>(bins);
    const T adaptive = ::ceil(size);
    per_bin = sampling_ratio > 0 ? static_cast<int>(sampling_ratio)
              : adaptive > 0     ? static_cast<int>(smaller(adaptive, static_cast<T>(1 << 15)))
                                 : 0;
    shift = inner ? static_cast<T>(1) : static_cast<T>(0.5);
    divisions = static_cast<T>(inner ? per_bin + 1 : larger(per_bin, 1));
  }

  FAST_RFCN_HD T at(int bin, int sample) const {
    return start + static_cast<T>(bin) * size + (static_cast<T>(sample) + shift) * size / divisions;
  }
};

// The two cells that a position on an axis of `size` cells reads, and their bilinear weights. Outside [-1, size] both
// weights are 0; inside, positions are clamped to [0, size - 1]. `follows`: the position is not clamped, so the value
// changes with it. If `inside` is false, do not read the cells: they may be NaN.
template <typename T>
struct Neighbours {
  int32_t lower;
  int32_t upper;
  T weight_lower;
  T weight_upper;
  bool follows;
  bool inside;

  FAST_RFCN_HD Neighbours(T position, int64_t size) {
    const int32_t last = static_cast<int32_t>(size - 1);
    inside = position >= -1 && position <= static_cast<T>(size);
    const T held = inside ? larger(position, static_cast<T>(0)) : static_cast<T>(0);
    lower = smaller(static_cast<int32_t>(held), last);
    upper = smaller(lower + 1, last);
    const T fraction = lower < last ? held - static_cast<T>(lower) : static_cast<T>(0);
    weight_lower = inside ? 1 - fraction : static_cast<T>(0);
    weight_upper = inside ? fraction : static_cast<T>(0);
    follows = position >= 0 && position < static_cast<T>(last);
  }
};

}  // namespace fast_rfcn
