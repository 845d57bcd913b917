// Position-sensitive RoI pooling and the vote on CUDA. The classes of a bin share its cells, so pool.cuh reduces a bin
// for a group of classes. The vote pools into a scratch buffer in float32 or better, sorted by bin, class and RoI, and
// averages it; the buffer fits in the L2 cache.

#include "mean_backward.cuh"
#include "pool.cuh"

namespace fast_rfcn {

static void check_score_maps(const Tensor& score_maps, const Tensor& rois, int64_t bins) {
  check_features(score_maps, rois);
  STD_TORCH_CHECK(bins > 0 && score_maps.size(1) % (bins * bins) == 0, "expected D * ", bins, " * ", bins,
                  " channels of score maps, got ", score_maps.size(1));
}

template <typename S, typename Bins>
using MaximumWithPlaces = CellMaximum<S, Bins, true>;
template <typename S, typename Bins>
using MaximumAlone = CellMaximum<S, Bins, false>;

// Fills pooled, and argmax [R, D, k, k] if the reduction has places; neither is empty. Pooled is [R, D, k, k] in the
// dtype of the score maps, or for a vote [k, k, D, R] in the dtype of the sums.
template <template <typename, typename> class Reduction>
static void pool_score_maps(const Device& device, const Tensor& score_maps, const Tensor& rois, int64_t bins,
                            double spatial_scale, Tensor& pooled, Tensor* argmax, bool for_vote) {
  with_storage(score_maps.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const View<S> map(score_maps);
    const int k = static_cast<int>(bins);
    const Reduction<S, PsPoolBins<T>> reduction{{k, map.height(), map.width(), static_cast<T>(spatial_scale)}};
    PoolShape shape{k, k, true, rois.size(0), map.channels() / (bins * bins)};
    const Places places{argmax != nullptr ? argmax->mutable_data_ptr() : nullptr, wide_places(map.cells())};
    if (for_vote) {
      shape.rois_last = true;
      pool<S>(device, score_maps, input<T>(rois), reduction, shape, output<T>(pooled), places);
    } else {
      pool<S>(device, score_maps, input<T>(rois), reduction, shape, output<S>(pooled), places);
    }
  });
}

static std::vector<int64_t> pooled_size(const Tensor& score_maps, const Tensor& rois, int64_t bins) {
  return {rois.size(0), score_maps.size(1) / (bins * bins), bins, bins};
}

static Tensor new_argmax(const Tensor& score_maps, const std::vector<int64_t>& size, bool wanted) {
  const bool wide = wanted && wide_places(score_maps.size(2) * score_maps.size(3));
  return new_output(score_maps, wanted ? size : std::vector<int64_t>{0}, wide ? ScalarType::Int : ScalarType::UInt16);
}

static Tensor ps_roi_pool(const Tensor& score_maps, const Tensor& rois_in, int64_t bins, double spatial_scale) {
  check_score_maps(score_maps, rois_in, bins);
  const Device device(score_maps);
  const Tensor rois = dense(rois_in);
  Tensor pooled = new_output(score_maps, pooled_size(score_maps, rois, bins), score_maps.scalar_type());
  if (score_maps.numel() == 0 || pooled.numel() == 0) {
    device.fill(pooled, 0);
  } else {
    pool_score_maps<CellMean>(device, score_maps, rois, bins, spatial_scale, pooled, nullptr, false);
  }
  return pooled;
}

static std::tuple<Tensor, Tensor> ps_roi_pool_max(const Tensor& score_maps, const Tensor& rois_in, int64_t bins,
                                                  double spatial_scale, bool with_argmax) {
  check_score_maps(score_maps, rois_in, bins);
  const Device device(score_maps);
  const Tensor rois = dense(rois_in);
  const std::vector<int64_t> size = pooled_size(score_maps, rois, bins);
  Tensor pooled = new_output(score_maps, size, score_maps.scalar_type());
  Tensor argmax = new_argmax(score_maps, size, with_argmax);
  if (score_maps.numel() == 0 || pooled.numel() == 0) {
    device.fill(pooled, 0);
    device.fill(argmax, 0xff);
  } else {
    const auto run = with_argmax ? &pool_score_maps<MaximumWithPlaces> : &pool_score_maps<MaximumAlone>;
    run(device, score_maps, rois, bins, spatial_scale, pooled, &argmax, false);
  }
  return {pooled, argmax};
}

