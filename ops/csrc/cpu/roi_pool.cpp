// RoI max pooling on the CPU. One task owns one image and one block of channels. It copies this slab of the features as
// [cells][channels], which fits in the L2 cache, and pools all RoIs of the image on it, a vector of channels at a time.
// A task of the backward pass owns planes of the gradient, so there are no atomics and the order of sums is fixed.

#include "roi_pool.h"

#include "instruction_set.h"

#define FAST_RFCN_KERNELS "roi_pool_kernels.h"
#include "for_each_instruction_set.h"

namespace fast_rfcn {

// The argmax of an empty bin in uint16. Maps with fewer cells have a uint16 argmax; others have int32, with -1.
constexpr int64_t kNowhere = 65535;

static Quantization quantization_of(const std::string& name) {
  if (name == "caffe") return Quantization::caffe;
  if (name == "floor") return Quantization::floor;
  if (name == "split") return Quantization::split;
  STD_TORCH_CHECK(name == "outer", "expected quantization to be caffe, floor, split or outer, got ", name);
  return Quantization::outer;
}

template <typename T>
static std::vector<Span> pool_spans(const T* rois, int64_t num_rois, const MapView& map, int height, int width,
                                    double spatial_scale, Quantization rule) {
  std::vector<Span> spans(num_rois * (height + width));
  Span* span = spans.data();
  for (int64_t r = 0; r < num_rois; ++r, rois += kRoiColumns) {
    const bool known = image_of(rois, map.images) >= 0;
    const PoolAxis<T> y(rois[kY1], rois[kY2], static_cast<T>(spatial_scale), rule);
    const PoolAxis<T> x(rois[kX1], rois[kX2], static_cast<T>(spatial_scale), rule);
    for (int p = 0; p < height; ++p) *span++ = known ? y.bin(p, height, map.height, rule) : Span{0, 0};
    for (int q = 0; q < width; ++q) *span++ = known ? x.bin(q, width, map.width, rule) : Span{0, 0};
  }
  return spans;
}

static std::tuple<Tensor, Tensor> roi_pool(const Tensor& features, const Tensor& rois_in, int64_t height, int64_t width,
                                           double spatial_scale, std::string quantization, bool with_argmax) {
  check_rois(features, rois_in);
  const Tensor rois = dense(rois_in);
  const MapView map(features);
  const int64_t num_rois = rois.size(0);
  const std::vector<int64_t> size = {num_rois, map.channels, height, width};
  const bool wide = map.cells() >= kNowhere;
  Tensor pooled = new_output(features, size, features.scalar_type());
  Tensor argmax = new_output(features, with_argmax ? size : std::vector<int64_t>{0},
                             with_argmax && wide ? ScalarType::Int : ScalarType::UInt16);
  if (features.numel() == 0 || pooled.numel() == 0) {
    torch::stable::fill_(pooled, 0);
    torch::stable::fill_(argmax, wide ? -1 : kNowhere);
    return {pooled, argmax};
  }
  with_types(features.scalar_type(), [&](auto, auto number) {
    using T = decltype(number);
    const T* roi_data = static_cast<const T*>(rois.const_data_ptr());
    const RoisByImage by_image(roi_data, num_rois, map.images);
    const std::vector<Span> spans = pool_spans(roi_data, num_rois, map, static_cast<int>(height),
                                               static_cast<int>(width), spatial_scale, quantization_of(quantization));
    const PoolPlan plan{
        map,       features.scalar_type(), static_cast<int>(height),  static_cast<int>(width),
        &by_image, spans.data(),           pooled.mutable_data_ptr(), with_argmax ? argmax.mutable_data_ptr() : nullptr,
        wide,      streams(pooled)};
    const auto kernel = FAST_RFCN_CHOOSE(pool);
    const int64_t block = baseline::kChannels<T>;
    for_each_task(map.images * ((map.channels + block - 1) / block), [&](int64_t task) { kernel(plan, task); });
  });
  return {pooled, argmax};
}

static Tensor roi_pool_scatter(const Tensor& grad_in, const Tensor& rois_in, const Tensor& argmax_in,
                               std::vector<int64_t> size) {
  const Tensor grad = dense(grad_in), rois = dense(rois_in), argmax = dense(argmax_in);
  STD_TORCH_CHECK(grad.numel() == argmax.numel() && size.size() == 4, "expected one argmax for each gradient");
  Tensor total = new_output(grad, size, grad.scalar_type());
  if (total.numel() == 0) return total;
  with_types(grad.scalar_type(), [&](auto, auto number) {
    using T = decltype(number);
    const RoisByImage by_image(static_cast<const T*>(rois.const_data_ptr()), rois.size(0), size[0]);
    const ScatterPlan plan{grad.scalar_type(),
                           size[1],
                           size[2] * size[3],
                           grad.size(2) * grad.size(3),
                           &by_image,
                           grad.const_data_ptr(),
                           argmax.const_data_ptr(),
                           argmax.scalar_type() == ScalarType::Int,
                           total.mutable_data_ptr()};
    const auto kernel = FAST_RFCN_CHOOSE(scatter);
    const int64_t blocks = (size[1] + kScatterPlanes - 1) / kScatterPlanes;
    for_each_task(size[0] * blocks, [&](int64_t task) { kernel(plan, task); });
  });
  return total;
}

static Tensor roi_pool_gather(const Tensor& features, const Tensor& rois_in, const Tensor& argmax_in) {
  check_rois(features, rois_in);
  const Tensor rois = dense(rois_in), argmax = dense(argmax_in);
  STD_TORCH_CHECK(argmax.dim() == 4 && argmax.size(0) == rois.size(0) && argmax.size(1) == features.size(1),
                  "expected an argmax [R, C, height, width]");
  Tensor picked =
      new_output(features, {argmax.size(0), argmax.size(1), argmax.size(2), argmax.size(3)}, features.scalar_type());
  if (features.numel() == 0 || picked.numel() == 0) return torch::stable::fill_(picked, 0);
  const MapView map(features);
  const int64_t bins = argmax.size(2) * argmax.size(3);
  const bool wide = argmax.scalar_type() == ScalarType::Int;
  with_types(features.scalar_type(), [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const T* roi_data = static_cast<const T*>(rois.const_data_ptr());
    for_each_task(rois.size(0), [&](int64_t roi) {
      const int64_t image = image_of(roi_data + roi * kRoiColumns, map.images);
      for (int64_t c = 0; c < map.channels; ++c) {
        const S* plane =
            static_cast<const S*>(map.data) + larger<int64_t>(image, 0) * map.stride[0] + c * map.stride[1];
        const int64_t first = (roi * map.channels + c) * bins;
        for (int64_t i = first; i < first + bins; ++i) {
          const int64_t cell = wide ? static_cast<const int32_t*>(argmax.const_data_ptr())[i]
                                    : static_cast<const uint16_t*>(argmax.const_data_ptr())[i];
          const bool empty = image < 0 || cell == (wide ? -1 : kNowhere);
          static_cast<S*>(picked.mutable_data_ptr())[i] =
              empty ? S{} : plane[cell / map.width * map.stride[2] + cell % map.width * map.stride[3]];
        }
      }
    });
  });
  return picked;
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CPU, library) {
  library.impl("roi_pool", TORCH_BOX(&fast_rfcn::roi_pool));
  library.impl("roi_pool_scatter", TORCH_BOX(&fast_rfcn::roi_pool_scatter));
  library.impl("roi_pool_gather", TORCH_BOX(&fast_rfcn::roi_pool_gather));
}
