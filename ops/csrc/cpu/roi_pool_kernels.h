// RoI max pooling for one instruction set; see for_each_instruction_set.h.

// The largest cell of a bin, per channel, and its position with kArgmax. kNan is for features that have a NaN, which
// are rare: a NaN beats every number.
template <typename T, bool kArgmax, bool kNan>
static inline void pool_bin(const T* slab, int64_t map_width, Span rows, Span columns, T* best_out,
                            Index<T>* where_out) {
  Vector<T> best[kVectors];
  Index<T> where[kVectors];
  const int64_t first = rows.first * map_width + columns.first;
  for (int k = 0; k < kVectors; ++k) {
    best[k] = vectors(slab + first * kChannels<T>)[k];
    if constexpr (kArgmax) where[k] = Index<T>{} + static_cast<decltype(where[0][0] + 0)>(first);
  }
  for (int64_t y = rows.first; y < rows.end; ++y) {
    const int64_t row = y * map_width;
    for (int64_t cell = row + columns.first; cell < row + columns.end; ++cell) {
      const Vector<T>* values = vectors(slab + cell * kChannels<T>);
      for (int k = 0; k < kVectors; ++k) {
        const Vector<T> value = values[k];
        if constexpr (kNan) {
          const Index<T> better = (value > best[k]) | ((value != value) & (best[k] == best[k]));
          best[k] = better ? value : best[k];
          if constexpr (kArgmax)
            where[k] = better ? Index<T>{} + static_cast<decltype(where[0][0] + 0)>(cell) : where[k];
        } else if constexpr (kArgmax) {
          const Index<T> better = value > best[k];
          best[k] = better ? value : best[k];
          where[k] = better ? Index<T>{} + static_cast<decltype(where[0][0] + 0)>(cell) : where[k];
        } else {
          best[k] = value > best[k] ? value : best[k];
        }
      }
    }
  }
  for (int k = 0; k < kVectors; ++k) {
    vectors(best_out)[k] = best[k];
    if constexpr (kArgmax) where_out[k] = where[k];
  }
}

template <typename T, typename A, typename Place>
static inline void put_places(const PoolPlan& plan, const Place* where, int64_t channels, int64_t output) {
  constexpr int64_t width = kChannels<T>;
  const int64_t bins = plan.bins();
  A* narrow = Scratch::take<A>(3, bins * width);
  for (int64_t i = 0; i < bins * width; ++i) narrow[i] = static_cast<A>(where[i]);
  put_rows<sizeof(A)>(narrow, width, channels, bins, static_cast<A*>(plan.argmax) + output, plan.past_caches);
}

// Pools all RoIs of one image on one block of channels.
template <typename S, typename T, bool kArgmax, bool kNan>
static void pool_rois(const PoolPlan& plan, int64_t image, int64_t channel, int64_t channels, const T* slab) {
  constexpr int64_t width = kChannels<T>;
  using Place = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  const int64_t bins = plan.bins();
  T* pooled = Scratch::take<T>(1, bins * width);
  Place* where = kArgmax ? Scratch::take<Place>(2, bins * width) : nullptr;
  for (int64_t i = plan.rois->bounds[image]; i < plan.rois->bounds[image + 1]; ++i) {
    const int64_t roi = plan.rois->order[i];
    const Span* rows = plan.spans + roi * (plan.height + plan.width);
    const Span* columns = rows + plan.height;
    for (int p = 0; p < plan.height; ++p) {
      for (int q = 0; q < plan.width; ++q) {
        const int64_t bin = static_cast<int64_t>(p) * plan.width + q;
        T* best = pooled + bin * width;
        auto* place = reinterpret_cast<Index<T>*>(where + bin * width);
        if (rows[p].first < rows[p].end && columns[q].first < columns[q].end) {
          pool_bin<T, kArgmax, kNan>(slab, plan.map.width, rows[p], columns[q], best, place);
        } else {
          for (int64_t c = 0; c < width; ++c) best[c] = 0;
          for (int64_t c = 0; kArgmax && c < width; ++c) where[bin * width + c] = -1;
        }
      }
    }
    const int64_t output = (roi * plan.map.channels + channel) * bins;
    put_outputs<S, T>(pooled, channels, bins, static_cast<S*>(plan.pooled) + output, plan.past_caches);
    if constexpr (kArgmax) {
      plan.wide_argmax ? put_places<T, int32_t>(plan, where, channels, output)
                       : put_places<T, uint16_t>(plan, where, channels, output);
    }
  }
}