static Tensor ps_roi_pool_backward(const Tensor& grad, const Tensor& rois_in, std::vector<int64_t> size,
                                   double spatial_scale) {
  check_gradient(grad, rois_in, size);
  STD_TORCH_CHECK(grad.size(2) == grad.size(3) && grad.size(1) * grad.size(2) * grad.size(3) == size[1],
                  "expected a gradient [R, D, k, k] and a size of D * k * k channels");
  const Device device(grad);
  const Tensor rois = dense(rois_in);
  Tensor total = new_output(grad, size, grad.scalar_type());
  if (total.numel() == 0) return total;
  with_storage(grad.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const PsPoolBins<T> bins{static_cast<int>(grad.size(3)), size[2], size[3], static_cast<T>(spatial_scale)};
    mean_backward<S, true>(device, grad, rois, bins, size, total);
  });
  return total;
}

// Means over the bins of pooled [bins, classes, num_rois]; one class of one RoI per thread.
template <typename S>
__global__ void __launch_bounds__(kItemThreads)
    vote(const Number<S>* __restrict__ pooled, int64_t num_rois, int64_t classes, int64_t bins, S* __restrict__ votes) {
  const int64_t items = classes * num_rois;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kItemThreads) + threadIdx.x; i < items;
       i += static_cast<int64_t>(gridDim.x) * kItemThreads) {
    Number<S> sum = 0;
    for (int64_t bin = 0; bin < bins; ++bin) sum += pooled[bin * items + i];
    votes[i % num_rois * classes + i / num_rois] = from_number<S>(sum / static_cast<Number<S>>(bins));
  }
}

template <template <typename, typename> class Reduction>
static Tensor pool_and_vote(const Device& device, const Tensor& score_maps, const Tensor& rois, int64_t bins,
                            double spatial_scale, Tensor* argmax) {
  const std::vector<int64_t> size = pooled_size(score_maps, rois, bins);
  Tensor votes = new_output(score_maps, {size[0], size[1]}, score_maps.scalar_type());
  if (score_maps.numel() == 0 || votes.numel() == 0) {
    device.fill(votes, 0);
    if (argmax != nullptr) device.fill(*argmax, 0xff);
    return votes;
  }
  Tensor pooled = new_output(score_maps, {bins, bins, size[1], size[0]}, number_dtype(score_maps.scalar_type()));
  pool_score_maps<Reduction>(device, score_maps, rois, bins, spatial_scale, pooled, argmax, true);
  with_storage(score_maps.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    device.launch(&vote<S>, grid_of_items(device, votes.numel()), kItemThreads, 0, input<Number<S>>(pooled), size[0],
                  size[1], bins * bins, output<S>(votes));
  });
  return votes;
}

static Tensor ps_roi_vote(const Tensor& score_maps, const Tensor& rois_in, int64_t bins, double spatial_scale) {
  check_score_maps(score_maps, rois_in, bins);
  const Device device(score_maps);
  return pool_and_vote<CellMean>(device, score_maps, dense(rois_in), bins, spatial_scale, nullptr);
}

static std::tuple<Tensor, Tensor> ps_roi_vote_max(const Tensor& score_maps, const Tensor& rois_in, int64_t bins,
                                                  double spatial_scale, bool with_argmax) {
  check_score_maps(score_maps, rois_in, bins);
  const Device device(score_maps);
  const Tensor rois = dense(rois_in);
  Tensor argmax = new_argmax(score_maps, pooled_size(score_maps, rois, bins), with_argmax);
  const auto run = with_argmax ? &pool_and_vote<MaximumWithPlaces> : &pool_and_vote<MaximumAlone>;
  return {run(device, score_maps, rois, bins, spatial_scale, &argmax), argmax};
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CUDA, library) {
  library.impl("ps_roi_pool", TORCH_BOX(&fast_rfcn::ps_roi_pool));
  library.impl("ps_roi_pool_max", TORCH_BOX(&fast_rfcn::ps_roi_pool_max));
  library.impl("ps_roi_pool_backward", TORCH_BOX(&fast_rfcn::ps_roi_pool_backward));
  library.impl("ps_roi_vote", TORCH_BOX(&fast_rfcn::ps_roi_vote));
  library.impl("ps_roi_vote_max", TORCH_BOX(&fast_rfcn::ps_roi_vote_max));
}
