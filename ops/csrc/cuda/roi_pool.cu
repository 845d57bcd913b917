// RoI max pooling on CUDA: pool.cuh reduces the bins, scatter.cuh adds the gradients at the maxima.

#include "pool.cuh"
#include "scatter.cuh"

namespace fast_rfcn {

static Quantization quantization_of(const std::string& name) {
  if (name == "caffe") return Quantization::caffe;
  if (name == "floor") return Quantization::floor;
  if (name == "split") return Quantization::split;
  STD_TORCH_CHECK(name == "outer", "expected quantization to be caffe, floor, split or outer, got ", name);
  return Quantization::outer;
}

static std::tuple<Tensor, Tensor> roi_pool(const Tensor& features, const Tensor& rois_in, int64_t height, int64_t width,
                                           double spatial_scale, std::string quantization, bool with_argmax) {
  check_features(features, rois_in);
  const Device device(features);
  const Tensor rois = dense(rois_in);
  const Quantization rule = quantization_of(quantization);
  const std::vector<int64_t> size = {rois.size(0), features.size(1), height, width};
  const bool wide = with_argmax && wide_places(features.size(2) * features.size(3));
  Tensor pooled = new_output(features, size, features.scalar_type());
  Tensor argmax =
      new_output(features, with_argmax ? size : std::vector<int64_t>{0}, wide ? ScalarType::Int : ScalarType::UInt16);
  if (features.numel() == 0 || pooled.numel() == 0) {
    device.fill(pooled, 0);
    device.fill(argmax, 0xff);
    return {pooled, argmax};
  }
  with_storage(features.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const View<S> map(features);
    const int rows = static_cast<int>(height), columns = static_cast<int>(width);
    const PoolBins<T> bins{rows, columns, map.height(), map.width(), static_cast<T>(spatial_scale), rule};
    const PoolShape shape{rows, columns, false, rois.size(0), map.channels()};
    if (with_argmax) {
      pool<S>(device, features, input<T>(rois), CellMaximum<S, PoolBins<T>, true>{bins}, shape, output<S>(pooled),
              Places{argmax.mutable_data_ptr(), wide});
    } else {
      pool<S>(device, features, input<T>(rois), CellMaximum<S, PoolBins<T>, false>{bins}, shape, output<S>(pooled),
              Places{});
    }
  });
  return {pooled, argmax};
}

// The cell that an output comes from: the cell of its maximum.
struct CellTarget {
  static constexpr int kCorners = 1;
  Places argmax;

  template <typename T>
  __device__ void operator()(const T*, int, int64_t index, int (&cell)[1], T (&)[1]) const {
    cell[0] = argmax.get(index);
  }
};

static Places given_places(const Tensor& argmax) {
  const bool wide = argmax.scalar_type() == ScalarType::Int;
  STD_TORCH_CHECK(wide || argmax.scalar_type() == ScalarType::UInt16, "expected an argmax of uint16 or int32, got ",
                  toString(argmax.scalar_type()));
  return {const_cast<void*>(argmax.const_data_ptr()), wide};
}

static Tensor roi_pool_scatter(const Tensor& grad_in, const Tensor& rois_in, const Tensor& argmax_in,
                               std::vector<int64_t> size) {
  check_gradient(grad_in, rois_in, size);
  STD_TORCH_CHECK(grad_in.numel() == argmax_in.numel(), "expected one argmax for each gradient");
  const Device device(grad_in);
  const Tensor grad = dense(grad_in), rois = dense(rois_in), argmax = dense(argmax_in);
  Tensor total = new_output(grad, size, grad.scalar_type());
  if (total.numel() == 0 || grad.numel() == 0) {
    device.fill(total, 0);
    return total;
  }
  with_storage(grad.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    scatter<S>(device, grad, rois, CellTarget{given_places(argmax)}, size, grad.size(2) * grad.size(3), total);
  });
  return total;
}

template <typename S>
__global__ void __launch_bounds__(kItemThreads)
    gather_cells(const View<S> map, const Number<S>* __restrict__ rois, const Places argmax, int64_t items,
                 int64_t channels, int64_t bins, S* __restrict__ picked) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kItemThreads) + threadIdx.x; i < items;
       i += static_cast<int64_t>(gridDim.x) * kItemThreads) {
    const int64_t plane = i / bins, roi = plane / channels, channel = plane % channels;
    const int64_t image = image_of(rois + roi * kRoiColumns, map.images());
    const int cell = argmax.get(i), width = static_cast<int>(map.width());
    S value = from_number<S>(0);
    if (cell >= 0 && image >= 0) {
      value = map.data[image * map.stride[0] + channel * map.stride[1] + cell / width * map.stride[2] +
                       cell % width * map.stride[3]];
    }
    picked[i] = value;
  }
}

static Tensor roi_pool_gather(const Tensor& features, const Tensor& rois_in, const Tensor& argmax_in) {
  check_features(features, rois_in);
  STD_TORCH_CHECK(argmax_in.dim() == 4 && argmax_in.size(0) == rois_in.size(0) && argmax_in.size(1) == features.size(1),
                  "expected an argmax [R, C, height, width]");
  const Device device(features);
  const Tensor rois = dense(rois_in), argmax = dense(argmax_in);
  const std::vector<int64_t> size = {argmax.size(0), argmax.size(1), argmax.size(2), argmax.size(3)};
  Tensor picked = new_output(features, size, features.scalar_type());
  if (features.numel() == 0 || picked.numel() == 0) {
    device.fill(picked, 0);
    return picked;
  }
  with_storage(features.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    device.launch(&gather_cells<S>, grid_of_items(device, picked.numel()), kItemThreads, 0, View<S>(features),
                  input<Number<S>>(rois), given_places(argmax), picked.numel(), features.size(1), size[2] * size[3],
                  output<S>(picked));
  });
  return picked;
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CUDA, library) {
  library.impl("roi_pool", TORCH_BOX(&fast_rfcn::roi_pool));
  library.impl("roi_pool_scatter", TORCH_BOX(&fast_rfcn::roi_pool_scatter));
  library.impl("roi_pool_gather", TORCH_BOX(&fast_rfcn::roi_pool_gather));
}
