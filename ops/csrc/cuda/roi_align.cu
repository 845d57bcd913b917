// RoIAlign (mean and maximum) and RoIWarp on CUDA. pool.cuh reduces the bins. mean_backward.cuh computes the gradient
// of means, scatter.cuh the gradient of maxima.

#include "mean_backward.cuh"
#include "pool.cuh"
#include "scatter.cuh"

namespace fast_rfcn {

struct AlignOptions {
  int64_t height, width;  // bins
  double spatial_scale;
  int64_t sampling_ratio;
  bool aligned, inner;

  template <typename T>
  SampledBins<T> bins(int64_t map_height, int64_t map_width) const {
    return {static_cast<int>(height),      static_cast<int>(width), map_height, map_width,
            static_cast<T>(spatial_scale), sampling_ratio,          aligned,    inner};
  }
};

// Fills pooled, and argmax if the reduction has places; neither is empty.
template <template <typename> class Reduction>
static void align(const Device& device, const Tensor& features, const Tensor& rois, const AlignOptions& options,
                  Tensor& pooled, Tensor* argmax) {
  with_storage(features.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const View<S> map(features);
    pool<S>(device, features, input<T>(rois), Reduction<S>{options.bins<T>(map.height(), map.width())},
            PoolShape{static_cast<int>(options.height), static_cast<int>(options.width), false, rois.size(0),
                      map.channels()},
            output<S>(pooled), Places{argmax != nullptr ? argmax->mutable_data_ptr() : nullptr, true});
  });
}

static Tensor roi_align(const Tensor& features, const Tensor& rois_in, int64_t height, int64_t width,
                        double spatial_scale, int64_t sampling_ratio, bool aligned, bool inner) {
  check_features(features, rois_in);
  const Device device(features);
  const Tensor rois = dense(rois_in);
  Tensor pooled = new_output(features, {rois.size(0), features.size(1), height, width}, features.scalar_type());
  if (features.numel() == 0 || pooled.numel() == 0) {
    device.fill(pooled, 0);
    return pooled;
  }
  const AlignOptions options{height, width, spatial_scale, sampling_ratio, aligned, inner};
  align<SampleMean>(device, features, rois, options, pooled, nullptr);
  return pooled;
}

static Tensor roi_align_backward(const Tensor& grad, const Tensor& rois_in, std::vector<int64_t> size,
                                 double spatial_scale, int64_t sampling_ratio, bool aligned, bool inner) {
  check_gradient(grad, rois_in, size);
  const Device device(grad);
  const Tensor rois = dense(rois_in);
  Tensor total = new_output(grad, size, grad.scalar_type());
  if (total.numel() == 0) return total;
  const AlignOptions options{grad.size(2), grad.size(3), spatial_scale, sampling_ratio, aligned, inner};
  with_storage(grad.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    mean_backward<S, false>(device, grad, rois, options.bins<Number<S>>(size[2], size[3]), size, total);
  });
  return total;
}

static std::tuple<Tensor, Tensor> roi_align_max(const Tensor& features, const Tensor& rois_in, int64_t height,
                                                int64_t width, double spatial_scale, int64_t sampling_ratio,
                                                bool aligned, bool inner) {
  check_features(features, rois_in);
  const Device device(features);
  const Tensor rois = dense(rois_in);
  const std::vector<int64_t> size = {rois.size(0), features.size(1), height, width};
  Tensor pooled = new_output(features, size, features.scalar_type());
  Tensor argmax = new_output(features, size, ScalarType::Int);
  if (features.numel() == 0 || pooled.numel() == 0) {
    device.fill(pooled, 0);
    device.fill(argmax, 0xff);
    return {pooled, argmax};
  }
  const AlignOptions options{height, width, spatial_scale, sampling_ratio, aligned, inner};
  align<SampleMaximum>(device, features, rois, options, pooled, &argmax);
  return {pooled, argmax};
}

// The cells that an output comes from: the four neighbours of its winning sample.
template <typename T>
struct SampleTarget {
  static constexpr int kCorners = 4;
  SampledBins<T> bins;
  const int32_t* winner;

  FAST_RFCN_HD void operator()(const T* roi, int bin, int64_t index, int (&cell)[4], T (&weight)[4]) const {
    const int sample = winner[index];
    const SampleAxis<T> rows = bins.axis(roi, true), columns = bins.axis(roi, false);
    if (sample < 0 || columns.per_bin == 0) return;
    const Neighbours<T> y(rows.at(bin / bins.width, sample / columns.per_bin), bins.map_height);
    const Neighbours<T> x(columns.at(bin % bins.width, sample % columns.per_bin), bins.map_width);
    if (!y.inside || !x.inside) return;
    const int width = static_cast<int>(bins.map_width);
    cell[0] = y.lower * width + x.lower, weight[0] = y.weight_lower * x.weight_lower;
    cell[1] = y.lower * width + x.upper, weight[1] = y.weight_lower * x.weight_upper;
    cell[2] = y.upper * width + x.lower, weight[2] = y.weight_upper * x.weight_lower;
    cell[3] = y.upper * width + x.upper, weight[3] = y.weight_upper * x.weight_upper;
  }
};

