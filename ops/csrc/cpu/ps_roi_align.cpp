// Position-sensitive RoIAlign on the CPU: see score_maps.h for the plan.

#include "ps_roi_align.h"

#include "instruction_set.h"

#define FAST_RFCN_KERNELS "ps_roi_align_kernels.h"
#include "for_each_instruction_set.h"

namespace fast_rfcn {

static Tensor ps_roi_align(const Tensor& score_maps, const Tensor& rois_in, int64_t k, double spatial_scale,
                           int64_t sampling_ratio) {
  check_score_maps(score_maps, rois_in, k);
  const int64_t num_rois = rois_in.size(0);
  Tensor output = new_output(score_maps, {num_rois, score_maps.size(1) / (k * k), k, k}, score_maps.scalar_type());
  if (score_maps.numel() == 0 || num_rois == 0) return torch::stable::fill_(output, 0);
  const Tensor rois = dense(rois_in);
  with_types(score_maps.scalar_type(), [&](auto, auto number) {
    using T = decltype(number);
    const T* data = static_cast<const T*>(rois.const_data_ptr());
    const MapView map(score_maps);
    const T scale = static_cast<T>(spatial_scale);
    const RoisByImage visits = visiting_order(data, num_rois, map.images, static_cast<int>(k), scale);
    const BinSamples<T> samples(data, visits, map, static_cast<int>(k), scale, sampling_ratio);
    ScorePlan plan{map, score_maps.scalar_type(), static_cast<int>(k), &visits, num_rois, &samples};
    plan.runs = plan.num_bins();
    plan.output = output.mutable_data_ptr();
    run_forward<T>(plan, score_maps,
                   {FAST_RFCN_CHOOSE(regroup), FAST_RFCN_CHOOSE(reduce_samples), FAST_RFCN_CHOOSE(finish_samples)});
  });
  return output;
}

static Tensor ps_roi_align_backward(const Tensor& grad, const Tensor& rois_in, std::vector<int64_t> size,
                                    double spatial_scale, int64_t sampling_ratio) {
  STD_TORCH_CHECK(grad.dim() == 4 && size.size() == 4, "expected a gradient [R, D, k, k] and a size of four");
  Tensor total = new_output(grad, size, grad.scalar_type());
  check_score_maps(total, rois_in, grad.size(3));
  if (total.numel() == 0 || rois_in.size(0) == 0) return torch::stable::fill_(total, 0);
  const Tensor rois = dense(rois_in);
  const BinGradient gradient(grad);
  with_types(grad.scalar_type(), [&](auto, auto number) {
    using T = decltype(number);
    const T* data = static_cast<const T*>(rois.const_data_ptr());
    const int64_t num_rois = rois.size(0);
    const int k = static_cast<int>(grad.size(3));
    const MapView map(total);
    const T scale = static_cast<T>(spatial_scale);
    const RoisByImage visits = visiting_order(data, num_rois, map.images, k, scale);
    const BinSamples<T> samples(data, visits, map, k, scale, sampling_ratio);
    ScorePlan plan{map, grad.scalar_type(), k, &visits, num_rois, &samples};
    plan.runs = gradient.shared ? 1 : plan.num_bins();
    plan.output = gradient.tensor.mutable_data_ptr();
    run_backward<T>(plan, grad, {FAST_RFCN_CHOOSE(pack), FAST_RFCN_CHOOSE(spread_samples)});
  });
  return total;
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CPU, library) {
  library.impl("ps_roi_align", TORCH_BOX(&fast_rfcn::ps_roi_align));
  library.impl("ps_roi_align_backward", TORCH_BOX(&fast_rfcn::ps_roi_align_backward));
}
