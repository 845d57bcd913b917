// Position-sensitive RoI pooling and voting on the CPU: see score_maps.h for the plan.

#include "ps_roi_pool.h"

#include "instruction_set.h"

#define FAST_RFCN_KERNELS "ps_roi_pool_kernels.h"
#include "for_each_instruction_set.h"

namespace fast_rfcn {

// Fills `output` ([R, D, k, k], or [R, D] for votes), and `argmax` unless it is null.
static void pool(const Tensor& score_maps, const Tensor& rois_in, int64_t k, double spatial_scale, const Tensor& output,
                 const Tensor* argmax, ScoreKernels kernels) {
  const Tensor rois = dense(rois_in);
  with_types(score_maps.scalar_type(), [&](auto, auto number) {
    using T = decltype(number);
    const T* data = static_cast<const T*>(rois.const_data_ptr());
    const int64_t num_rois = rois.size(0);
    const MapView map(score_maps);
    const T scale = static_cast<T>(spatial_scale);
    const RoisByImage visits = visiting_order(data, num_rois, map.images, static_cast<int>(k), scale);
    const BinSpans bins(data, visits, map, static_cast<int>(k), scale);
    ScorePlan plan{map, score_maps.scalar_type(), static_cast<int>(k), &visits, num_rois, &bins};
    plan.runs = output.dim() == 2 ? smaller(kVoteRuns, k * k) : k * k;
    plan.output = output.mutable_data_ptr();
    plan.argmax = argmax == nullptr ? nullptr : argmax->mutable_data_ptr();
    plan.wide_argmax = argmax != nullptr && argmax->scalar_type() == ScalarType::Int;
    run_forward<T>(plan, score_maps, kernels);
  });
}

static ScoreKernels mean_kernels(bool vote) {
  return {FAST_RFCN_CHOOSE(regroup), FAST_RFCN_CHOOSE(reduce_mean),
          vote ? FAST_RFCN_CHOOSE(finish_votes) : FAST_RFCN_CHOOSE(finish_bins)};
}

static ScoreKernels max_kernels(bool vote) {
  return {FAST_RFCN_CHOOSE(regroup), FAST_RFCN_CHOOSE(reduce_max),
          vote ? FAST_RFCN_CHOOSE(finish_votes) : FAST_RFCN_CHOOSE(finish_bins)};
}

static bool nothing_to_read(const Tensor& score_maps, const Tensor& rois) {
  return score_maps.numel() == 0 || rois.size(0) == 0;
}

static Tensor mean(const Tensor& score_maps, const Tensor& rois, int64_t k, double spatial_scale, bool vote) {
  check_score_maps(score_maps, rois, k);
  std::vector<int64_t> size = {rois.size(0), score_maps.size(1) / (k * k)};
  if (!vote) size.insert(size.end(), {k, k});
  Tensor output = new_output(score_maps, size, score_maps.scalar_type());
  if (nothing_to_read(score_maps, rois)) return torch::stable::fill_(output, 0);
  pool(score_maps, rois, k, spatial_scale, output, nullptr, mean_kernels(vote));
  return output;
}

static std::tuple<Tensor, Tensor> max(const Tensor& score_maps, const Tensor& rois, int64_t k, double spatial_scale,
                                      bool vote, bool with_argmax) {
  check_score_maps(score_maps, rois, k);
  const std::vector<int64_t> bins = {rois.size(0), score_maps.size(1) / (k * k), k, k};
  const std::vector<int64_t> votes(bins.begin(), bins.begin() + 2);
  const bool wide = score_maps.size(2) * score_maps.size(3) >= kNarrowCells;
  Tensor output = new_output(score_maps, vote ? votes : bins, score_maps.scalar_type());
  Tensor argmax = new_output(score_maps, with_argmax ? bins : std::vector<int64_t>{0},
                             wide && with_argmax ? ScalarType::Int : ScalarType::UInt16);
  if (nothing_to_read(score_maps, rois)) {
    torch::stable::fill_(output, 0);
    torch::stable::fill_(argmax, wide ? -1 : kNarrowCells);
  } else {
    pool(score_maps, rois, k, spatial_scale, output, with_argmax ? &argmax : nullptr, max_kernels(vote));
  }
  return {output, argmax};
}

static Tensor ps_roi_pool(const Tensor& score_maps, const Tensor& rois, int64_t k, double spatial_scale) {
  return mean(score_maps, rois, k, spatial_scale, false);
}

static Tensor ps_roi_vote(const Tensor& score_maps, const Tensor& rois, int64_t k, double spatial_scale) {
  return mean(score_maps, rois, k, spatial_scale, true);
}

static std::tuple<Tensor, Tensor> ps_roi_pool_max(const Tensor& score_maps, const Tensor& rois, int64_t k,
                                                  double spatial_scale, bool with_argmax) {
  return max(score_maps, rois, k, spatial_scale, false, with_argmax);
}

static std::tuple<Tensor, Tensor> ps_roi_vote_max(const Tensor& score_maps, const Tensor& rois, int64_t k,
                                                  double spatial_scale, bool with_argmax) {
  return max(score_maps, rois, k, spatial_scale, true, with_argmax);
}

static Tensor ps_roi_pool_backward(const Tensor& grad, const Tensor& rois_in, std::vector<int64_t> size,
                                   double spatial_scale) {
  STD_TORCH_CHECK(grad.dim() == 4 && size.size() == 4, "expected a gradient [R, D, k, k] and a size of four");
  Tensor total = new_output(grad, size, grad.scalar_type());
  check_score_maps(total, rois_in, grad.size(3));
  if (nothing_to_read(total, rois_in)) return torch::stable::fill_(total, 0);
  const Tensor rois = dense(rois_in);
  const BinGradient gradient(grad);
  with_types(grad.scalar_type(), [&](auto, auto number) {
    using T = decltype(number);
    const T* data = static_cast<const T*>(rois.const_data_ptr());
    const int k = static_cast<int>(grad.size(3));
    const MapView map(total);
    const T scale = static_cast<T>(spatial_scale);
    const RoisByImage visits = visiting_order(data, rois.size(0), map.images, k, scale);
    const BinSpans bins(data, visits, map, k, scale);
    ScorePlan plan{map, grad.scalar_type(), k, &visits, rois.size(0), &bins};
    plan.runs = gradient.shared ? 1 : plan.num_bins();
    plan.output = gradient.tensor.mutable_data_ptr();
    run_backward<T>(plan, grad, {FAST_RFCN_CHOOSE(pack), FAST_RFCN_CHOOSE(spread_mean)});
  });
  return total;
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CPU, library) {
  library.impl("ps_roi_pool", TORCH_BOX(&fast_rfcn::ps_roi_pool));
  library.impl("ps_roi_pool_max", TORCH_BOX(&fast_rfcn::ps_roi_pool_max));
  library.impl("ps_roi_pool_backward", TORCH_BOX(&fast_rfcn::ps_roi_pool_backward));
  library.impl("ps_roi_vote", TORCH_BOX(&fast_rfcn::ps_roi_vote));
  library.impl("ps_roi_vote_max", TORCH_BOX(&fast_rfcn::ps_roi_vote_max));
}
