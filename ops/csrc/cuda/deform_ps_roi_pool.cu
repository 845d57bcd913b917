// Deformable position-sensitive RoI pooling on CUDA. Every offset may differ, so no bins share the cells that they
// read: a thread computes one output, or the gradient of one offset. For the gradient of the score maps, a block owns a
// tile of cells of one plane and sums over the RoIs that touch the tile. Each sum has a fixed order, without atomics,
// so every run gives the same bits.

#include "../ps_rois.h"
#include "tensors.cuh"

namespace fast_rfcn {

constexpr int kDeformTileWidth = 32, kDeformTileHeight = 8;
constexpr int kDeformTileThreads = kDeformTileWidth * kDeformTileHeight;

// The samples of one bin of one RoI along one axis.
template <typename T>
struct DeformSamples {
  DeformAxis<T> axis;
  T first;  // position of the first sample

  __device__ T at(int sample) const { return axis.at(first, sample); }
};

// The options of a call, and the samples of every bin.
template <typename T>
struct DeformBins {
  const T* rois;
  const T* offsets;  // [R, 2 * groups, k, k], or null
  int64_t groups, per_group;
  int k, samples;
  int64_t images, map_height, map_width;
  T scale, offset_scale;

  __host__ __device__ int64_t bins() const { return static_cast<int64_t>(k) * k; }
  __device__ int64_t image(int64_t roi) const { return image_of(rois + roi * kRoiColumns, images); }
  // 0 without offsets.
  __device__ T offset(int64_t roi, int64_t group, bool down, int64_t bin) const {
    return offsets == nullptr ? static_cast<T>(0) : offsets[((roi * groups + group) * 2 + down) * bins() + bin];
  }
  __device__ DeformSamples<T> along(int64_t roi, int64_t group, bool down, int64_t bin) const {
    const T* box = rois + roi * kRoiColumns;
    const DeformAxis<T> axis(box[down ? kY1 : kX1], box[down ? kY2 : kX2], scale, k, samples);
    const T shift = offset(roi, group, down, bin) * offset_scale;
    return {axis, axis.first(static_cast<int>(down ? bin / k : bin % k), shift)};
  }
};

// Calls f(y, x) with the cells of each sample on the map, row by row. Returns the number of these samples.
template <typename T, typename F>
__device__ __forceinline__ int for_each_sample(const DeformBins<T>& bins, const DeformSamples<T>& rows,
                                               const DeformSamples<T>& columns, const F& f) {
  int count = 0;
  for (int i = 0; i < bins.samples; ++i) {
    const T y = rows.at(i);
    if (!rows.axis.on_map(y, bins.map_height)) continue;
    const Neighbours<T> near_y(y, bins.map_height);
    for (int j = 0; j < bins.samples; ++j) {
      const T x = columns.at(j);
      if (!columns.axis.on_map(x, bins.map_width)) continue;
      f(near_y, Neighbours<T>(x, bins.map_width));
      ++count;
    }
  }
  return count;
}

// The four cells of a sample.
template <typename T>
struct DeformCorners {
  T top_left, top_right, bottom_left, bottom_right;

  template <typename S>
  __device__ DeformCorners(const View<S>& map, const S* plane, const Neighbours<T>& y, const Neighbours<T>& x) {
    const S *upper = plane + y.lower * map.stride[2], *lower = plane + y.upper * map.stride[2];
    top_left = to_number(upper[x.lower * map.stride[3]]), top_right = to_number(upper[x.upper * map.stride[3]]);
    bottom_left = to_number(lower[x.lower * map.stride[3]]), bottom_right = to_number(lower[x.upper * map.stride[3]]);
  }
};

template <typename S>
__global__ void __launch_bounds__(kItemThreads)
    deform_pool(const View<S> map, const DeformBins<Number<S>> bins, int64_t items, S* __restrict__ pooled) {
  using T = Number<S>;
  const int64_t classes = bins.groups * bins.per_group;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kItemThreads) + threadIdx.x; i < items;
       i += static_cast<int64_t>(gridDim.x) * kItemThreads) {
    const int64_t bin = i % bins.bins(), output = i / bins.bins() % classes, roi = i / bins.bins() / classes;
    const int64_t group = output / bins.per_group, image = bins.image(roi);
    const DeformSamples<T> rows = bins.along(roi, group, true, bin), columns = bins.along(roi, group, false, bin);
    T sum = 0;
    int count = 0;
    if (image >= 0) {
      const S* plane = map.data + image * map.stride[0] + (output * bins.bins() + bin) * map.stride[1];
      count = for_each_sample(bins, rows, columns, [&](const Neighbours<T>& y, const Neighbours<T>& x) {
        const DeformCorners<T> corners(map, plane, y, x);
        sum += y.weight_lower * (x.weight_lower * corners.top_left + x.weight_upper * corners.top_right) +
               y.weight_upper * (x.weight_lower * corners.bottom_left + x.weight_upper * corners.bottom_right);
      });
    }
    const T right = bins.offset(roi, group, false, bin), down = bins.offset(roi, group, true, bin);
    const T unknown = (right - right) + (down - down);  // NaN if an offset is not finite, else 0
    pooled[i] = from_number<S>(sum / static_cast<T>(larger(count, 1)) + unknown);
  }
}

