// RoIAlign and RoIWarp for one instruction set; see for_each_instruction_set.h.

// Weighted sum over the taps of a group of rows and a group of columns.
template <typename T>
static inline void read_taps(const T* slab, int64_t map_width, const Tap<T>* row, const Tap<T>* rows_end,
                             const Tap<T>* columns, const Tap<T>* columns_end, Vector<T> (&sum)[kVectors]) {
  for (int k = 0; k < kVectors; ++k) sum[k] = Vector<T>{};
  for (; row < rows_end; ++row) {
    const T* cells = slab + row->cell * map_width * kChannels<T>;
    Vector<T> along[kVectors] = {};
    for (const Tap<T>* column = columns; column < columns_end; ++column) {
      const Vector<T>* values = vectors(cells + column->cell * kChannels<T>);
      for (int k = 0; k < kVectors; ++k) along[k] += column->weight * values[k];
    }
    for (int k = 0; k < kVectors; ++k) sum[k] += row->weight * along[k];
  }
}

template <typename S, typename T>
static void align_mean_typed(const AlignPlan& plan, int64_t image, int64_t channel) {
  constexpr int64_t width = kChannels<T>;
  const int64_t channels = smaller<int64_t>(width, plan.channels - channel), bins = plan.options.bins();
  const TapTable<T>& table = plan.table<T>();
  T* slab = Scratch::take<T>(0, plan.cells() * width);
  T* pooled = Scratch::take<T>(1, bins * width);
  load_slab<S, T>(*plan.features, image, channel, channels, slab);
  for (int64_t i = plan.rois->bounds[image]; i < plan.rois->bounds[image + 1]; ++i) {
    const int64_t roi = plan.rois->order[i];
    const int64_t rows = table.axes[2 * roi].first_group, columns = table.axes[2 * roi + 1].first_group;
    T* bin = pooled;
    for (int p = 0; p < plan.options.height; ++p) {
      for (int q = 0; q < plan.options.width; ++q, bin += width) {
        Vector<T> sum[kVectors];
        read_taps(slab, plan.map_width, table.begin(rows + p), table.end(rows + p), table.begin(columns + q),
                  table.end(columns + q), sum);
        for (int k = 0; k < kVectors; ++k) vectors(bin)[k] = sum[k];
      }
    }
    S* output = static_cast<S*>(plan.output) + (roi * plan.channels + channel) * bins;
    put_outputs<S, T>(pooled, channels, bins, output, plan.past_caches);
  }
}

// The transpose of the mean: the gradient of an image's channels is summed in the slab, RoI after RoI.
template <typename S, typename T>
static void align_mean_grad_typed(const AlignPlan& plan, int64_t image, int64_t channel) {
  constexpr int64_t width = kChannels<T>;
  const int64_t channels = smaller<int64_t>(width, plan.channels - channel), bins = plan.options.bins();
  const TapTable<T>& table = plan.table<T>();
  T* slab = Scratch::take<T>(0, plan.cells() * width);
  T* grad = Scratch::take<T>(1, bins * width);
  for (int64_t i = 0; i < plan.cells() * kVectors; ++i) vectors(slab)[i] = Vector<T>{};
  for (int64_t i = plan.rois->bounds[image]; i < plan.rois->bounds[image + 1]; ++i) {
    const int64_t roi = plan.rois->order[i];
    const S* input = static_cast<const S*>(plan.input) + (roi * plan.channels + channel) * bins;
    load_block<S, T>(input, bins, channels, bins, grad);
    const int64_t rows = table.axes[2 * roi].first_group, columns = table.axes[2 * roi + 1].first_group;
    const T* bin = grad;
    for (int p = 0; p < plan.options.height; ++p) {
      for (int q = 0; q < plan.options.width; ++q, bin += width) {
        for (const Tap<T>* row = table.begin(rows + p); row < table.end(rows + p); ++row) {
          T* cells = slab + row->cell * plan.map_width * width;
          Vector<T> share[kVectors];
          for (int k = 0; k < kVectors; ++k) share[k] = row->weight * vectors(bin)[k];
          const Tap<T>* end = table.end(columns + q);
          for (const Tap<T>* column = table.begin(columns + q); column < end; ++column) {
            Vector<T>* cell = vectors(cells + column->cell * width);
            for (int k = 0; k < kVectors; ++k) cell[k] += column->weight * share[k];
          }
        }
      }
    }
  }
  S* output = static_cast<S*>(plan.output) + (image * plan.channels + channel) * plan.cells();
  store_block<S, T>(slab, channels, plan.cells(), output, plan.cells());
}