template <typename S, typename T>
static void pool_typed(const PoolPlan& plan, int64_t image, int64_t channel) {
  const int64_t channels = smaller<int64_t>(kChannels<T>, plan.map.channels - channel);
  T* slab = Scratch::take<T>(0, plan.map.cells() * kChannels<T>);
  load_slab<S, T>(plan.map, image, channel, channels, slab);
  const bool nan = has_nan(slab, plan.map.cells());
  if (plan.argmax != nullptr) {
    nan ? pool_rois<S, T, true, true>(plan, image, channel, channels, slab)
        : pool_rois<S, T, true, false>(plan, image, channel, channels, slab);
  } else {
    nan ? pool_rois<S, T, false, true>(plan, image, channel, channels, slab)
        : pool_rois<S, T, false, false>(plan, image, channel, channels, slab);
  }
}

static void pool(const PoolPlan& plan, int64_t task) {
  const int64_t block = plan.dtype == ScalarType::Double ? kChannels<double> : kChannels<float>;
  const int64_t blocks = (plan.map.channels + block - 1) / block;
  const int64_t image = task / blocks, channel = task % blocks * block;
  switch (plan.dtype) {
    case ScalarType::Double:
      return pool_typed<double, double>(plan, image, channel);
    case ScalarType::Half:
      return pool_typed<Half, float>(plan, image, channel);
    case ScalarType::BFloat16:
      return pool_typed<BFloat16, float>(plan, image, channel);
    default:
      return pool_typed<float, float>(plan, image, channel);
  }
}

// Adds the gradients of the outputs of `kPlanes` channels at their argmax. Successive additions go to different
// channels, because an addition waits for the previous one if both go to the same cell.
template <int kPlanes, typename S, typename T, typename A>
static inline void scatter_outputs(const S* grad, const A* argmax, int64_t bins, T* planes, int64_t cells) {
  for (int64_t bin = 0; bin < bins; ++bin) {
    for (int plane = 0; plane < kPlanes; ++plane) {
      const A cell = argmax[plane * bins + bin];
      if (cell != static_cast<A>(-1)) planes[plane * cells + cell] += number(grad[plane * bins + bin]);
    }
  }
}

// Adds each output's gradient at its argmax. No two tasks share a cell, so gradients are added in the order of the
// RoIs.
template <typename S, typename T, typename A>
static void scatter_typed(const ScatterPlan& plan, int64_t image, int64_t channel) {
  constexpr int kTogether = 4;
  const int64_t channels = smaller<int64_t>(kScatterPlanes, plan.channels - channel), bins = plan.bins;
  S* output = static_cast<S*>(plan.total) + (image * plan.channels + channel) * plan.cells;
  T* total;
  if constexpr (sizeof(S) == sizeof(T)) {
    total = output;
  } else {
    total = Scratch::take<T>(0, channels * plan.cells);
  }
  for (int64_t i = 0; i < channels * plan.cells; ++i) total[i] = 0;
  const int64_t begin = plan.rois->bounds[image], end = plan.rois->bounds[image + 1];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t from = (plan.rois->order[i] * plan.channels + channel) * bins;
    const int64_t next = (plan.rois->order[smaller(i + 1, end - 1)] * plan.channels + channel) * bins;
    const S* grad = static_cast<const S*>(plan.grad);
    const A* argmax = static_cast<const A*>(plan.argmax);
    int64_t c = 0;
    for (; c + kTogether <= channels; c += kTogether) {
      fetch(grad + next + c * bins, kTogether * bins * sizeof(S));
      fetch(argmax + next + c * bins, kTogether * bins * sizeof(A));
      scatter_outputs<kTogether>(grad + from + c * bins, argmax + from + c * bins, bins, total + c * plan.cells,
                                 plan.cells);
    }
    for (; c < channels; ++c) {
      scatter_outputs<1>(grad + from + c * bins, argmax + from + c * bins, bins, total + c * plan.cells, plan.cells);
    }
  }
  if constexpr (sizeof(S) != sizeof(T)) {
    for (int64_t i = 0; i < channels * plan.cells; ++i) output[i] = stored<S>(total[i]);
  }
}

template <typename S, typename T>
static void scatter_wide_or_narrow(const ScatterPlan& plan, int64_t image, int64_t channel) {
  plan.wide_argmax ? scatter_typed<S, T, int32_t>(plan, image, channel)
                   : scatter_typed<S, T, uint16_t>(plan, image, channel);
}

static void scatter(const ScatterPlan& plan, int64_t task) {
  const int64_t blocks = (plan.channels + kScatterPlanes - 1) / kScatterPlanes;
  const int64_t image = task / blocks, channel = task % blocks * kScatterPlanes;
  switch (plan.dtype) {
    case ScalarType::Double:
      return scatter_wide_or_narrow<double, double>(plan, image, channel);
    case ScalarType::Half:
      return scatter_wide_or_narrow<Half, float>(plan, image, channel);
    case ScalarType::BFloat16:
      return scatter_wide_or_narrow<BFloat16, float>(plan, image, channel);
    default:
      return scatter_wide_or_narrow<float, float>(plan, image, channel);
  }
}