// One RoI in the gradient of a tile.
template <typename T>
struct DeformHit {
  T first_row, step_down, first_column, step_right;
  T share;  // the gradient of each sample
};

// Weight of a cell in the sum of a bin's samples along one axis.
template <typename T>
__device__ __forceinline__ T deform_weight(T first, T step, int samples, int cell, int64_t size) {
  const T last = first + static_cast<T>(samples - 1) * step, place = static_cast<T>(cell);
  if (!(place >= first - 1 && place <= last + 1)) return 0;  // no sample reads this cell
  T weight = 0;
  for (int i = 0; i < samples; ++i) {
    const T position = first + static_cast<T>(i) * step;
    if (!(position >= static_cast<T>(-0.5) && position <= static_cast<T>(size) - static_cast<T>(0.5))) continue;
    const Neighbours<T> near(position, size);
    if (near.lower == cell) weight += near.weight_lower;
    if (near.upper == cell) weight += near.weight_upper;
  }
  return weight;
}

template <typename S>
__global__ void __launch_bounds__(kDeformTileThreads)
    deform_spread(const View<S> grad, const DeformBins<Number<S>> bins, int64_t channels, S* __restrict__ total) {
  using T = Number<S>;
  __shared__ DeformHit<T> hits[kDeformTileThreads];
  __shared__ int hits_of[kDeformTileHeight];  // hits found by each warp
  const int height = static_cast<int>(bins.map_height), width = static_cast<int>(bins.map_width);
  const int tiles_across = (width + kDeformTileWidth - 1) / kDeformTileWidth;
  const int tiles_down = (height + kDeformTileHeight - 1) / kDeformTileHeight;
  int64_t block = blockIdx.x;
  const int left = static_cast<int>(block % tiles_across) * kDeformTileWidth;
  block /= tiles_across;
  const int top = static_cast<int>(block % tiles_down) * kDeformTileHeight;
  block /= tiles_down;
  const int64_t channel = block % channels, image = block / channels;
  const int64_t bin = channel % bins.bins(), output = channel / bins.bins(), group = output / bins.per_group;
  const int64_t row = bin / bins.k, column = bin % bins.k;

  const int thread = threadIdx.y * kDeformTileWidth + threadIdx.x;
  const int x = left + threadIdx.x, y = top + threadIdx.y;
  T sum = 0;
  for (int64_t begin = 0; begin < grad.size[0]; begin += kDeformTileThreads) {
    const int64_t roi = begin + thread;
    bool hit = roi < grad.size[0] && bins.image(roi) == image;
    DeformHit<T> mine{};
    if (hit) {
      const DeformSamples<T> rows = bins.along(roi, group, true, bin), columns = bins.along(roi, group, false, bin);
      int down = 0, across = 0;
      for (int i = 0; i < bins.samples; ++i) {
        down += rows.axis.on_map(rows.at(i), height);
        across += columns.axis.on_map(columns.at(i), width);
      }
      // A sample at p reads the cells floor(p) and floor(p) + 1.
      const int last = bins.samples - 1;
      hit = down * across > 0 && rows.at(last) >= top - 1 && rows.first < top + kDeformTileHeight &&
            columns.at(last) >= left - 1 && columns.first < left + kDeformTileWidth;
      if (hit) {
        const T given = to_number(
            grad.data[roi * grad.stride[0] + output * grad.stride[1] + row * grad.stride[2] + column * grad.stride[3]]);
        mine = {rows.first, rows.axis.step, columns.first, columns.axis.step, given / static_cast<T>(down * across)};
      }
    }
    // Lists the hits in order; a warp is a row of the tile. No thread overwrites the list before the next round's first
    // barrier, or the counts before this round's second barrier, so all threads have read them by then.
    const unsigned found = __ballot_sync(0xffffffffu, hit);
    if (threadIdx.x == 0) hits_of[threadIdx.y] = __popc(found);
    __syncthreads();
    int num = 0, before = __popc(found & ((1u << threadIdx.x) - 1));
    for (int warp = 0; warp < kDeformTileHeight; ++warp) {
      if (warp < static_cast<int>(threadIdx.y)) before += hits_of[warp];
      num += hits_of[warp];
    }
    if (hit) hits[before] = mine;
    __syncthreads();
    for (int i = 0; i < num; ++i) {
      const DeformHit<T> other = hits[i];
      const T on_row = deform_weight(other.first_row, other.step_down, bins.samples, y, height);
      if (on_row == 0) continue;
      sum += other.share * on_row * deform_weight(other.first_column, other.step_right, bins.samples, x, width);
    }
  }
  if (x < width && y < height) total[((image * channels + channel) * height + y) * width + x] = from_number<S>(sum);
}