// The largest sample of each bin and its index. A NaN beats every number, and the first of equal samples wins.
template <typename S, typename T>
static void align_max_typed(const AlignPlan& plan, int64_t image, int64_t channel) {
  constexpr int64_t width = kChannels<T>;
  using Place = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  const int64_t channels = smaller<int64_t>(width, plan.channels - channel), bins = plan.options.bins();
  const TapTable<T>& table = plan.table<T>();
  T* slab = Scratch::take<T>(0, plan.cells() * width);
  T* pooled = Scratch::take<T>(1, bins * width);
  Place* places = Scratch::take<Place>(2, bins * width);
  load_slab<S, T>(*plan.features, image, channel, channels, slab);
  for (int64_t i = plan.rois->bounds[image]; i < plan.rois->bounds[image + 1]; ++i) {
    const int64_t roi = plan.rois->order[i];
    const auto rows = table.axes[2 * roi], columns = table.axes[2 * roi + 1];
    for (int64_t bin = 0; bin < bins; ++bin) {
      Vector<T> best[kVectors] = {};
      Index<T> where[kVectors];
      for (int k = 0; k < kVectors; ++k) where[k] = Index<T>{} - Place{1};
      for (Place sample = 0; sample < static_cast<Place>(rows.per_bin) * columns.per_bin; ++sample) {
        const int64_t row = rows.first_group + bin / plan.options.width * rows.per_bin + sample / columns.per_bin;
        const int64_t column =
            columns.first_group + bin % plan.options.width * columns.per_bin + sample % columns.per_bin;
        Vector<T> value[kVectors];
        read_taps(slab, plan.map_width, table.begin(row), table.end(row), table.begin(column), table.end(column),
                  value);
        for (int k = 0; k < kVectors; ++k) {
          const Index<T> first = where[k] < Place{0};
          const Index<T> better = first | (value[k] > best[k]) | ((value[k] != value[k]) & (best[k] == best[k]));
          best[k] = better ? value[k] : best[k];
          where[k] = better ? Index<T>{} + sample : where[k];
        }
      }
      for (int k = 0; k < kVectors; ++k) {
        vectors(pooled + bin * width)[k] = best[k];
        reinterpret_cast<Index<T>*>(places + bin * width)[k] = where[k];
      }
    }
    const int64_t output = (roi * plan.channels + channel) * bins;
    put_outputs<S, T>(pooled, channels, bins, static_cast<S*>(plan.output) + output, plan.past_caches);
    int32_t* narrow = Scratch::take<int32_t>(3, bins * width);
    for (int64_t j = 0; j < bins * width; ++j) narrow[j] = static_cast<int32_t>(places[j]);
    put_rows<sizeof(int32_t)>(narrow, width, channels, bins, plan.argmax + output, plan.past_caches);
  }
}

// The taps of a bin's winning sample; none if the bin has no sample.
template <typename T>
struct WinningTaps {
  const Tap<T>*row = nullptr, *rows_end = nullptr, *column = nullptr, *columns_end = nullptr;

  WinningTaps(const AlignPlan& plan, int64_t roi, int64_t bin, int32_t sample) {
    const TapTable<T>& table = plan.table<T>();
    const auto rows = table.axes[2 * roi], columns = table.axes[2 * roi + 1];
    if (sample < 0 || sample >= static_cast<int64_t>(rows.per_bin) * columns.per_bin) return;
    const int64_t y = rows.first_group + bin / plan.options.width * rows.per_bin + sample / columns.per_bin;
    const int64_t x = columns.first_group + bin % plan.options.width * columns.per_bin + sample % columns.per_bin;
    row = table.begin(y), rows_end = table.end(y), column = table.begin(x), columns_end = table.end(x);
  }
};