static Tensor roi_align_max_scatter(const Tensor& grad_in, const Tensor& rois_in, const Tensor& argmax_in,
                                    std::vector<int64_t> size, double spatial_scale, int64_t sampling_ratio,
                                    bool aligned, bool inner) {
  check_gradient(grad_in, rois_in, size);
  STD_TORCH_CHECK(grad_in.numel() == argmax_in.numel() && argmax_in.scalar_type() == ScalarType::Int,
                  "expected one argmax of int32 for each gradient");
  const Device device(grad_in);
  const Tensor grad = dense(grad_in), rois = dense(rois_in), argmax = dense(argmax_in);
  Tensor total = new_output(grad, size, grad.scalar_type());
  if (total.numel() == 0 || grad.numel() == 0) {
    device.fill(total, 0);
    return total;
  }
  const AlignOptions options{grad.size(2), grad.size(3), spatial_scale, sampling_ratio, aligned, inner};
  with_storage(grad.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const SampleTarget<T> targets{options.bins<T>(size[2], size[3]), input<int32_t>(argmax)};
    scatter<S>(device, grad, rois, targets, size, grad.size(2) * grad.size(3), total);
  });
  return total;
}

template <typename S>
__global__ void __launch_bounds__(kItemThreads)
    gather_samples(const View<S> map, const Number<S>* __restrict__ rois, const SampleTarget<Number<S>> targets,
                   int64_t items, int64_t channels, int64_t bins, S* __restrict__ picked) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kItemThreads) + threadIdx.x; i < items;
       i += static_cast<int64_t>(gridDim.x) * kItemThreads) {
    const int64_t plane = i / bins, roi = plane / channels, channel = plane % channels;
    const int64_t image = image_of(rois + roi * kRoiColumns, map.images());
    int cell[4] = {-1, -1, -1, -1};
    Number<S> weight[4] = {}, value = 0;
    if (image >= 0) targets(rois + roi * kRoiColumns, static_cast<int>(i % bins), i, cell, weight);
    const int width = static_cast<int>(map.width());
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (cell[c] < 0) continue;
      value += weight[c] * to_number(map.data[image * map.stride[0] + channel * map.stride[1] +
                                              cell[c] / width * map.stride[2] + cell[c] % width * map.stride[3]]);
    }
    picked[i] = from_number<S>(value);
  }
}

static Tensor roi_align_max_gather(const Tensor& features, const Tensor& rois_in, const Tensor& argmax_in,
                                   double spatial_scale, int64_t sampling_ratio, bool aligned, bool inner) {
  check_features(features, rois_in);
  STD_TORCH_CHECK(argmax_in.dim() == 4 && argmax_in.size(0) == rois_in.size(0) &&
                      argmax_in.size(1) == features.size(1) && argmax_in.scalar_type() == ScalarType::Int,
                  "expected an argmax [R, C, height, width] of int32");
  const Device device(features);
  const Tensor rois = dense(rois_in), argmax = dense(argmax_in);
  const std::vector<int64_t> size = {argmax.size(0), argmax.size(1), argmax.size(2), argmax.size(3)};
  Tensor picked = new_output(features, size, features.scalar_type());
  if (features.numel() == 0 || picked.numel() == 0) {
    device.fill(picked, 0);
    return picked;
  }
  const AlignOptions options{size[2], size[3], spatial_scale, sampling_ratio, aligned, inner};
  with_storage(features.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const View<S> map(features);
    const SampleTarget<T> targets{options.bins<T>(map.height(), map.width()), input<int32_t>(argmax)};
    device.launch(&gather_samples<S>, grid_of_items(device, picked.numel()), kItemThreads, 0, map, input<T>(rois),
                  targets, picked.numel(), size[1], size[2] * size[3], output<S>(picked));
  });
  return picked;
}

static Tensor roi_warp(const Tensor& features, const Tensor& rois, int64_t height, int64_t width,
                       double spatial_scale) {
  return roi_align(features, rois, height, width, spatial_scale, 1, true, false);
}

constexpr int kWarpThreads = 256;

