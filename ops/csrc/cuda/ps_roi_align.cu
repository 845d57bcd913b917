// Position-sensitive RoIAlign on CUDA: the samples of RoIAlign (aligned, at centres); each bin has its own maps.

#include "mean_backward.cuh"
#include "pool.cuh"

namespace fast_rfcn {

template <typename T>
static SampledBins<T> sampled_bins(int64_t bins, int64_t map_height, int64_t map_width, double spatial_scale,
                                   int64_t sampling_ratio) {
  const int k = static_cast<int>(bins);
  return {k, k, map_height, map_width, static_cast<T>(spatial_scale), sampling_ratio, true, false};
}

static Tensor ps_roi_align(const Tensor& score_maps, const Tensor& rois_in, int64_t bins, double spatial_scale,
                           int64_t sampling_ratio) {
  check_features(score_maps, rois_in);
  STD_TORCH_CHECK(bins > 0 && score_maps.size(1) % (bins * bins) == 0, "expected D * ", bins, " * ", bins,
                  " channels of score maps, got ", score_maps.size(1));
  const Device device(score_maps);
  const Tensor rois = dense(rois_in);
  const int64_t classes = score_maps.size(1) / (bins * bins);
  Tensor pooled = new_output(score_maps, {rois.size(0), classes, bins, bins}, score_maps.scalar_type());
  if (score_maps.numel() == 0 || pooled.numel() == 0) {
    device.fill(pooled, 0);
    return pooled;
  }
  with_storage(score_maps.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const View<S> map(score_maps);
    const int k = static_cast<int>(bins);
    pool<S>(device, score_maps, input<T>(rois),
            SampleMean<S>{sampled_bins<T>(bins, map.height(), map.width(), spatial_scale, sampling_ratio)},
            PoolShape{k, k, true, rois.size(0), classes}, output<S>(pooled), Places{nullptr, false});
  });
  return pooled;
}

static Tensor ps_roi_align_backward(const Tensor& grad, const Tensor& rois_in, std::vector<int64_t> size,
                                    double spatial_scale, int64_t sampling_ratio) {
  check_gradient(grad, rois_in, size);
  STD_TORCH_CHECK(grad.size(2) == grad.size(3) && grad.size(1) * grad.size(2) * grad.size(3) == size[1],
                  "expected a gradient [R, D, k, k] and a size of D * k * k channels");
  const Device device(grad);
  const Tensor rois = dense(rois_in);
  Tensor total = new_output(grad, size, grad.scalar_type());
  if (total.numel() == 0) return total;
  with_storage(grad.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    mean_backward<S, true>(device, grad, rois,
                           sampled_bins<Number<S>>(grad.size(3), size[2], size[3], spatial_scale, sampling_ratio), size,
                           total);
  });
  return total;
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CUDA, library) {
  library.impl("ps_roi_align", TORCH_BOX(&fast_rfcn::ps_roi_align));
  library.impl("ps_roi_align_backward", TORCH_BOX(&fast_rfcn::ps_roi_align_backward));
}
