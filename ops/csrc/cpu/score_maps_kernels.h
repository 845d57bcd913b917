// The passes of score_maps.h for one instruction set; see for_each_instruction_set.h. A `Bins` works on the lanes of a
// block, N vectors, in bin (i, j) of the RoI of a visit:
//   void reduce<N>(visit, i, j, slab, value, place)   sets the value, and its position, unless the bin is empty
//   void spread<N>(visit, i, j, grad, slab)           adds to the cells of the bin

// Vectors of at most 32 bytes: wider ones would have more lanes without a class.
constexpr int kScoreBytes = kVectorBytes < 32 ? kVectorBytes : 32;

template <typename T>
struct ScoreVectors;
template <>
struct ScoreVectors<float> {
  typedef float Vector __attribute__((vector_size(kScoreBytes), may_alias));
  typedef int32_t Index __attribute__((vector_size(kScoreBytes), may_alias));
};
template <>
struct ScoreVectors<double> {
  typedef double Vector __attribute__((vector_size(kScoreBytes), may_alias));
  typedef int64_t Index __attribute__((vector_size(kScoreBytes), may_alias));
};
template <typename T>
using Scores = typename ScoreVectors<T>::Vector;
template <typename T>
using Places = typename ScoreVectors<T>::Index;

// Number of lanes of N vectors.
template <typename T, int N>
constexpr int kLanes = N * kScoreBytes / static_cast<int>(sizeof(T));

template <typename T>
static inline const Scores<T>* scores(const T* lanes) {
  return reinterpret_cast<const Scores<T>*>(lanes);
}
template <typename T>
static inline Scores<T>* scores(T* lanes) {
  return reinterpret_cast<Scores<T>*>(lanes);
}

// Calls f.operator()<N>() for the N vectors of T that have `lanes` lanes.
template <typename T, int N = 32 / kScoreBytes, typename F>
static inline void with_vectors(int64_t lanes, const F& f) {
  if constexpr (kLanes<T, N> == kClasses<T>) {
    f.template operator()<N>();
  } else {
    if (lanes == kLanes<T, N>) return f.template operator()<N>();
    with_vectors<T, N + 32 / kScoreBytes>(lanes, f);
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

// Copies planes of S, one per class, to cells of lanes. `stride` is from cell to cell.
template <typename S, typename T>
static inline void to_lanes(const S* planes, int64_t plane_stride, int64_t classes, int64_t cells, T* lanes,
                            int64_t stride) {
  if constexpr (sizeof(S) == sizeof(T)) {
    transpose<sizeof(S)>(planes, plane_stride, lanes, stride, classes, cells);
  } else {
    alignas(64) S chunk[kChunk * kClasses<T>];
    const int64_t width = (classes + kLaneStep<T> - 1) / kLaneStep<T> * kLaneStep<T>;
    for (int64_t begin = 0; begin < cells; begin += kChunk) {
      const int64_t count = smaller(kChunk, cells - begin);
      transpose<sizeof(S)>(planes + begin, plane_stride, chunk, width, classes, count);
      for (int64_t cell = 0; cell < count; ++cell) {
        T* to = lanes + (begin + cell) * stride;
        for (int64_t lane = 0; lane < width; ++lane) to[lane] = number(chunk[cell * width + lane]);
      }
    }
  }
}

// Copies cells of lanes to planes of S, one per class.
template <typename S, typename T>
static inline void to_planes(const T* lanes, int64_t stride, int64_t classes, int64_t cells, S* planes,
                             int64_t plane_stride) {
  if constexpr (sizeof(S) == sizeof(T)) {
    transpose<sizeof(S)>(lanes, stride, planes, plane_stride, cells, classes);
  } else {
    alignas(64) S chunk[kChunk * kClasses<T>];
    const int64_t width = (classes + kLaneStep<T> - 1) / kLaneStep<T> * kLaneStep<T>;
    for (int64_t begin = 0; begin < cells; begin += kChunk) {
      const int64_t count = smaller(kChunk, cells - begin);
      for (int64_t cell = 0; cell < count; ++cell) {
        const T* from = lanes + (begin + cell) * stride;
        for (int64_t lane = 0; lane < width; ++lane) chunk[cell * width + lane] = stored<S>(from[lane]);
      }
      transpose<sizeof(S)>(chunk, width, planes + begin, plane_stride, count, classes);
    }
  }
}

// Fills the slab with the score maps of one bin.
template <typename S, typename T>
static inline void load_bin(const ScorePlan& plan, int64_t image, int64_t block, int64_t bin, T* slab) {
  const MapView& map = plan.map;
  const int64_t classes = plan.classes_of<T>(block), lanes = plan.lanes_of<T>(block);
  const int64_t plane = map.stride[1] * plan.num_bins();
  const S* planes =
      static_cast<const S*>(map.data) + image * map.stride[0] + bin * map.stride[1] + block * kClasses<T> * plane;
  if (map.planes_are_dense()) return to_lanes<S, T>(planes, plane, classes, map.cells(), slab, lanes);
  for (int64_t y = 0; y < map.height; ++y) {
    for (int64_t x = 0; x < map.width; ++x, slab += lanes) {
      const S* cell = planes + y * map.stride[2] + x * map.stride[3];
      for (int64_t c = 0; c < classes; ++c) slab[c] = number(cell[c * plane]);
    }
  }
}

// Fills the slabs of all bins for one row of cells of channels-last maps: a cell is a matrix [classes][bins].
static void regroup(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number_type) {
    using S = decltype(storage);
    using T = decltype(number_type);
    const int64_t image = task / plan.map.height, y = task % plan.map.height, bins = plan.num_bins();
    const S* row = static_cast<const S*>(plan.map.data) + image * plan.map.stride[0] + y * plan.map.stride[2];
    for (int64_t block = 0; block < plan.blocks<T>(); ++block) {
      const int64_t stride = plan.map.cells() * plan.lanes_of<T>(block);
      for (int64_t x = 0; x < plan.map.width; ++x) {
        const S* cell = row + x * plan.map.stride[3] + block * kClasses<T> * bins;
        to_lanes<S, T>(cell, bins, plan.classes_of<T>(block), bins, plan.slab<T>(block, 0, y * plan.map.width + x),
                       stride);
      }
    }
  });
}