// Gradient of the coordinates of one RoI: a block sums over the RoI's outputs, in a fixed order.
template <typename S>
__global__ void __launch_bounds__(kWarpThreads)
    warp_corners(const View<S> grad, const View<S> map, const Number<S>* __restrict__ rois,
                 const SampledBins<Number<S>> bins, Number<S>* __restrict__ grad_rois) {
  using T = Number<S>;
  __shared__ double sums[4][kWarpThreads];
  const T* roi = rois + static_cast<int64_t>(blockIdx.x) * kRoiColumns;
  const int64_t image = image_of(roi, map.images());
  const SampleAxis<T> rows = bins.axis(roi, true), columns = bins.axis(roi, false);
  double x1 = 0, y1 = 0, x2 = 0, y2 = 0;
  const int64_t num_bins = static_cast<int64_t>(bins.height) * bins.width;
  const int64_t items = image < 0 ? 0 : grad.channels() * num_bins;
  for (int64_t i = threadIdx.x; i < items; i += kWarpThreads) {
    const int64_t channel = i / num_bins;
    const int bin = static_cast<int>(i % num_bins), p = bin / bins.width, q = bin % bins.width;
    const Neighbours<T> y(rows.at(p, 0), bins.map_height), x(columns.at(q, 0), bins.map_width);
    if (!y.inside || !x.inside) continue;
    const S* plane = map.data + image * map.stride[0] + channel * map.stride[1];
    const S *upper_row = plane + y.lower * map.stride[2], *lower_row = plane + y.upper * map.stride[2];
    const T top_left = to_number(upper_row[x.lower * map.stride[3]]);
    const T top_right = to_number(upper_row[x.upper * map.stride[3]]);
    const T bottom_left = to_number(lower_row[x.lower * map.stride[3]]);
    const T bottom_right = to_number(lower_row[x.upper * map.stride[3]]);
    const T given = to_number(
        grad.data[blockIdx.x * grad.stride[0] + channel * grad.stride[1] + p * grad.stride[2] + q * grad.stride[3]]);
    // A sample that is clamped to the border does not move with its position. A sample at fraction f from the first
    // corner moves by 1 - f per unit of the first corner and by f per unit of the second.
    const T down =
        !y.follows ? 0
                   : given * (x.weight_lower * (bottom_left - top_left) + x.weight_upper * (bottom_right - top_right));
    const T across =
        !x.follows ? 0
                   : given * (y.weight_lower * (top_right - top_left) + y.weight_upper * (bottom_right - bottom_left));
    const T part_down = (static_cast<T>(p) + static_cast<T>(0.5)) / static_cast<T>(bins.height);
    const T part_across = (static_cast<T>(q) + static_cast<T>(0.5)) / static_cast<T>(bins.width);
    x1 += across * (1 - part_across), x2 += across * part_across;
    y1 += down * (1 - part_down), y2 += down * part_down;
  }
  sums[0][threadIdx.x] = x1, sums[1][threadIdx.x] = y1, sums[2][threadIdx.x] = x2, sums[3][threadIdx.x] = y2;
  __syncthreads();
  for (int half = kWarpThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) {
      for (int corner = 0; corner < 4; ++corner) sums[corner][threadIdx.x] += sums[corner][threadIdx.x + half];
    }
    __syncthreads();
  }
  if (threadIdx.x < kRoiColumns) {
    const double sum = threadIdx.x == kImage ? 0 : sums[threadIdx.x - kX1][0] * static_cast<double>(bins.scale);
    grad_rois[static_cast<int64_t>(blockIdx.x) * kRoiColumns + threadIdx.x] = static_cast<T>(sum);
  }
}

static std::tuple<Tensor, Tensor> roi_warp_backward(const Tensor& grad, const Tensor& features, const Tensor& rois_in,
                                                    double spatial_scale) {
  check_features(features, rois_in);
  STD_TORCH_CHECK(grad.scalar_type() == features.scalar_type(), "expected a gradient of the dtype of the features");
  const Tensor rois = dense(rois_in);
  Tensor grad_features =
      roi_align_backward(grad, rois, {features.size(0), features.size(1), features.size(2), features.size(3)},
                         spatial_scale, 1, true, false);
  const Device device(features);
  Tensor grad_rois = new_output(rois, {rois.size(0), kRoiColumns}, rois.scalar_type());
  if (features.numel() == 0 || grad.numel() == 0) {
    device.fill(grad_rois, 0);
    return {grad_features, grad_rois};
  }
  const AlignOptions options{grad.size(2), grad.size(3), spatial_scale, 1, true, false};
  with_storage(features.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const View<S> map(features);
    device.launch(&warp_corners<S>, grid_of(rois.size(0)), kWarpThreads, 0, View<S>(grad), map, input<T>(rois),
                  options.bins<T>(map.height(), map.width()), output<T>(grad_rois));
  });
  return {grad_features, grad_rois};
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CUDA, library) {
  library.impl("roi_align", TORCH_BOX(&fast_rfcn::roi_align));
  library.impl("roi_align_backward", TORCH_BOX(&fast_rfcn::roi_align_backward));
  library.impl("roi_align_max", TORCH_BOX(&fast_rfcn::roi_align_max));
  library.impl("roi_align_max_scatter", TORCH_BOX(&fast_rfcn::roi_align_max_scatter));
  library.impl("roi_align_max_gather", TORCH_BOX(&fast_rfcn::roi_align_max_gather));
  library.impl("roi_warp", TORCH_BOX(&fast_rfcn::roi_warp));
  library.impl("roi_warp_backward", TORCH_BOX(&fast_rfcn::roi_warp_backward));
}
