// The four passes of score_maps.h for one instruction set; see each_isa.h. A `Bins` works on
// N vectors of classes of one bin of one RoI:
//   void reduce<N>(roi, i, j, slab, value, place)   sets the value, and where it is, unless the bin is empty
//   void spread<N>(roi, i, j, grad, slab)           adds to the cells of the bin

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

// One bin of all RoIs of an image, given its slab.
template <typename Bins, typename T, int N>
static void reduce_bin(
    const ScorePlan& plan, int64_t image, int64_t block, int64_t run, int64_t bin, bool first, const T* slab) {
  const Bins bins{*static_cast<const typename Bins::Cells*>(plan.cells)};
  const int i = static_cast<int>(bin / plan.k), j = static_cast<int>(bin % plan.k);
  for (int64_t index = plan.rois->bounds[image]; index < plan.rois->bounds[image + 1]; ++index) {
    const int64_t roi = plan.rois->order[index];
    Vector<T> value[N] = {};
    Index<T> place[N];
    for (int n = 0; n < N; ++n) place[n] = Index<T>{} - 1;
    bins.template reduce<N>(roi, i, j, slab, value, place);
    Vector<T>* slot = vectors(plan.template slot<T>(block, roi, run));
    for (int n = 0; n < N; ++n) slot[n] = first ? value[n] : slot[n] + value[n];
    if (Bins::kArgmax && plan.where != nullptr) {
      int32_t* where = plan.template place<T>(block, roi, bin);
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
      load_slab<S, T>(map_of_bin<S>(plan, bin), image, block * kClasses<T>, classes, slab);
      with_vectors<T>(classes, [&]<int N>() {
        reduce_bin<Bins<T>, T, N>(plan, image, block, run, bin, bin == begin, slab);
      });
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
    for (int64_t roi = begin; roi < smaller(begin + kPackRois, plan.num_rois); ++roi) {
      const int64_t output = roi * plan.classes() + first;
      const T* slot = plan.template slot<T>(block, roi, 0);
      if constexpr (kVote) {
        Vector<T> votes[kVectors] = {};
        for (int64_t run = 0; run < plan.runs; ++run) {
          for (int n = 0; n < kVectors; ++n) votes[n] += vectors(slot + run * kClasses<T>)[n];
        }
        for (int n = 0; n < kVectors; ++n) votes[n] /= static_cast<T>(bins);
        const T* vote = reinterpret_cast<const T*>(votes);
        for (int64_t c = 0; c < classes; ++c) {
          if constexpr (sizeof(S) == sizeof(T)) {
            static_cast<S*>(plan.output)[output + c] = vote[c];
          } else {
            static_cast<S*>(plan.output)[output + c] = stored<S>(vote[c]);
          }
        }
      } else {
        store_block<S, T>(slot, classes, bins, static_cast<S*>(plan.output) + output * bins, bins);
      }
      if (plan.argmax == nullptr) continue;
      const auto* where = reinterpret_cast<const uint32_t*>(plan.template place<T>(block, roi, 0));
      if (plan.wide_argmax) {
        uint32_t* argmax = static_cast<uint32_t*>(plan.argmax) + output * bins;
        transpose<uint32_t>(where, kClasses<T>, argmax, bins, bins, classes);
      } else {
        uint16_t* argmax = static_cast<uint16_t*>(plan.argmax) + output * bins;
        uint16_t* narrow = Scratch::take<uint16_t>(1, bins * kClasses<T>);
        for (int64_t n = 0; n < bins * kClasses<T>; ++n) narrow[n] = static_cast<uint16_t>(where[n]);
        transpose<uint16_t>(narrow, kClasses<T>, argmax, bins, bins, classes);
      }
    }
  });
}

// Lays the gradients of some RoIs out a vector of classes at a time.
static void pack(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number) {
    using S = decltype(storage);
    using T = decltype(number);
    const int64_t packs = (plan.num_rois + kPackRois - 1) / kPackRois, block = task / packs;
    const int64_t first = block * kClasses<T>, classes = smaller(plan.classes() - first, kClasses<T>);
    const int64_t begin = task % packs * kPackRois;
    for (int64_t roi = begin; roi < smaller(begin + kPackRois, plan.num_rois); ++roi) {
      const S* grad = static_cast<const S*>(plan.output) + (roi * plan.classes() + first) * plan.runs;
      load_block<S, T>(grad, plan.runs, classes, plan.runs, plan.template slot<T>(block, roi, 0));
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
  for (int64_t index = plan.rois->bounds[image]; index < plan.rois->bounds[image + 1]; ++index) {
    const int64_t roi = plan.rois->order[index];
    const T* slot = plan.template slot<T>(block, roi, plan.runs == 1 ? 0 : bin);
    bins.template spread<N>(roi, i, j, vectors(slot), slab);
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