// Reduces one bin of all RoIs of an image, from its slab.
template <typename Bins, typename T, int N>
static void reduce_bin(const ScorePlan& plan, int64_t image, int64_t block, int64_t run, int64_t bin, bool first,
                       const T* slab) {
  constexpr int lanes = kLanes<T, N>;
  const Bins bins{*static_cast<const typename Bins::Cells*>(plan.cells)};
  const int i = static_cast<int>(bin / plan.k), j = static_cast<int>(bin % plan.k);
  const int64_t begin = plan.rois->bounds[image], end = plan.rois->bounds[image + 1];
  Scores<T>* slot = scores(plan.slot<T>(block, run, begin));
  int32_t* where = Bins::kArgmax && plan.where != nullptr ? plan.place<T>(block, bin, begin) : nullptr;
  for (int64_t visit = begin; visit < end; ++visit, slot += N) {
    Scores<T> value[N] = {};
    Places<T> place[N];
    for (int n = 0; n < N; ++n) place[n] = Places<T>{} - 1;
    bins.template reduce<N>(visit, i, j, slab, value, place);
    for (int n = 0; n < N; ++n) slot[n] = first ? value[n] : slot[n] + value[n];
    if (Bins::kArgmax && where != nullptr) {
      for (int lane = 0; lane < lanes; ++lane) {
        where[lane] = static_cast<int32_t>(place[lane / kLanes<T, 1>][lane % kLanes<T, 1>]);
      }
      where += lanes;
    }
  }
}

template <template <typename> class Bins>
static void reduce(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number_type) {
    using S = decltype(storage);
    using T = decltype(number_type);
    const int64_t run = task % plan.runs, block = task / plan.runs % plan.blocks<T>();
    const int64_t image = task / plan.runs / plan.blocks<T>();
    const int64_t begin = run * plan.num_bins() / plan.runs, end = (run + 1) * plan.num_bins() / plan.runs;
    if (plan.rois->bounds[image] == plan.rois->bounds[image + 1]) return;
    for (int64_t bin = begin; bin < end; ++bin) {
      T* slab;
      if (plan.slabs != nullptr) {
        slab = plan.slab<T>(block, bin, 0);
      } else {
        slab = Scratch::take<T>(0, plan.map.cells() * plan.lanes_of<T>(block));
        load_bin<S, T>(plan, image, block, bin, slab);
      }
      with_vectors<T>(plan.lanes_of<T>(block),
                      [&]<int N>() { reduce_bin<Bins<T>, T, N>(plan, image, block, run, bin, bin == begin, slab); });
    }
  });
}

