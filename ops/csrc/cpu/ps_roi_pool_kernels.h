// Position-sensitive RoI pooling for one instruction set; see for_each_instruction_set.h.

#include "score_maps_kernels.h"

// The mean of the cells of a bin.
template <typename T>
struct MeanBins {
  using Cells = BinSpans;
  const BinSpans& cells;
  static constexpr bool kArgmax = false;

  template <int N>
  void reduce(int64_t visit, int i, int j, const T* slab, Scores<T>* value, Places<T>*) const {
    const Span y = cells.rows(visit, i), x = cells.columns(visit, j);
    if (y.end <= y.first || x.end <= x.first) return;
    Scores<T> sum[N] = {};
    for (int64_t row = y.first; row < y.end; ++row) {
      const T* cell = slab + (row * cells.map_width + x.first) * kLanes<T, N>;
      for (int column = x.first; column < x.end; ++column, cell += kLanes<T, N>) {
        for (int n = 0; n < N; ++n) sum[n] += scores(cell)[n];
      }
    }
    const T count = static_cast<T>((y.end - y.first) * (x.end - x.first));
    for (int n = 0; n < N; ++n) value[n] = sum[n] / count;
  }

  template <int N>
  void spread(int64_t visit, int i, int j, const Scores<T>* grad, T* slab) const {
    const Span y = cells.rows(visit, i), x = cells.columns(visit, j);
    if (y.end <= y.first || x.end <= x.first) return;
    const T count = static_cast<T>((y.end - y.first) * (x.end - x.first));
    Scores<T> share[N];
    for (int n = 0; n < N; ++n) share[n] = grad[n] / count;
    for (int64_t row = y.first; row < y.end; ++row) {
      T* cell = slab + (row * cells.map_width + x.first) * kLanes<T, N>;
      for (int column = x.first; column < x.end; ++column, cell += kLanes<T, N>) {
        for (int n = 0; n < N; ++n) scores(cell)[n] += share[n];
      }
    }
  }
};

// The largest cell of a bin: the first of equal cells; a NaN beats every number.
template <typename T>
struct MaxBins {
  using Cells = BinSpans;
  const BinSpans& cells;
  static constexpr bool kArgmax = true;

  template <int N>
  void reduce(int64_t visit, int i, int j, const T* slab, Scores<T>* value, Places<T>* place) const {
    using Place = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
    const Span y = cells.rows(visit, i), x = cells.columns(visit, j);
    if (y.end <= y.first || x.end <= x.first) return;
    const int64_t first = y.first * cells.map_width + x.first;
    Scores<T> best[N];
    Places<T> where[N];
    for (int n = 0; n < N; ++n) {
      best[n] = scores(slab + first * kLanes<T, N>)[n];
      where[n] = Places<T>{} + static_cast<Place>(first);
    }
    for (int64_t row = y.first; row < y.end; ++row) {
      for (int64_t cell = row * cells.map_width + x.first; cell < row * cells.map_width + x.end; ++cell) {
        for (int n = 0; n < N; ++n) {
          const Scores<T> candidate = scores(slab + cell * kLanes<T, N>)[n];
          const Places<T> better = (candidate > best[n]) | ((candidate != candidate) & (best[n] == best[n]));
          best[n] = better ? candidate : best[n];
          where[n] = better ? Places<T>{} + static_cast<Place>(cell) : where[n];
        }
      }
    }
    for (int n = 0; n < N; ++n) value[n] = best[n], place[n] = where[n];
  }
};

static void reduce_mean(const ScorePlan& plan, int64_t task) { reduce<MeanBins>(plan, task); }
static void reduce_max(const ScorePlan& plan, int64_t task) { reduce<MaxBins>(plan, task); }
static void spread_mean(const ScorePlan& plan, int64_t task) { spread<MeanBins>(plan, task); }
static void finish_bins(const ScorePlan& plan, int64_t task) { finish<false>(plan, task); }
static void finish_votes(const ScorePlan& plan, int64_t task) { finish<true>(plan, task); }
