// Whether one box suppresses another, with the same result as the division and comparison in ops/nms.py. The division
// is skipped if a product already decides. For the CPU tests and the CUDA kernel.
#pragma once

#include <cmath>
#include <limits>

#include "rois.h"

namespace fast_rfcn {

template <typename T>
struct alignas(4 * sizeof(T)) SortedBox {
  T x1, y1, x2, y2;

  // Not clamped: the area of an inverted box may be negative, but such a box intersects no other.
  FAST_RFCN_HD T area() const { return (x2 - x1) * (y2 - y1); }
};

// The threshold in T: the largest T up to the threshold, so that a comparison in T equals a comparison in double.
template <typename T>
struct Threshold {
  T value;
  T screen;  // slightly less than value
  T growth;  // how much larger than a box another may be that overlaps it so
             // much, relative to its area

  explicit Threshold(double threshold) : value(static_cast<T>(threshold)) {
    if (static_cast<double>(value) > threshold) value = std::nextafter(value, static_cast<T>(-1));
    screen = value * static_cast<T>(1 - 1e-6);
    const T least = value * static_cast<T>(1 - 1e-5);
    growth = least > static_cast<T>(1e-6) ? (1 - least) / least : std::numeric_limits<T>::infinity();
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

// Which boxes a box may suppress, by their centers and areas. Three subtractions leave out nearly all other boxes, and
// none for which `suppresses` is true. With an IoU above t, the other area is at most 1 / t times this one. Two sides a
// and b overlap by at least (a + b) * t / (1 + t), b is at most a / t, and the centers are (a + b) / 2 less the overlap
// apart, or less. So they are at most a * (1 - t) / (2 * t) apart. The other terms are for rounding errors.
template <typename T>
struct Reach {
  T x, y, area;                    // of the box; x and y of its center
  T along_x, along_y, along_area;  // the greatest differences

  FAST_RFCN_HD Reach(const SortedBox<T>& box, const Threshold<T>& threshold)
      : x(box.x1 * half() + box.x2 * half()), y(box.y1 * half() + box.y2 * half()), area(box.area()) {
    constexpr T smallest = std::numeric_limits<T>::min() * static_cast<T>(1e6);  // smaller areas have few digits
    along_x = distance(box.x1, box.x2, threshold), along_y = distance(box.y1, box.y2, threshold);
    along_area = area * threshold.growth * static_cast<T>(1 + 1e-5);
    if (!(box.x2 > box.x1) || !(box.y2 > box.y1)) {
      along_x = along_y = along_area = -1;  // such a box suppresses none
    } else if (area < smallest) {
      along_x = along_y = along_area = std::numeric_limits<T>::infinity();
    }
  }

 private:
  static FAST_RFCN_HD constexpr T half() { return static_cast<T>(0.5); }
  static FAST_RFCN_HD T distance(T low, T high, const Threshold<T>& threshold) {
    return (high - low) * threshold.growth * static_cast<T>(0.5 + 1e-5) +
           static_cast<T>(::fabs(low) + ::fabs(high)) * static_cast<T>(1e-6) + std::numeric_limits<T>::min();
  }
};

// Negative if a number is farther from another than `along`. NaN for some infinite numbers and for NaN.
template <typename T>
FAST_RFCN_HD T spare(T along, T mine, T other) {
  return along - static_cast<T>(::fabs(other - mine));
}

}  // namespace fast_rfcn