// Writes the bins of some RoIs, or the mean over all bins, in the layout and dtype of the output.
template <bool kVote>
static void finish(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number_type) {
    using S = decltype(storage);
    using T = decltype(number_type);
    const int64_t packs = (plan.num_rois + kPackRois - 1) / kPackRois, block = task / packs;
    const int64_t classes = plan.classes_of<T>(block), lanes = plan.lanes_of<T>(block);
    const int64_t bins = plan.num_bins(), begin = task % packs * kPackRois, stride = plan.num_rois * lanes;
    for (int64_t visit = begin; visit < smaller(begin + kPackRois, plan.num_rois); ++visit) {
      const int64_t output = plan.rois->order[visit] * plan.classes() + block * kClasses<T>;
      const T* slot = plan.slot<T>(block, 0, visit);
      if constexpr (kVote) {
        alignas(64) T votes[kClasses<T>] = {};
        for (int64_t run = 0; run < plan.runs; ++run) {
          for (int64_t lane = 0; lane < lanes; ++lane) votes[lane] += slot[run * stride + lane];
        }
        for (int64_t lane = 0; lane < lanes; ++lane) votes[lane] /= static_cast<T>(bins);
        S* to = static_cast<S*>(plan.output) + output;
        for (int64_t c = 0; c < classes; ++c) {
          if constexpr (sizeof(S) == sizeof(T)) {
            to[c] = votes[c];
          } else {
            to[c] = stored<S>(votes[c]);
          }
        }
      } else {
        to_planes<S, T>(slot, stride, classes, bins, static_cast<S*>(plan.output) + output * bins, bins);
      }
      if (plan.argmax == nullptr) continue;
      const int32_t* where = plan.place<T>(block, 0, visit);
      if (plan.wide_argmax) {
        transpose<sizeof(int32_t)>(where, stride, static_cast<int32_t*>(plan.argmax) + output * bins, bins, bins,
                                   classes);
      } else {
        uint16_t* narrow = Scratch::take<uint16_t>(2, bins * lanes);
        for (int64_t bin = 0; bin < bins; ++bin) {
          for (int64_t lane = 0; lane < lanes; ++lane) {
            narrow[bin * lanes + lane] = static_cast<uint16_t>(where[bin * stride + lane]);
          }
        }
        transpose<sizeof(uint16_t)>(narrow, lanes, static_cast<uint16_t*>(plan.argmax) + output * bins, bins, bins,
                                    classes);
      }
    }
  });
}

// Copies the gradients of some RoIs to lanes.
static void pack(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number_type) {
    using S = decltype(storage);
    using T = decltype(number_type);
    const int64_t packs = (plan.num_rois + kPackRois - 1) / kPackRois, block = task / packs;
    const int64_t begin = task % packs * kPackRois;
    for (int64_t visit = begin; visit < smaller(begin + kPackRois, plan.num_rois); ++visit) {
      const int64_t first = plan.rois->order[visit] * plan.classes() + block * kClasses<T>;
      const S* grad = static_cast<const S*>(plan.output) + first * plan.runs;
      to_lanes<S, T>(grad, plan.runs, plan.classes_of<T>(block), plan.runs, plan.slot<T>(block, 0, visit),
                     plan.num_rois * plan.lanes_of<T>(block));
    }
  });
}

template <typename Bins, typename T, int N>
static void spread_bin(const ScorePlan& plan, int64_t image, int64_t block, int64_t bin, T* slab) {
  const Bins bins{*static_cast<const typename Bins::Cells*>(plan.cells)};
  const int i = static_cast<int>(bin / plan.k), j = static_cast<int>(bin % plan.k);
  for (int64_t n = 0; n < plan.map.cells() * N; ++n) scores(slab)[n] = Scores<T>{};
  for (int64_t visit = plan.rois->bounds[image]; visit < plan.rois->bounds[image + 1]; ++visit) {
    const T* slot = plan.slot<T>(block, plan.runs == 1 ? 0 : bin, visit);
    bins.template spread<N>(visit, i, j, scores(slot), slab);
  }
}

template <template <typename> class Bins>
static void spread(const ScorePlan& plan, int64_t task) {
  typed(plan.dtype, [&](auto storage, auto number_type) {
    using S = decltype(storage);
    using T = decltype(number_type);
    const int64_t bins = plan.num_bins(), bin = task % bins, block = task / bins % plan.blocks<T>();
    const int64_t image = task / bins / plan.blocks<T>();
    const int64_t classes = plan.classes_of<T>(block), lanes = plan.lanes_of<T>(block), cells = plan.map.cells();
    T* slab = Scratch::take<T>(0, cells * lanes);
    with_vectors<T>(lanes, [&]<int N>() { spread_bin<Bins<T>, T, N>(plan, image, block, bin, slab); });
    const int64_t plane = image * plan.map.channels + block * kClasses<T> * bins + bin;
    S* planes = const_cast<S*>(static_cast<const S*>(plan.map.data)) + plane * cells;
    to_planes<S, T>(slab, lanes, classes, cells, planes, bins * cells);
  });
}
