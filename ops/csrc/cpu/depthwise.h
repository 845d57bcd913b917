// Depthwise convolution with strides and dilation on the CPU, for channels-last maps. Other libraries compute its
// gradient many times slower than without strides and dilation; here all use the same loops.
#pragma once

#include "tensors.h"

namespace fast_rfcn {

// Side of the largest kernel, 7x7.
constexpr int64_t kLargestKernel = 7;

struct DepthwisePlan {
  const void* x;       // [N, H, W, C] in memory
  const void* kernel;  // [k, k, C], in the type of the sums; for the weight gradient: `grad`
  const void* bias;    // [C], in the type of the sums
  void* output;        // [N, OH, OW, C]; weight gradient: [k, k, C], in the type of the sums
  ScalarType dtype;    // of x, and of the output or its gradient
  int64_t images, height, width, channels, out_height, out_width;
  int64_t k, stride, dilation, padding;
  bool transposed = false;  // whether `x` is the gradient of a convolution's output, and `output` that of its maps

  // The row or column of x that tap `tap` of output `out` reads; it may be outside x. A negative number is for none.
  // Stride is that of the plan; 0: any.
  template <int Stride = 0>
  int64_t met(int64_t out, int64_t tap) const {
    const int64_t apart = Stride > 0 ? Stride : stride;
    if (!transposed) return out * apart - padding + tap * dilation;
    const int64_t strided = out + padding - tap * dilation;
    if (apart == 1) return strided;
    if (strided < 0) return -1;
    const uint64_t place = static_cast<uint64_t>(strided);  // a known stride is then a shift
    return place % apart != 0 ? -1 : static_cast<int64_t>(place / apart);
  }
};

}  // namespace fast_rfcn
