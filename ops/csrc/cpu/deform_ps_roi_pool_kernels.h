// Deformable position-sensitive RoI pooling for one instruction set; see for_each_instruction_set.h.

// Calls f(storage type, arithmetic type).
template <typename F>
static inline void typed(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double:
      return f(double{}, double{});
    case ScalarType::Half:
      return f(Half{}, float{});
    case ScalarType::BFloat16:
      return f(BFloat16{}, float{});
    default:
      return f(float{}, float{});
  }
}

template <typename S, typename T>
static inline S rounded(T value) {
  if constexpr (sizeof(S) == sizeof(T)) {
    return value;
  } else {
    return stored<S>(value);
  }
}

// The bins of one RoI.
template <typename T>
struct DeformRoi {
  const DeformPlan& plan;
  int64_t roi, image;
  DeformAxis<T> rows, columns;

  DeformRoi(const DeformPlan& plan, int64_t roi)
      : DeformRoi(plan, roi, static_cast<const T*>(plan.rois) + roi * kRoiColumns) {}

  // The offset of a bin to the right or down, 0 without offsets.
  T offset(int64_t group, bool down, int64_t bin) const {
    if (plan.offsets == nullptr) return 0;
    return static_cast<const T*>(plan.offsets)[((roi * plan.groups + group) * 2 + down) * plan.num_bins() + bin];
  }

  DeformTaps<T> taps(int64_t group, bool down, int64_t bin) const {
    DeformTap<T>* memory = Scratch::take<DeformTap<T>>(down ? 0 : 1, 2 * plan.samples);
    const T shift = offset(group, down, bin) * static_cast<T>(plan.offset_scale);
    const int index = static_cast<int>(down ? bin / plan.k : bin % plan.k);
    return {memory, down ? rows : columns,        index,
            shift,  image < 0 ? 0 : plan.samples, down ? plan.map.height : plan.map.width};
  }

 private:
  DeformRoi(const DeformPlan& plan, int64_t roi, const T* data)
      : plan(plan),
        roi(roi),
        image(image_of(data, plan.map.images)),
        rows(data[kY1], data[kY2], static_cast<T>(plan.spatial_scale), plan.k, plan.samples),
        columns(data[kX1], data[kX2], static_cast<T>(plan.spatial_scale), plan.k, plan.samples) {}
};

// Calls f(weight of a row, sum over its columns by weight, sum by slope, slope of the row) for each row of a bin.
template <typename S, typename T, typename F>
static inline void for_each_row(const MapView& map, const S* plane, const DeformTaps<T>& rows,
                                const DeformTaps<T>& columns, const F& f) {
  for (int64_t y = 0; y < rows.size; ++y) {
    const S* row = plane + rows.taps[y].cell * map.stride[2];
    T across = 0, slope = 0;
    for (int64_t x = 0; x < columns.size; ++x) {
      const T value = number(row[columns.taps[x].cell * map.stride[3]]);
      across += columns.taps[x].weight * value;
      slope += columns.taps[x].slope * value;
    }
    f(rows.taps[y], across, slope);
  }
}

// The bins of one RoI.
static void deform_pool(const DeformPlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto zero) {
    using S = decltype(storage);
    using T = decltype(zero);
    const DeformRoi<T> roi(plan, task);
    const int64_t bins = plan.num_bins();
    for (int64_t group = 0; group < plan.groups; ++group) {
      for (int64_t bin = 0; bin < bins; ++bin) {
        const DeformTaps<T> rows = roi.taps(group, true, bin), columns = roi.taps(group, false, bin);
        const bool known = is_finite(roi.offset(group, true, bin)) && is_finite(roi.offset(group, false, bin));
        const T count = static_cast<T>(larger(rows.count * columns.count, 1));
        for (int64_t d = group * plan.per_group(); d < (group + 1) * plan.per_group(); ++d) {
          const S* plane = static_cast<const S*>(plan.map.data) + larger<int64_t>(roi.image, 0) * plan.map.stride[0] +
                           (d * bins + bin) * plan.map.stride[1];
          T sum = 0;
          for_each_row<S, T>(plan.map, plane, rows, columns,
                             [&](const DeformTap<T>& row, T across, T) { sum += row.weight * across; });
          const T value = known ? sum / count : static_cast<T>(__builtin_nan(""));
          static_cast<S*>(plan.output)[(task * plan.classes() + d) * bins + bin] = rounded<S>(value);
        }
      }
    }
  });
}