// Adds each output's gradient to the corners of its winning sample. The task owns these planes of the gradient.
template <typename S, typename T>
static void align_max_scatter_typed(const AlignPlan& plan, int64_t image, int64_t channel) {
  const int64_t channels = smaller<int64_t>(kScatterPlanes, plan.channels - channel), bins = plan.options.bins();
  T* total = Scratch::take<T>(0, channels * plan.cells());
  for (int64_t i = 0; i < channels * plan.cells(); ++i) total[i] = 0;
  for (int64_t i = plan.rois->bounds[image]; i < plan.rois->bounds[image + 1]; ++i) {
    const int64_t roi = plan.rois->order[i];
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t from = (roi * plan.channels + channel + c) * bins;
      T* plane = total + c * plan.cells();
      for (int64_t bin = 0; bin < bins; ++bin) {
        const T grad = number(static_cast<const S*>(plan.input)[from + bin]);
        const WinningTaps<T> taps(plan, roi, bin, plan.winner[from + bin]);
        for (const Tap<T>* y = taps.row; y < taps.rows_end; ++y) {
          for (const Tap<T>* x = taps.column; x < taps.columns_end; ++x) {
            plane[y->cell * plan.map_width + x->cell] += grad * (y->weight * x->weight);
          }
        }
      }
    }
  }
  S* output = static_cast<S*>(plan.output) + (image * plan.channels + channel) * plan.cells();
  for (int64_t i = 0; i < channels * plan.cells(); ++i) {
    if constexpr (sizeof(S) == sizeof(T)) {
      output[i] = total[i];
    } else {
      output[i] = stored<S>(total[i]);
    }
  }
}

// Values of the winning samples, read from the features directly, since each is read once.
template <typename S, typename T>
static void align_max_gather_typed(const AlignPlan& plan, int64_t image, int64_t channel) {
  const int64_t channels = smaller<int64_t>(kScatterPlanes, plan.channels - channel), bins = plan.options.bins();
  const MapView& map = *plan.features;
  const S* planes = static_cast<const S*>(map.data) + image * map.stride[0] + channel * map.stride[1];
  for (int64_t i = plan.rois->bounds[image]; i < plan.rois->bounds[image + 1]; ++i) {
    const int64_t roi = plan.rois->order[i];
    for (int64_t c = 0; c < channels; ++c) {
      const S* plane = planes + c * map.stride[1];
      const int64_t from = (roi * plan.channels + channel + c) * bins;
      for (int64_t bin = 0; bin < bins; ++bin) {
        const WinningTaps<T> taps(plan, roi, bin, plan.winner[from + bin]);
        T value = 0;
        for (const Tap<T>* y = taps.row; y < taps.rows_end; ++y) {
          for (const Tap<T>* x = taps.column; x < taps.columns_end; ++x) {
            value += y->weight * x->weight * number(plane[y->cell * map.stride[2] + x->cell * map.stride[3]]);
          }
        }
        S& output = static_cast<S*>(plan.output)[from + bin];
        if constexpr (sizeof(S) == sizeof(T)) {
          output = value;
        } else {
          output = stored<S>(value);
        }
      }
    }
  }
}

