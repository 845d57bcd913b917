// Dilated depthwise convolution on the CPU: see depthwise.h.

#include "depthwise.h"

#include <type_traits>

#include "instruction_set.h"

#define FAST_RFCN_KERNELS "depthwise_kernels.h"
#include "for_each_instruction_set.h"

namespace fast_rfcn {

static void check_kernel(int64_t k, int64_t dilation, int64_t padding) {
  STD_TORCH_CHECK(k > 0 && k <= kLargestKernel && dilation > 0 && padding >= 0,
                  "expected a kernel of 1 to 7 cells a side, a dilation of 1 or more and a padding of 0 or more");
}

static Tensor depthwise(const Tensor& x_in, const Tensor& kernel_in, const Tensor& bias_in, int64_t dilation,
                        int64_t padding) {
  STD_TORCH_CHECK(x_in.dim() == 4 && kernel_in.dim() == 3 && kernel_in.size(0) == kernel_in.size(1) &&
                      kernel_in.size(2) == x_in.size(3) && bias_in.dim() == 1 && bias_in.size(0) == x_in.size(3),
                  "expected maps [N, H, W, C], a kernel [k, k, C] and a bias [C]");
  const ScalarType sums = edge_dtype(x_in.scalar_type());
  STD_TORCH_CHECK(kernel_in.scalar_type() == sums && bias_in.scalar_type() == sums,
                  "expected kernel and bias of float32 (float64 for float64 maps)");
  const Tensor x = dense(x_in), kernel = dense(kernel_in), bias = dense(bias_in);
  const int64_t k = kernel.size(0), reach = dilation * (k - 1);
  check_kernel(k, dilation, padding);
  const int64_t out_height = x.size(1) + 2 * padding - reach, out_width = x.size(2) + 2 * padding - reach;
  STD_TORCH_CHECK(out_height > 0 && out_width > 0, "expected maps larger than the kernel");
  Tensor output = new_output(x, {x.size(0), out_height, out_width, x.size(3)}, x.scalar_type());
  if (output.numel() == 0) return output;
  const DepthwisePlan plan{x.const_data_ptr(),
                           kernel.const_data_ptr(),
                           bias.const_data_ptr(),
                           output.mutable_data_ptr(),
                           x.scalar_type(),
                           x.size(0),
                           x.size(1),
                           x.size(2),
                           x.size(3),
                           out_height,
                           out_width,
                           k,
                           dilation,
                           padding};
  const auto row = FAST_RFCN_CHOOSE(depthwise_row);
  with_types(x.scalar_type(), [](auto, auto) {});  // raises an error for other types
  for_each_task(plan.images * out_height, [&](int64_t task) { row(plan, task); });
  return output;
}

static Tensor depthwise_weight_grad(const Tensor& grad_in, const Tensor& x_in, int64_t k, int64_t dilation,
                                    int64_t padding) {
  check_kernel(k, dilation, padding);
  const int64_t reach = dilation * (k - 1) - 2 * padding;
  STD_TORCH_CHECK(grad_in.dim() == 4 && x_in.dim() == 4 && grad_in.size(0) == x_in.size(0) &&
                      grad_in.size(1) == x_in.size(1) - reach && grad_in.size(2) == x_in.size(2) - reach &&
                      grad_in.size(3) == x_in.size(3) && grad_in.scalar_type() == x_in.scalar_type(),
                  "expected maps [N, H, W, C] and a gradient [N, H', W', C] of their convolution, of one dtype");
  const Tensor grad = dense(grad_in), x = dense(x_in);
  Tensor output = new_output(x, {k, k, x.size(3)}, edge_dtype(x.scalar_type()));
  if (output.numel() == 0) return output;
  const DepthwisePlan plan{x.const_data_ptr(),
                           grad.const_data_ptr(),
                           nullptr,
                           output.mutable_data_ptr(),
                           x.scalar_type(),
                           x.size(0),
                           x.size(1),
                           x.size(2),
                           x.size(3),
                           grad.size(1),
                           grad.size(2),
                           k,
                           dilation,
                           padding};
  const auto weights = FAST_RFCN_CHOOSE(depthwise_weights);
  with_types(x.scalar_type(), [&](auto, auto sum) {
    constexpr int64_t block = 128 / static_cast<int64_t>(sizeof(sum));  // channels of a task: kChannels in vector.h
    for_each_task((plan.channels + block - 1) / block, [&](int64_t task) { weights(plan, task); });
  });
  return output;
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CPU, library) {
  library.impl("depthwise", TORCH_BOX(&fast_rfcn::depthwise));
  library.impl("depthwise_weight_grad", TORCH_BOX(&fast_rfcn::depthwise_weight_grad));
}
