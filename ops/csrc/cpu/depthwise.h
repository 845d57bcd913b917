// Dilated depthwise convolution on the CPU, for channels-last maps. Other libraries compute the gradient of a dilated
// depthwise convolution many times slower than without dilation; here both use the same loops.
#pragma once

#include "tensors.h"

namespace fast_rfcn {

// Side of the largest kernel, 7x7.
constexpr int64_t kLargestKernel = 7;

struct DepthwisePlan {
  const void* x;       // [N, H, W, C]
  const void* kernel;  // [k, k, C], in the type of the sums; for the weight gradient: `grad`
  const void* bias;    // [C], in the type of the sums
  void* output;        // [N, OH, OW, C]; weight gradient: [k, k, C], in the type of the sums
  ScalarType dtype;    // of x, and of the output or its gradient
  int64_t images, height, width, channels, out_height, out_width;
  int64_t k, dilation, padding;

  // The row or column of x that tap `tap` of output `out` reads; it may be outside x.
  int64_t met(int64_t out, int64_t tap) const { return out - padding + tap * dilation; }
};

}  // namespace fast_rfcn