// The gradient of the RoIs' coordinates in RoIWarp, from one block of channels. Each block has its own sums [R, 4].
template <typename S, typename T>
static void warp_rois_typed(const AlignPlan& plan, int64_t image, int64_t channel) {
  constexpr int64_t width = kChannels<T>;
  const int64_t channels = smaller<int64_t>(width, plan.channels - channel), bins = plan.options.bins();
  T* slab = Scratch::take<T>(0, plan.cells() * width);
  T* grad = Scratch::take<T>(1, bins * width);
  load_slab<S, T>(*plan.features, image, channel, channels, slab);
  const int64_t num_rois = static_cast<int64_t>(plan.rois->order.size());
  for (int64_t i = plan.rois->bounds[image]; i < plan.rois->bounds[image + 1]; ++i) {
    const int64_t roi = plan.rois->order[i];
    double* sums = static_cast<double*>(plan.output) + (channel / width * num_rois + roi) * 4;
    for (int j = 0; j < 4; ++j) sums[j] = 0;
    const T* corners = static_cast<const T*>(plan.edges) + roi * kRoiColumns;
    if (image_of(corners, plan.images) < 0) continue;
    load_block<S, T>(static_cast<const S*>(plan.input) + (roi * plan.channels + channel) * bins, bins, channels, bins,
                     grad);
    const SampleAxis<T> rows = sample_axis(corners, true, plan.images, plan.options);
    const SampleAxis<T> columns = sample_axis(corners, false, plan.images, plan.options);
    for (int64_t bin = 0; bin < bins; ++bin) {
      const int p = static_cast<int>(bin / plan.options.width), q = static_cast<int>(bin % plan.options.width);
      const Neighbours<T> y(rows.at(p, 0), plan.map_height), x(columns.at(q, 0), plan.map_width);
      if (!y.inside || !x.inside) continue;
      const Vector<T>* top_left = vectors(slab + (y.lower * plan.map_width + x.lower) * width);
      const Vector<T>* top_right = vectors(slab + (y.lower * plan.map_width + x.upper) * width);
      const Vector<T>* bottom_left = vectors(slab + (y.upper * plan.map_width + x.lower) * width);
      const Vector<T>* bottom_right = vectors(slab + (y.upper * plan.map_width + x.upper) * width);
      Vector<T> down = {}, right = {};
      for (int k = 0; k < kVectors; ++k) {
        const Vector<T> share = vectors(grad + bin * width)[k];
        down += share *
                (x.weight_lower * (bottom_left[k] - top_left[k]) + x.weight_upper * (bottom_right[k] - top_right[k]));
        right += share *
                 (y.weight_lower * (top_right[k] - top_left[k]) + y.weight_upper * (bottom_right[k] - bottom_left[k]));
      }
      double grad_y = 0, grad_x = 0;
      for (int lane = 0; lane < static_cast<int>(kVectorBytes / sizeof(T)); ++lane) {
        if (y.follows) grad_y += down[lane];
        if (x.follows) grad_x += right[lane];
      }
      // A sample at fraction f from the first corner moves by 1 - f per unit of the first, by f per unit of the second.
      const double part_y = (p + 0.5) / plan.options.height, part_x = (q + 0.5) / plan.options.width;
      sums[0] += grad_x * (1 - part_x), sums[1] += grad_y * (1 - part_y);
      sums[2] += grad_x * part_x, sums[3] += grad_y * part_y;
    }
  }
}

#define FAST_RFCN_ALIGN_TASK(name, typed, block_of)                                              \
  static void name(const AlignPlan& plan, int64_t task) {                                        \
    const int64_t block = plan.dtype == ScalarType::Double ? block_of(double) : block_of(float); \
    const int64_t blocks = (plan.channels + block - 1) / block;                                  \
    const int64_t image = task / blocks, channel = task % blocks * block;                        \
    switch (plan.dtype) {                                                                        \
      case ScalarType::Double:                                                                   \
        return typed<double, double>(plan, image, channel);                                      \
      case ScalarType::Half:                                                                     \
        return typed<Half, float>(plan, image, channel);                                         \
      case ScalarType::BFloat16:                                                                 \
        return typed<BFloat16, float>(plan, image, channel);                                     \
      default:                                                                                   \
        return typed<float, float>(plan, image, channel);                                        \
    }                                                                                            \
  }
#define FAST_RFCN_VECTOR_BLOCK(T) kChannels<T>
#define FAST_RFCN_PLANE_BLOCK(T) kScatterPlanes

FAST_RFCN_ALIGN_TASK(align_mean, align_mean_typed, FAST_RFCN_VECTOR_BLOCK)
FAST_RFCN_ALIGN_TASK(align_mean_grad, align_mean_grad_typed, FAST_RFCN_VECTOR_BLOCK)
FAST_RFCN_ALIGN_TASK(align_max, align_max_typed, FAST_RFCN_VECTOR_BLOCK)
FAST_RFCN_ALIGN_TASK(align_max_scatter, align_max_scatter_typed, FAST_RFCN_PLANE_BLOCK)
FAST_RFCN_ALIGN_TASK(align_max_gather, align_max_gather_typed, FAST_RFCN_PLANE_BLOCK)
FAST_RFCN_ALIGN_TASK(warp_rois, warp_rois_typed, FAST_RFCN_VECTOR_BLOCK)

#undef FAST_RFCN_ALIGN_TASK
#undef FAST_RFCN_VECTOR_BLOCK
#undef FAST_RFCN_PLANE_BLOCK
