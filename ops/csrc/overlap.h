// Whether one box suppresses another, exactly as ops/nms.py divides and compares, with the division left out where a
// product already tells. For the CPU tests and the CUDA kernel.
#pragma once

#include <cmath>

#include "rois.h"

namespace fast_rfcn {

template <typename T>
struct SortedBox {
  T x1, y1, x2, y2;

  // As it comes: an inverted box intersects nothing, so its area decides nothing.
  FAST_RFCN_HD T area() const { return (x2 - x1) * (y2 - y1); }
};

// The threshold in T: the largest number up to it, so that comparing in T is as comparing in double.
template <typename T>
struct Threshold {
  T value;
  T screen;  // a little less

  explicit Threshold(double threshold) : value(static_cast<T>(threshold)) {
    if (static_cast<double>(value) > threshold) value = std::nextafter(value, static_cast<T>(-1));
    screen = value * static_cast<T>(1 - 1e-6);
  }
};

// Whether the IoU is over the threshold. A NaN in a box makes the union NaN, and nothing is over.
template <typename T>
FAST_RFCN_HD bool suppresses(const SortedBox<T>& a, const SortedBox<T>& b, const Threshold<T>& threshold) {
  const T width = smaller(a.x2, b.x2) - larger(a.x1, b.x1), height = smaller(a.y2, b.y2) - larger(a.y1, b.y1);
  if (!(width > 0) || !(height > 0)) return false;
  const T intersection = width * height;
  const T both = a.area() + b.area() - intersection;
  // No IoU over the threshold fails the screen: rounding keeps the order of a product and its bound.
  return intersection >= threshold.screen * both && intersection / both > threshold.value;
}

}  // namespace fast_rfcn