template <typename S>
__global__ void __launch_bounds__(kItemThreads)
    deform_move(const View<S> grad, const View<S> map, const DeformBins<Number<S>> bins, int64_t items,
                Number<S>* __restrict__ grad_offsets) {
  using T = Number<S>;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kItemThreads) + threadIdx.x; i < items;
       i += static_cast<int64_t>(gridDim.x) * kItemThreads) {
    const int64_t bin = i % bins.bins(), group = i / bins.bins() % bins.groups, roi = i / bins.bins() / bins.groups;
    const int64_t image = bins.image(roi), row = bin / bins.k, column = bin % bins.k;
    const DeformSamples<T> rows = bins.along(roi, group, true, bin), columns = bins.along(roi, group, false, bin);
    T right = 0, down = 0;
    for (int64_t output = group * bins.per_group; output < (group + 1) * bins.per_group; ++output) {
      const T given = to_number(
          grad.data[roi * grad.stride[0] + output * grad.stride[1] + row * grad.stride[2] + column * grad.stride[3]]);
      T to_right = 0, to_down = 0;
      int count = 0;
      if (image >= 0) {
        const S* plane = map.data + image * map.stride[0] + (output * bins.bins() + bin) * map.stride[1];
        count = for_each_sample(bins, rows, columns, [&](const Neighbours<T>& y, const Neighbours<T>& x) {
          const DeformCorners<T> corners(map, plane, y, x);
          // A sample that is moved to the border does not move with its offset.
          if (x.follows) {
            to_right += y.weight_lower * (corners.top_right - corners.top_left) +
                        y.weight_upper * (corners.bottom_right - corners.bottom_left);
          }
          if (y.follows) {
            to_down += x.weight_lower * (corners.bottom_left - corners.top_left) +
                       x.weight_upper * (corners.bottom_right - corners.top_right);
          }
        });
      }
      const T share = given / static_cast<T>(larger(count, 1));
      right += share * to_right;
      down += share * to_down;
    }
    T* pair = grad_offsets + ((roi * bins.groups + group) * 2) * bins.bins() + bin;
    pair[0] = right * (bins.offset_scale * columns.axis.extent);
    pair[bins.bins()] = down * (bins.offset_scale * rows.axis.extent);
  }
}

static void check_offsets(const std::optional<Tensor>& offsets, const Tensor& rois, int64_t classes, int64_t k,
                          int64_t samples) {
  STD_TORCH_CHECK(samples > 0, "expected at least one sample per bin and axis");
  if (!offsets) return;
  STD_TORCH_CHECK(offsets->dim() == 4 && offsets->size(0) == rois.size(0) && offsets->size(1) >= 2 &&
                      offsets->size(1) % 2 == 0 && classes % (offsets->size(1) / 2) == 0 && offsets->size(2) == k &&
                      offsets->size(3) == k && offsets->is_cuda(),
                  "expected offsets [R, 2 * G, k, k] on the device of the score maps, where G divides the classes");
  STD_TORCH_CHECK(offsets->scalar_type() == rois.scalar_type(), "expected offsets of the dtype of the rois, got ",
                  toString(offsets->scalar_type()));
}

static std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(dense(*tensor)) : std::nullopt;
}

// The bins of a call; `rois` and `offsets` are dense, `size` is that of the score maps.
template <typename T>
static DeformBins<T> deform_bins(const Tensor& rois, const std::optional<Tensor>& offsets, int64_t k,
                                 const std::vector<int64_t>& size, double spatial_scale, double offset_scale,
                                 int64_t samples) {
  const int64_t groups = offsets ? offsets->size(1) / 2 : 1;
  return {input<T>(rois),
          offsets ? input<T>(*offsets) : nullptr,
          groups,
          size[1] / (k * k) / groups,
          static_cast<int>(k),
          static_cast<int>(samples),
          size[0],
          size[2],
          size[3],
          static_cast<T>(spatial_scale),
          static_cast<T>(offset_scale)};
}

static std::vector<int64_t> size_of(const Tensor& maps) {
  return {maps.size(0), maps.size(1), maps.size(2), maps.size(3)};
}

