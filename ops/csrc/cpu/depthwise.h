// Depthwise convolution with holes on the CPU, for maps whose channels lie innermost. Libraries compute the gradient of
// a dilated depthwise convolution many times slower than that of a plain one; here both are the same loops.
#pragma once

#include "tensors.h"

namespace fast_rfcn {

// Sides of the largest kernel: a 7x7 one.
constexpr int64_t kLargestKernel = 7;

struct DepthwisePlan {
  const void* x;       // [N, H, W, C]
  const void* kernel;  // [k, k, C], in the type of the sums; the weight gradient's plan has `grad` here
  const void* bias;    // [C], in the type of the sums
  void* output;        // [N, OH, OW, C]; weight gradient: [k, k, C], in the type of the sums
  ScalarType dtype;    // of x, and of the output or gradient at the cells
  int64_t images, height, width, channels, out_height, out_width;
  int64_t k, dilation, padding;

  // The first row or column of x that tap `tap` of an output meets, perhaps outside.
  int64_t met(int64_t out, int64_t tap) const { return out - padding + tap * dilation; }
};

}  // namespace fast_rfcn