// The gradient of one plane of the score maps: one bin of one class, of all RoIs of an image in their order.
static void deform_spread(const DeformPlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto zero) {
    using S = decltype(storage);
    using T = decltype(zero);
    const int64_t image = task / plan.map.channels, channel = task % plan.map.channels;
    const int64_t bin = channel % plan.num_bins(), group = channel / plan.num_bins() / plan.per_group();
    T* plane = Scratch::take<T>(2, plan.map.cells());
    for (int64_t cell = 0; cell < plan.map.cells(); ++cell) plane[cell] = 0;
    for (int64_t visit = plan.by_image->bounds[image]; visit < plan.by_image->bounds[image + 1]; ++visit) {
      const DeformRoi<T> roi(plan, plan.by_image->order[visit]);
      const DeformTaps<T> rows = roi.taps(group, true, bin), columns = roi.taps(group, false, bin);
      if (rows.count * columns.count == 0) continue;
      const T share = number(static_cast<const S*>(plan.grad)[roi.roi * plan.map.channels + channel]) /
                      static_cast<T>(rows.count * columns.count);
      for (int64_t y = 0; y < rows.size; ++y) {
        T* row = plane + rows.taps[y].cell * plan.map.width;
        const T of_row = share * rows.taps[y].weight;
        for (int64_t x = 0; x < columns.size; ++x) row[columns.taps[x].cell] += of_row * columns.taps[x].weight;
      }
    }
    S* target = const_cast<S*>(static_cast<const S*>(plan.map.data)) + task * plan.map.cells();
    for (int64_t cell = 0; cell < plan.map.cells(); ++cell) target[cell] = rounded<S>(plane[cell]);
  });
}

// The gradient of the offsets of one RoI.
static void deform_move(const DeformPlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto zero) {
    using S = decltype(storage);
    using T = decltype(zero);
    const DeformRoi<T> roi(plan, task);
    const int64_t bins = plan.num_bins();
    T* output = static_cast<T*>(plan.output) + task * plan.groups * 2 * bins;
    for (int64_t group = 0; group < plan.groups; ++group) {
      for (int64_t bin = 0; bin < bins; ++bin) {
        const DeformTaps<T> rows = roi.taps(group, true, bin), columns = roi.taps(group, false, bin);
        const T count = static_cast<T>(larger(rows.count * columns.count, 1));
        T right = 0, down = 0;
        for (int64_t d = group * plan.per_group(); d < (group + 1) * plan.per_group(); ++d) {
          const S* plane = static_cast<const S*>(plan.map.data) + larger<int64_t>(roi.image, 0) * plan.map.stride[0] +
                           (d * bins + bin) * plan.map.stride[1];
          const T share = number(static_cast<const S*>(plan.grad)[(task * plan.classes() + d) * bins + bin]) / count;
          T to_right = 0, to_down = 0;
          for_each_row<S, T>(plan.map, plane, rows, columns, [&](const DeformTap<T>& row, T across, T slope) {
            to_right += row.weight * slope;
            to_down += row.slope * across;
          });
          right += share * to_right;
          down += share * to_down;
        }
        const T scale = static_cast<T>(plan.offset_scale);
        output[group * 2 * bins + bin] = right * (scale * roi.columns.extent);
        output[(group * 2 + 1) * bins + bin] = down * (scale * roi.rows.extent);
      }
    }
  });
}