static Tensor deform_ps_roi_pool(const Tensor& score_maps, const Tensor& rois_in, std::optional<Tensor> offsets_in,
                                 int64_t k, double spatial_scale, double offset_scale, int64_t samples) {
  check_features(score_maps, rois_in);
  STD_TORCH_CHECK(k > 0 && score_maps.size(1) % (k * k) == 0, "expected D * ", k, " * ", k,
                  " channels of score maps, got ", score_maps.size(1));
  const int64_t classes = score_maps.size(1) / (k * k);
  check_offsets(offsets_in, rois_in, classes, k, samples);
  const Device device(score_maps);
  const Tensor rois = dense(rois_in);
  const std::optional<Tensor> offsets = dense(offsets_in);
  Tensor pooled = new_output(score_maps, {rois.size(0), classes, k, k}, score_maps.scalar_type());
  if (score_maps.numel() == 0 || pooled.numel() == 0) {
    device.fill(pooled, 0);
    return pooled;
  }
  with_storage(score_maps.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    const auto bins =
        deform_bins<Number<S>>(rois, offsets, k, size_of(score_maps), spatial_scale, offset_scale, samples);
    device.launch(&deform_pool<S>, grid_of_items(device, pooled.numel()), kItemThreads, 0, View<S>(score_maps), bins,
                  pooled.numel(), output<S>(pooled));
  });
  return pooled;
}

static Tensor deform_ps_roi_pool_backward(const Tensor& grad, const Tensor& rois_in, std::optional<Tensor> offsets_in,
                                          std::vector<int64_t> size, double spatial_scale, double offset_scale,
                                          int64_t samples) {
  check_gradient(grad, rois_in, size);
  const int64_t k = grad.size(3);
  STD_TORCH_CHECK(grad.size(2) == k && grad.size(1) * k * k == size[1],
                  "expected a gradient [R, D, k, k] and a size of D * k * k channels");
  check_offsets(offsets_in, rois_in, grad.size(1), k, samples);
  const Device device(grad);
  const Tensor rois = dense(rois_in);
  const std::optional<Tensor> offsets = dense(offsets_in);
  Tensor total = new_output(grad, size, grad.scalar_type());
  if (total.numel() == 0) return total;
  const int64_t blocks =
      size[0] * size[1] * blocks_for(size[2], kDeformTileHeight) * blocks_for(size[3], kDeformTileWidth);
  with_storage(grad.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    const auto bins = deform_bins<Number<S>>(rois, offsets, k, size, spatial_scale, offset_scale, samples);
    device.launch(&deform_spread<S>, grid_of(blocks), dim3(kDeformTileWidth, kDeformTileHeight), 0, View<S>(grad), bins,
                  size[1], output<S>(total));
  });
  return total;
}

static Tensor deform_ps_roi_pool_offset_grad(const Tensor& grad, const Tensor& score_maps, const Tensor& rois_in,
                                             const Tensor& offsets_in, double spatial_scale, double offset_scale,
                                             int64_t samples) {
  check_features(score_maps, rois_in);
  check_gradient(grad, rois_in, size_of(score_maps));
  const int64_t k = grad.size(3);
  STD_TORCH_CHECK(
      grad.size(2) == k && grad.size(1) * k * k == score_maps.size(1) && grad.scalar_type() == score_maps.scalar_type(),
      "expected a gradient [R, D, k, k] of score maps with D * k * k channels, in their dtype");
  const std::optional<Tensor> offsets(dense(offsets_in));
  check_offsets(offsets, rois_in, grad.size(1), k, samples);
  const Device device(score_maps);
  const Tensor rois = dense(rois_in);
  Tensor result = new_output(*offsets, size_of(*offsets), offsets->scalar_type());
  if (score_maps.numel() == 0 || result.numel() == 0) {
    device.fill(result, 0);
    return result;
  }
  with_storage(score_maps.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    const auto bins =
        deform_bins<Number<S>>(rois, offsets, k, size_of(score_maps), spatial_scale, offset_scale, samples);
    device.launch(&deform_move<S>, grid_of_items(device, result.numel() / 2), kItemThreads, 0, View<S>(grad),
                  View<S>(score_maps), bins, result.numel() / 2, output<Number<S>>(result));
  });
  return result;
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CUDA, library) {
  library.impl("deform_ps_roi_pool", TORCH_BOX(&fast_rfcn::deform_ps_roi_pool));
  library.impl("deform_ps_roi_pool_backward", TORCH_BOX(&fast_rfcn::deform_ps_roi_pool_backward));
  library.impl("deform_ps_roi_pool_offset_grad", TORCH_BOX(&fast_rfcn::deform_ps_roi_pool_offset_grad));
}
