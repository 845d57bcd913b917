// RoIAlign (mean and maximum) and RoIWarp on the CPU. As in roi_pool.cpp, one task owns one image and one block of
// channels as a slab [cells][channels] in the L2 cache. A RoI's cells and weights are computed per axis, not per
// channel.

#include "roi_align.h"

#include "instruction_set.h"

#define FAST_RFCN_KERNELS "roi_align_kernels.h"
#include "for_each_instruction_set.h"

namespace fast_rfcn {

using AlignKernel = void (*)(const AlignPlan&, int64_t);

// Runs a kernel on a task for each image and block of channels. `plan` has all values that do not depend on the RoIs.
static void run(AlignPlan plan, const Tensor& rois, AlignKernel kernel, bool merge, bool planes) {
  with_types(plan.dtype, [&](auto, auto number) {
    using T = decltype(number);
    const T* data = static_cast<const T*>(rois.const_data_ptr());
    const RoisByImage by_image(data, rois.size(0), plan.images);
    const TapTable<T> taps =
        make_taps(data, rois.size(0), plan.images, plan.map_height, plan.map_width, plan.options, merge);
    plan.rois = &by_image, plan.taps = &taps, plan.edges = data;
    const int64_t block = planes ? kScatterPlanes : baseline::kChannels<T>;
    for_each_task(plan.images * ((plan.channels + block - 1) / block), [&](int64_t task) { kernel(plan, task); });
  });
}

static AlignPlan reading(const MapView& map, ScalarType dtype, const AlignOptions& options) {
  return {dtype,   options, map.images, map.channels, map.height, map.width, nullptr,
          nullptr, &map,    nullptr,    nullptr,      nullptr,    nullptr,   nullptr};
}

static AlignPlan writing(const std::vector<int64_t>& size, const Tensor& grad, const Tensor& total,
                         const AlignOptions& options) {
  STD_TORCH_CHECK(size.size() == 4 && grad.dim() == 4, "expected a gradient [R, C, height, width] and a size of 4");
  return {grad.scalar_type(),
          options,
          size[0],
          size[1],
          size[2],
          size[3],
          nullptr,
          nullptr,
          nullptr,
          grad.const_data_ptr(),
          nullptr,
          total.mutable_data_ptr(),
          nullptr,
          nullptr};
}

static AlignOptions options_of(int64_t height, int64_t width, double spatial_scale, int64_t sampling_ratio,
                               bool aligned, bool inner) {
  return {static_cast<int>(height), static_cast<int>(width), spatial_scale, sampling_ratio, aligned, inner};
}

static Tensor roi_align(const Tensor& features, const Tensor& rois_in, int64_t height, int64_t width,
                        double spatial_scale, int64_t sampling_ratio, bool aligned, bool inner) {
  check_rois(features, rois_in);
  const Tensor rois = dense(rois_in);
  Tensor pooled = new_output(features, {rois.size(0), features.size(1), height, width}, features.scalar_type());
  if (features.numel() == 0 || pooled.numel() == 0) return torch::stable::fill_(pooled, 0);
  const MapView map(features);
  AlignPlan plan =
      reading(map, features.scalar_type(), options_of(height, width, spatial_scale, sampling_ratio, aligned, inner));
  plan.output = pooled.mutable_data_ptr();
  plan.past_caches = streams(pooled);
  run(plan, rois, FAST_RFCN_CHOOSE(align_mean), true, false);
  return pooled;
}

static Tensor roi_align_backward(const Tensor& grad_in, const Tensor& rois_in, std::vector<int64_t> size,
                                 double spatial_scale, int64_t sampling_ratio, bool aligned, bool inner) {
  const Tensor grad = dense(grad_in), rois = dense(rois_in);
  Tensor total = new_output(grad, size, grad.scalar_type());
  if (total.numel() == 0) return total;
  const AlignPlan plan =
      writing(size, grad, total, options_of(grad.size(2), grad.size(3), spatial_scale, sampling_ratio, aligned, inner));
  run(plan, rois, FAST_RFCN_CHOOSE(align_mean_grad), true, false);
  return total;
}

static std::tuple<Tensor, Tensor> roi_align_max(const Tensor& features, const Tensor& rois_in, int64_t height,
                                                int64_t width, double spatial_scale, int64_t sampling_ratio,
                                                bool aligned, bool inner) {
  check_rois(features, rois_in);
  const Tensor rois = dense(rois_in);
  const std::vector<int64_t> size = {rois.size(0), features.size(1), height, width};
  Tensor pooled = new_output(features, size, features.scalar_type());
  Tensor argmax = new_output(features, size, ScalarType::Int);
  if (features.numel() == 0 || pooled.numel() == 0) {
    torch::stable::fill_(pooled, 0);
    torch::stable::fill_(argmax, -1);
    return {pooled, argmax};
  }
  const MapView map(features);
  AlignPlan plan =
      reading(map, features.scalar_type(), options_of(height, width, spatial_scale, sampling_ratio, aligned, inner));
  plan.output = pooled.mutable_data_ptr();
  plan.argmax = static_cast<int32_t*>(argmax.mutable_data_ptr());
  plan.past_caches = streams(pooled);
  run(plan, rois, FAST_RFCN_CHOOSE(align_max), false, false);
  return {pooled, argmax};
}

static Tensor roi_align_max_scatter(const Tensor& grad_in, const Tensor& rois_in, const Tensor& argmax_in,
                                    std::vector<int64_t> size, double spatial_scale, int64_t sampling_ratio,
                                    bool aligned, bool inner) {
  const Tensor grad = dense(grad_in), rois = dense(rois_in), argmax = dense(argmax_in);
  Tensor total = new_output(grad, size, grad.scalar_type());
  if (total.numel() == 0) return total;
  AlignPlan plan =
      writing(size, grad, total, options_of(grad.size(2), grad.size(3), spatial_scale, sampling_ratio, aligned, inner));
  plan.winner = static_cast<const int32_t*>(argmax.const_data_ptr());
  run(plan, rois, FAST_RFCN_CHOOSE(align_max_scatter), false, true);
  return total;
}

static Tensor roi_align_max_gather(const Tensor& features, const Tensor& rois_in, const Tensor& argmax_in,
                                   double spatial_scale, int64_t sampling_ratio, bool aligned, bool inner) {
  check_rois(features, rois_in);
  const Tensor rois = dense(rois_in), argmax = dense(argmax_in);
  STD_TORCH_CHECK(argmax.dim() == 4 && argmax.size(0) == rois.size(0) && argmax.size(1) == features.size(1),
                  "expected an argmax [R, C, height, width]");
  const int64_t height = argmax.size(2), width = argmax.size(3);
  Tensor picked = new_output(features, {rois.size(0), features.size(1), height, width}, features.scalar_type());
  if (features.numel() == 0 || picked.numel() == 0) return torch::stable::fill_(picked, 0);
  const MapView map(features);
  AlignPlan plan =
      reading(map, features.scalar_type(), options_of(height, width, spatial_scale, sampling_ratio, aligned, inner));
  plan.winner = static_cast<const int32_t*>(argmax.const_data_ptr());
  plan.output = picked.mutable_data_ptr();
  run(plan, rois, FAST_RFCN_CHOOSE(align_max_gather), false, true);
  return picked;
}

static Tensor roi_warp(const Tensor& features, const Tensor& rois, int64_t height, int64_t width,
                       double spatial_scale) {
  return roi_align(features, rois, height, width, spatial_scale, 1, true, false);
}

static std::tuple<Tensor, Tensor> roi_warp_backward(const Tensor& grad_in, const Tensor& features,
                                                    const Tensor& rois_in, double spatial_scale) {
  check_rois(features, rois_in);
  const Tensor grad = dense(grad_in), rois = dense(rois_in);
  const auto size = features.sizes();
  Tensor grad_features =
      roi_align_backward(grad, rois, {size[0], size[1], size[2], size[3]}, spatial_scale, 1, true, false);
  Tensor grad_rois = torch::stable::fill_(new_output(rois, {rois.size(0), kRoiColumns}, rois.scalar_type()), 0);
  if (features.numel() == 0 || grad.numel() == 0) return {grad_features, grad_rois};
  const MapView map(features);
  AlignPlan plan =
      reading(map, features.scalar_type(), options_of(grad.size(2), grad.size(3), spatial_scale, 1, true, false));
  const int64_t num_rois = rois.size(0);
  with_types(features.scalar_type(), [&](auto, auto number) {
    using T = decltype(number);
    const int64_t blocks = (map.channels + baseline::kChannels<T> - 1) / baseline::kChannels<T>;
    std::vector<double> sums(blocks * num_rois * 4);  // one per block of channels, added in order below
    plan.input = grad.const_data_ptr(), plan.output = sums.data();
    run(plan, rois, FAST_RFCN_CHOOSE(warp_rois), true, false);
    T* output = static_cast<T*>(grad_rois.mutable_data_ptr());
    for (int64_t r = 0; r < num_rois; ++r) {
      for (int corner = 0; corner < 4; ++corner) {
        double sum = 0;
        for (int64_t block = 0; block < blocks; ++block) sum += sums[(block * num_rois + r) * 4 + corner];
        output[r * kRoiColumns + kX1 + corner] = static_cast<T>(sum * spatial_scale);
      }
    }
  });
  return {grad_features, grad_rois};
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CPU, library) {
  library.impl("roi_align", TORCH_BOX(&fast_rfcn::roi_align));
  library.impl("roi_align_backward", TORCH_BOX(&fast_rfcn::roi_align_backward));
  library.impl("roi_align_max", TORCH_BOX(&fast_rfcn::roi_align_max));
  library.impl("roi_align_max_scatter", TORCH_BOX(&fast_rfcn::roi_align_max_scatter));
  library.impl("roi_align_max_gather", TORCH_BOX(&fast_rfcn::roi_align_max_gather));
  library.impl("roi_warp", TORCH_BOX(&fast_rfcn::roi_warp));
  library.impl("roi_warp_backward", TORCH_BOX(&fast_rfcn::roi_warp_backward));
}
