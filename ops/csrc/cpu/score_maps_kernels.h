// The four passes of score_maps.h for one instruction set; see for_each_instruction_set.h. A `Bins` works on N vectors
// of classes in bin (i, j) of the RoI of a visit:
//   void reduce<N>(visit, i, j, slab, value, place)   sets the value, and its position, unless the bin is empty
//   void spread<N>(visit, i, j, grad, slab)           adds to the cells of the bin

// Calls f.operator()<N>() for the N vectors of T that hold `classes`.
template <typename T, int N = 1, typename F>
static inline void with_vectors(int64_t classes, const F& f) {
  if constexpr (N == kVectors) {
    f.template operator()<N>();
  } else {
    if (classes * static_cast<int64_t>(sizeof(T)) <= N * kVectorBytes) return f.template operator()<N>();
    with_vectors<T, N + 1>(classes, f);
  }
}

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

// The score maps of one bin as a map whose channels are the classes.
template <typename S>
static inline MapView map_of_bin(const ScorePlan& plan, int64_t bin) {
  MapView map = plan.map;
  map.data = static_cast<const S*>(map.data) + bin * map.stride[1];
  map.stride[1] *= plan.num_bins();
  map.channels = plan.classes();
  return map;
}

// Fills the slab with the score maps of one bin. Lanes past the last class are arbitrary; no output reads them.
template <typename S, typename T>
static inline void load_bin(const ScorePlan& plan, int64_t image, int64_t first, int64_t classes, int64_t bin,
                            T* slab) {
  const MapView map = map_of_bin<S>(plan, bin);
  if constexpr (sizeof(S) == sizeof(T)) {
    if (map.planes_are_dense()) {
      const S* planes = static_cast<const S*>(map.data) + image * map.stride[0] + first * map.stride[1];
      return transpose<sizeof(S)>(planes, map.stride[1], slab, kClasses<T>, classes, map.cells());
    }
  }
  load_slab<S, T>(map, image, first, classes, slab);
}

// Reduces one bin of all RoIs of an image, from its slab.
template <typename Bins, typename T, int N>
static void reduce_bin(const ScorePlan& plan, int64_t image, int64_t block, int64_t run, int64_t bin, bool first,
                       const T* slab) {
  const Bins bins{*static_cast<const typename Bins::Cells*>(plan.cells)};
  const int i = static_cast<int>(bin / plan.k), j = static_cast<int>(bin % plan.k);
  for (int64_t visit = plan.rois->bounds[image]; visit < plan.rois->bounds[image + 1]; ++visit) {
    Vector<T> value[N] = {};
    Index<T> place[N];
    for (int n = 0; n < N; ++n) place[n] = Index<T>{} - 1;
    bins.template reduce<N>(visit, i, j, slab, value, place);
    Vector<T>* slot = vectors(plan.template slot<T>(block, run, visit));
    for (int n = 0; n < N; ++n) slot[n] = first ? value[n] : slot[n] + value[n];
    if (Bins::kArgmax && plan.where != nullptr) {
      int32_t* where = plan.template place<T>(block, bin, visit);
      constexpr int lanes = kVectorBytes / sizeof(T);
      for (int n = 0; n < N; ++n) {
        for (int lane = 0; lane < lanes; ++lane) where[n * lanes + lane] = static_cast<int32_t>(place[n][lane]);
      }
    }
  }
}

template <template <typename> class Bins>
static void reduce(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const int64_t run = task % plan.runs, block = task / plan.runs % plan.template blocks<T>();
    const int64_t image = task / plan.runs / plan.template blocks<T>();
    const int64_t classes = smaller(plan.classes() - block * kClasses<T>, kClasses<T>);
    const int64_t begin = run * plan.num_bins() / plan.runs, end = (run + 1) * plan.num_bins() / plan.runs;
    T* slab = Scratch::take<T>(0, plan.map.cells() * kClasses<T>);
    for (int64_t bin = begin; bin < end; ++bin) {
      load_bin<S, T>(plan, image, block * kClasses<T>, classes, bin, slab);
      with_vectors<T>(classes,
                      [&]<int N>() { reduce_bin<Bins<T>, T, N>(plan, image, block, run, bin, bin == begin, slab); });
    }
  });
}

