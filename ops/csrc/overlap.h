// Whether one box suppresses another, with the same result as the division and comparison in ops/nms.py. The division
// is skipped if a product already decides. For the CPU tests and the CUDA kernel.
#pragma once

#include <cmath>

#include "rois.h"

namespace fast_rfcn {

template <typename T>
struct SortedBox {
  T x1, y1, x2, y2;

  // Not clamped: the area of an inverted box may be negative, but such a box intersects no other.
  FAST_RFCN_HD T area() const { return (x2 - x1) * (y2 - y1); }
};

// The threshold in T: the largest T up to the threshold, so that a comparison in T equals a comparison in double.
template <typename T>
struct Threshold {
  T value;
  T screen;  // slightly less than value

  explicit Threshold(double threshold) : value(static_cast<T>(threshold)) {
    if (static_cast<double>(value) > threshold) value = std::nextafter(value, static_cast<T>(-1));
    screen = value * static_cast<T>(1 - 1e-6);
  }
};

// Whether the IoU is above the threshold. A NaN in a box makes the union NaN, which is above no threshold.
template <typename T>
FAST_RFCN_HD bool suppresses(const SortedBox<T>& a, const SortedBox<T>& b, const Threshold<T>& threshold) {
  const T width = smaller(a.x2, b.x2) - larger(a.x1, b.x1), height = smaller(a.y2, b.y2) - larger(a.y1, b.y1);
  if (!(width > 0) || !(height > 0)) return false;
  const T intersection = width * height;
  const T both = a.area() + b.area() - intersection;
  // Every IoU above the threshold passes the screen: rounding keeps the order of a product and its bound.
  return intersection >= threshold.screen * both && intersection / both > threshold.value;
}

}  // namespace fast_rfcn
