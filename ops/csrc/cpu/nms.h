// The data of greedy suppression: boxes sorted by score, and lists of kept boxes that may suppress a candidate.
//
// IoU > t is only possible if the areas differ by less than a factor t and the centres are nearer than (1 - t) of the
// width. So each kept box is in a list for its label, the level of its area (the exponent and first bits of the
// mantissa, a cheap logarithm), and the strip of the image with its centre. A candidate visits only a few of these
// lists.
#pragma once

#include <algorithm>

#include "tensors.h"

namespace fast_rfcn {

// Kept boxes of one list, one cache line per coordinate. Used lanes come first; other lanes are boxes that overlap
// none.
template <typename T>
struct NmsBlock {
  static constexpr int kLanes = 64 / static_cast<int>(sizeof(T));
  alignas(64) T x1[kLanes];
  T y1[kLanes], x2[kLanes], y2[kLanes], area[kLanes];
  int32_t used;
  int32_t next;  // index of the block before this one in the list, -1 for none
};

template <typename T>
struct NmsBox {
  T x1, y1, x2, y2, area;
  int32_t group;  // number of its label
  int32_t level;  // of its area; -1 for a box that overlaps none: empty, inverted or not finite
};

// Levels of area and strips of the image.
class NmsGrid {
 public:
  static constexpr int kMostStrips = 16;

  // A higher threshold has finer levels, so that a candidate visits four to six.
  explicit NmsGrid(double threshold) : shift_(threshold >= 0.6 ? 21 : threshold >= 0.4 ? 22 : 23) {}

  int32_t raw_level(double area) const {
    const float narrow = static_cast<float>(area);
    return static_cast<int32_t>(__builtin_bit_cast(uint32_t, narrow) >> shift_);
  }
  double smallest_area(int32_t raw) const { return __builtin_bit_cast(float, static_cast<uint32_t>(raw) << shift_); }

 private:
  int shift_;
};

template <typename T>
struct NmsPlan {
  const NmsBox<T>* boxes;  // [N] by falling score
  int64_t num_boxes;
  int64_t max_output;
  double threshold;
  T rounded_threshold;  // the largest T up to the threshold
  NmsGrid grid;
  int32_t first_level, num_levels;
  const double* strips_per_pixel;  // of each level
  const int32_t* num_strips;       // of each level
  double left;                     // smallest centre
  int32_t* heads;                  // [groups][levels][kMostStrips], index of the last block of a list, -1 for none
  std::vector<NmsBlock<T>>* blocks;
  int64_t* kept;  // [max_output] positions in `boxes`

  int32_t strip(int32_t level, double centre) const {
    const double position = (centre - left) * strips_per_pixel[level];
    const double last = num_strips[level] - 1;
    return static_cast<int32_t>(position > 0 ? (position < last ? position : last) : 0);
  }
};

}  // namespace fast_rfcn