// Writes the bins of some RoIs, or the mean over all bins, in the layout and dtype of the output.
template <bool kVote>
static void finish(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const int64_t packs = (plan.num_rois + kPackRois - 1) / kPackRois, block = task / packs;
    const int64_t first = block * kClasses<T>, classes = smaller(plan.classes() - first, kClasses<T>);
    const int64_t bins = plan.num_bins(), begin = task % packs * kPackRois;
    T* gathered = Scratch::take<T>(1, bins * kClasses<T>);
    for (int64_t visit = begin; visit < smaller(begin + kPackRois, plan.num_rois); ++visit) {
      const int64_t output = plan.rois->order[visit] * plan.classes() + first;
      if constexpr (kVote) {
        Vector<T> votes[kVectors] = {};
        for (int64_t run = 0; run < plan.runs; ++run) {
          for (int n = 0; n < kVectors; ++n) votes[n] += vectors(plan.template slot<T>(block, run, visit))[n];
        }
        for (int n = 0; n < kVectors; ++n) votes[n] /= static_cast<T>(bins);
        for (int n = 0; n < kVectors; ++n) vectors(gathered)[n] = votes[n];
        for (int64_t c = 0; c < classes; ++c) {
          if constexpr (sizeof(S) == sizeof(T)) {
            static_cast<S*>(plan.output)[output + c] = gathered[c];
          } else {
            static_cast<S*>(plan.output)[output + c] = stored<S>(gathered[c]);
          }
        }
      } else {
        for (int64_t bin = 0; bin < bins; ++bin) {
          const Vector<T>* slot = vectors(plan.template slot<T>(block, bin, visit));
          for (int n = 0; n < kVectors; ++n) vectors(gathered + bin * kClasses<T>)[n] = slot[n];
        }
        store_block<S, T>(gathered, classes, bins, static_cast<S*>(plan.output) + output * bins, bins);
      }
      if (plan.argmax == nullptr) continue;
      const int32_t* where = plan.template place<T>(block, 0, visit);
      const int64_t stride = plan.num_rois * kClasses<T>;
      if (plan.wide_argmax) {
        int32_t* argmax = static_cast<int32_t*>(plan.argmax) + output * bins;
        transpose<sizeof(int32_t)>(where, stride, argmax, bins, bins, classes);
      } else {
        uint16_t* argmax = static_cast<uint16_t*>(plan.argmax) + output * bins;
        uint16_t* narrow = Scratch::take<uint16_t>(2, bins * kClasses<T>);
        for (int64_t bin = 0; bin < bins; ++bin) {
          for (int64_t c = 0; c < kClasses<T>; ++c) {
            narrow[bin * kClasses<T> + c] = static_cast<uint16_t>(where[bin * stride + c]);
          }
        }
        transpose<sizeof(uint16_t)>(narrow, kClasses<T>, argmax, bins, bins, classes);
      }
    }
  });
}

// Copies the gradients of some RoIs to the layout of `partial`, a vector of classes at a time.
static void pack(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const int64_t packs = (plan.num_rois + kPackRois - 1) / kPackRois, block = task / packs;
    const int64_t first = block * kClasses<T>, classes = smaller(plan.classes() - first, kClasses<T>);
    const int64_t begin = task % packs * kPackRois;
    T* gathered = Scratch::take<T>(1, plan.runs * kClasses<T>);
    for (int64_t visit = begin; visit < smaller(begin + kPackRois, plan.num_rois); ++visit) {
      const int64_t roi = plan.rois->order[visit];
      const S* grad = static_cast<const S*>(plan.output) + (roi * plan.classes() + first) * plan.runs;
      load_block<S, T>(grad, plan.runs, classes, plan.runs, gathered);
      for (int64_t run = 0; run < plan.runs; ++run) {
        Vector<T>* slot = vectors(plan.template slot<T>(block, run, visit));
        for (int n = 0; n < kVectors; ++n) slot[n] = vectors(gathered + run * kClasses<T>)[n];
      }
    }
  });
}

template <typename Bins, typename T, int N>
static void spread_bin(const ScorePlan& plan, int64_t image, int64_t block, int64_t bin, T* slab) {
  const Bins bins{*static_cast<const typename Bins::Cells*>(plan.cells)};
  const int i = static_cast<int>(bin / plan.k), j = static_cast<int>(bin % plan.k);
  for (int64_t cell = 0; cell < plan.map.cells(); ++cell) {
    for (int n = 0; n < N; ++n) vectors(slab + cell * kClasses<T>)[n] = Vector<T>{};
  }
  for (int64_t visit = plan.rois->bounds[image]; visit < plan.rois->bounds[image + 1]; ++visit) {
    const T* slot = plan.template slot<T>(block, plan.runs == 1 ? 0 : bin, visit);
    bins.template spread<N>(visit, i, j, vectors(slot), slab);
  }
}

template <template <typename> class Bins>
static void spread(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const int64_t bins = plan.num_bins(), bin = task % bins, block = task / bins % plan.template blocks<T>();
    const int64_t image = task / bins / plan.template blocks<T>();
    const int64_t first = block * kClasses<T>, classes = smaller(plan.classes() - first, kClasses<T>);
    T* slab = Scratch::take<T>(0, plan.map.cells() * kClasses<T>);
    with_vectors<T>(classes, [&]<int N>() { spread_bin<Bins<T>, T, N>(plan, image, block, bin, slab); });
    const int64_t plane = image * plan.map.channels + first * bins + bin;
    S* planes = const_cast<S*>(static_cast<const S*>(plan.map.data)) + plane * plan.map.cells();
    store_block<S, T>(slab, classes, plan.map.cells(), planes, bins * plan.map.cells());
  });
}
