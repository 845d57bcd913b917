// Deformable position-sensitive RoI pooling on the CPU: see deform_ps_roi_pool.h for the plan.

#include "deform_ps_roi_pool.h"

#include <optional>

#include "instruction_set.h"

#define FAST_RFCN_KERNELS "deform_ps_roi_pool_kernels.h"
#include "for_each_instruction_set.h"

namespace fast_rfcn {

static void check_offsets(const std::optional<Tensor>& offsets, const Tensor& rois, int64_t classes, int64_t k) {
  if (!offsets) return;
  STD_TORCH_CHECK(offsets->dim() == 4 && offsets->size(0) == rois.size(0) && offsets->size(1) >= 2 &&
                      offsets->size(1) % 2 == 0 && classes % (offsets->size(1) / 2) == 0 && offsets->size(2) == k &&
                      offsets->size(3) == k && offsets->is_cpu(),
                  "expected offsets [R, 2 * G, k, k] on the CPU, where G divides the number of classes");
  STD_TORCH_CHECK(offsets->scalar_type() == rois.scalar_type(), "expected offsets of the dtype of the rois, got ",
                  toString(offsets->scalar_type()));
}

static void check_maps(const Tensor& score_maps, const Tensor& rois, int64_t k, int64_t samples) {
  check_rois(score_maps, rois);
  STD_TORCH_CHECK(k > 0 && score_maps.size(1) % (k * k) == 0, "expected D * k * k channels of score maps");
  STD_TORCH_CHECK(samples > 0, "expected at least one sample per bin and axis");
}

// The plan of a call; `rois` and `offsets` are dense.
static DeformPlan plan_of(const Tensor& score_maps, const Tensor& rois, const std::optional<Tensor>& offsets, int64_t k,
                          double spatial_scale, double offset_scale, int64_t samples) {
  return {MapView(score_maps),   score_maps.scalar_type(),
          rois.const_data_ptr(), offsets ? offsets->const_data_ptr() : nullptr,
          rois.size(0),          offsets ? offsets->size(1) / 2 : 1,
          static_cast<int>(k),   static_cast<int>(samples),
          spatial_scale,         offset_scale};
}

static std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(dense(*tensor)) : std::nullopt;
}

static Tensor deform_ps_roi_pool(const Tensor& score_maps, const Tensor& rois_in, std::optional<Tensor> offsets_in,
                                 int64_t k, double spatial_scale, double offset_scale, int64_t samples) {
  check_maps(score_maps, rois_in, k, samples);
  const int64_t num_rois = rois_in.size(0), classes = score_maps.size(1) / (k * k);
  check_offsets(offsets_in, rois_in, classes, k);
  Tensor output = new_output(score_maps, {num_rois, classes, k, k}, score_maps.scalar_type());
  if (score_maps.numel() == 0 || num_rois == 0) return torch::stable::fill_(output, 0);
  const Tensor rois = dense(rois_in);
  const std::optional<Tensor> offsets = dense(offsets_in);
  DeformPlan plan = plan_of(score_maps, rois, offsets, k, spatial_scale, offset_scale, samples);
  plan.output = output.mutable_data_ptr();
  for_each_task(num_rois, [&, kernel = FAST_RFCN_CHOOSE(deform_pool)](int64_t task) { kernel(plan, task); });
  return output;
}

static Tensor deform_ps_roi_pool_backward(const Tensor& grad_in, const Tensor& rois_in,
                                          std::optional<Tensor> offsets_in, std::vector<int64_t> size,
                                          double spatial_scale, double offset_scale, int64_t samples) {
  STD_TORCH_CHECK(grad_in.dim() == 4 && size.size() == 4, "expected a gradient [R, D, k, k] and a size of four");
  const int64_t k = grad_in.size(3);
  Tensor total = new_output(grad_in, size, grad_in.scalar_type());
  check_maps(total, rois_in, k, samples);
  STD_TORCH_CHECK(grad_in.size(0) == rois_in.size(0) && grad_in.size(1) * k * k == size[1] && grad_in.size(2) == k,
                  "expected a gradient [R, D, k, k] and a size of D * k * k channels");
  check_offsets(offsets_in, rois_in, grad_in.size(1), k);
  if (total.numel() == 0 || rois_in.size(0) == 0) return torch::stable::fill_(total, 0);
  const Tensor grad = dense(grad_in), rois = dense(rois_in);
  const std::optional<Tensor> offsets = dense(offsets_in);
  DeformPlan plan = plan_of(total, rois, offsets, k, spatial_scale, offset_scale, samples);
  plan.grad = grad.const_data_ptr();
  with_types(grad.scalar_type(), [&](auto, auto zero) {
    using T = decltype(zero);
    const RoisByImage by_image(static_cast<const T*>(plan.rois), plan.num_rois, plan.map.images);
    plan.by_image = &by_image;
    for_each_task(plan.map.images * plan.map.channels,
                  [&, kernel = FAST_RFCN_CHOOSE(deform_spread)](int64_t task) { kernel(plan, task); });
  });
  return total;
}

static Tensor deform_ps_roi_pool_offset_grad(const Tensor& grad_in, const Tensor& score_maps, const Tensor& rois_in,
                                             const Tensor& offsets_in, double spatial_scale, double offset_scale,
                                             int64_t samples) {
  STD_TORCH_CHECK(grad_in.dim() == 4 && grad_in.scalar_type() == score_maps.scalar_type(),
                  "expected a gradient [R, D, k, k] of the dtype of the score maps");
  const int64_t k = grad_in.size(3);
  check_maps(score_maps, rois_in, k, samples);
  STD_TORCH_CHECK(grad_in.size(0) == rois_in.size(0) && grad_in.size(1) * k * k == score_maps.size(1) &&
                      grad_in.size(2) == k && grad_in.is_cpu(),
                  "expected a gradient [R, D, k, k] of score maps with D * k * k channels");
  const std::optional<Tensor> offsets(dense(offsets_in));
  check_offsets(offsets, rois_in, grad_in.size(1), k);
  Tensor output = new_output(*offsets, {offsets->size(0), offsets->size(1), k, k}, offsets->scalar_type());
  if (score_maps.numel() == 0 || output.numel() == 0) return torch::stable::fill_(output, 0);
  const Tensor grad = dense(grad_in), rois = dense(rois_in);
  DeformPlan plan = plan_of(score_maps, rois, offsets, k, spatial_scale, offset_scale, samples);
  plan.grad = grad.const_data_ptr();
  plan.output = output.mutable_data_ptr();
  for_each_task(plan.num_rois, [&, kernel = FAST_RFCN_CHOOSE(deform_move)](int64_t task) { kernel(plan, task); });
  return output;
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CPU, library) {
  library.impl("deform_ps_roi_pool", TORCH_BOX(&fast_rfcn::deform_ps_roi_pool));
  library.impl("deform_ps_roi_pool_backward", TORCH_BOX(&fast_rfcn::deform_ps_roi_pool_backward));
  library.impl("deform_ps_roi_pool_offset_grad", TORCH_BOX(&fast_rfcn::deform_ps_roi_pool_offset_grad));
}
