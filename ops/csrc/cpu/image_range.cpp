// The range of the image indices of RoIs: one pass, because the operators check it in every call.

#include "tensors.h"

namespace fast_rfcn {

template <typename T>
static std::tuple<double, double> range_of(const Tensor& rois) {
  const T* index = static_cast<const T*>(rois.const_data_ptr());
  T low = *index, high = *index;
  for (int64_t r = 0; r < rois.size(0); ++r, index += rois.stride(0)) {
    if (*index != *index) return {*index, *index};
    low = smaller(low, *index), high = larger(high, *index);
  }
  return {low, high};
}

static std::tuple<double, double> image_range(const Tensor& rois) {
  STD_TORCH_CHECK(rois.dim() == 2 && rois.numel() > 0, "expected rois [R, 5], at least one");
  const bool wide = rois.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(wide || rois.scalar_type() == ScalarType::Float, "expected rois of float32 or float64");
  return wide ? range_of<double>(rois) : range_of<float>(rois);
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CPU, library) {
  library.impl("image_range", TORCH_BOX(&fast_rfcn::image_range));
}
