// Depthwise convolution on the CPU: see depthwise.h.

#include "depthwise.h"

#include <type_traits>

#include "instruction_set.h"

#define FAST_RFCN_KERNELS "depthwise_kernels.h"
#include "for_each_instruction_set.h"

namespace fast_rfcn {

constexpr auto kChannelsLast = torch::headeronly::MemoryFormat::ChannelsLast;

static Tensor channels_last(const Tensor& maps) { return torch::stable::contiguous(maps, kChannelsLast); }

// New channels-last maps of the dtype of `like`.
static Tensor new_maps(const Tensor& like, const std::vector<int64_t>& size) {
  return with_large_pages(torch::stable::empty(size, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                                               kChannelsLast));
}

// Strides, dilation and padding are the same on both axes.
struct Steps {
  int64_t k, stride, dilation, padding;

  // The number of outputs along a side of `cells` cells.
  int64_t outputs(int64_t cells) const {
    const int64_t last = cells + 2 * padding - dilation * (k - 1) - 1;
    return last < 0 ? 0 : last / stride + 1;
  }

  std::vector<int64_t> output_size(const std::vector<int64_t>& maps) const {
    return {maps[0], maps[1], outputs(maps[2]), outputs(maps[3])};
  }
};

static std::vector<int64_t> size_of(const Tensor& maps) {
  return {maps.size(0), maps.size(1), maps.size(2), maps.size(3)};
}

static void check_steps(const Steps& steps) {
  STD_TORCH_CHECK(steps.k % 2 == 1 && steps.k > 0 && steps.k <= kLargestKernel && steps.stride > 0 &&
                      steps.dilation > 0 && steps.padding >= 0,
                  "expected a kernel of 1, 3, 5 or 7 cells a side, a stride and a dilation of 1 or more and a padding "
                  "of 0 or more");
}

static void check_grad(const Tensor& grad, const std::vector<int64_t>& maps, const Steps& steps) {
  STD_TORCH_CHECK(maps.size() == 4 && grad.dim() == 4 && size_of(grad) == steps.output_size(maps),
                  "expected a gradient [N, C, H', W'] of the convolution of maps [N, C, H, W]");
}

static DepthwisePlan plan_of(const Tensor& x, const Tensor& output_or_grad, const Steps& steps) {
  DepthwisePlan plan{};
  plan.x = x.const_data_ptr();
  plan.dtype = x.scalar_type();
  plan.images = x.size(0), plan.channels = x.size(1), plan.height = x.size(2), plan.width = x.size(3);
  plan.out_height = output_or_grad.size(2), plan.out_width = output_or_grad.size(3);
  plan.k = steps.k, plan.stride = steps.stride, plan.dilation = steps.dilation, plan.padding = steps.padding;
  return plan;
}

// Convolves x into the output. Without a bias, x is the gradient of a convolution and the output that of its maps.
static void convolve(const Tensor& x_in, const Tensor& kernel_in, const Tensor* bias_in, const Steps& steps,
                     const Tensor& output) {
  const ScalarType sums = edge_dtype(x_in.scalar_type());
  const bool transposed = bias_in == nullptr;
  STD_TORCH_CHECK(kernel_in.scalar_type() == sums && (transposed || bias_in->scalar_type() == sums),
                  "expected kernel and bias of float32 (float64 for float64 maps)");
  const Tensor x = channels_last(x_in), kernel = dense(kernel_in);
  const Tensor bias = transposed ? torch::stable::fill_(new_output(kernel, {x.size(1)}, sums), 0) : dense(*bias_in);
  DepthwisePlan plan = plan_of(x, output, steps);
  plan.kernel = kernel.const_data_ptr(), plan.bias = bias.const_data_ptr(), plan.output = output.mutable_data_ptr();
  plan.transposed = transposed;
  const auto row = FAST_RFCN_CHOOSE(depthwise_row);
  with_types(x.scalar_type(), [](auto, auto) {});  // raises an error for other types
  for_each_task(plan.images * plan.out_height, [&](int64_t task) { row(plan, task); });
}

static Tensor depthwise(const Tensor& x, const Tensor& kernel, const Tensor& bias, int64_t stride, int64_t dilation,
                        int64_t padding) {
  STD_TORCH_CHECK(x.dim() == 4 && kernel.dim() == 3 && kernel.size(0) == kernel.size(1) &&
                      kernel.size(2) == x.size(1) && bias.dim() == 1 && bias.size(0) == x.size(1),
                  "expected maps [N, C, H, W], a kernel [k, k, C] and a bias [C]");
  const Steps steps{kernel.size(0), stride, dilation, padding};
  check_steps(steps);
  const std::vector<int64_t> size = steps.output_size(size_of(x));
  STD_TORCH_CHECK(size[2] > 0 && size[3] > 0, "expected maps larger than the kernel");
  Tensor output = new_maps(x, size);
  if (output.numel() > 0) convolve(x, kernel, &bias, steps, output);
  return output;
}

static Tensor depthwise_input_grad(const Tensor& grad, const Tensor& kernel, std::vector<int64_t> size, int64_t stride,
                                   int64_t dilation, int64_t padding) {
  STD_TORCH_CHECK(size.size() == 4 && kernel.dim() == 3 && kernel.size(0) == kernel.size(1) && kernel.size(2) == size[1],
                  "expected a size [N, C, H, W] and a kernel [k, k, C]");
  const Steps steps{kernel.size(0), stride, dilation, padding};
  check_steps(steps);
  check_grad(grad, size, steps);
  Tensor output = new_maps(grad, size);
  if (output.numel() > 0) convolve(grad, kernel, nullptr, steps, output);
  return output;
}

static Tensor depthwise_weight_grad(const Tensor& grad_in, const Tensor& x_in, int64_t k, int64_t stride,
                                    int64_t dilation, int64_t padding) {
  const Steps steps{k, stride, dilation, padding};
  check_steps(steps);
  STD_TORCH_CHECK(x_in.dim() == 4 && grad_in.scalar_type() == x_in.scalar_type(),
                  "expected maps [N, C, H, W] and a gradient of one dtype");
  check_grad(grad_in, size_of(x_in), steps);
  const Tensor grad = channels_last(grad_in), x = channels_last(x_in);
  Tensor output = new_output(x, {k, k, x.size(1)}, edge_dtype(x.scalar_type()));
  if (output.numel() == 0) return output;
  DepthwisePlan plan = plan_of(x, grad, steps);
  plan.kernel = grad.const_data_ptr(), plan.output = output.mutable_data_ptr();
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
  library.impl("depthwise_input_grad", TORCH_BOX(&fast_rfcn::depthwise_input_grad));
  library.impl("depthwise_weight_grad", TORCH_BOX(&fast_rfcn::depthwise_weight_grad));
}
