// Position-sensitive RoIAlign for one instruction set; see for_each_instruction_set.h.

#include "score_maps_kernels.h"

// The mean of the samples of a bin.
template <typename T>
struct AlignBins {
  using Cells = BinSamples<T>;
  static constexpr bool kArgmax = false;
  const BinSamples<T>& cells;

  template <int N>
  void reduce(int64_t visit, int i, int j, const T* slab, Scores<T>* value, Places<T>*) const {
    const Taps<T> rows = cells.rows(visit, i), columns = cells.columns(visit, j);
    if (rows.begin == rows.end || columns.begin == columns.end) return;
    Scores<T> sum[N] = {};
    for (const Tap<T>* y = rows.begin; y != rows.end; ++y) {
      const T* row = slab + y->cell * cells.map_width * kLanes<T, N>;
      Scores<T> across[N] = {};
      for (const Tap<T>* x = columns.begin; x != columns.end; ++x) {
        for (int n = 0; n < N; ++n) across[n] += x->weight * scores(row + x->cell * kLanes<T, N>)[n];
      }
      for (int n = 0; n < N; ++n) sum[n] += y->weight * across[n];
    }
    const T count = cells.count(visit);
    for (int n = 0; n < N; ++n) value[n] = sum[n] / count;
  }

  template <int N>
  void spread(int64_t visit, int i, int j, const Scores<T>* grad, T* slab) const {
    const Taps<T> rows = cells.rows(visit, i), columns = cells.columns(visit, j);
    if (rows.begin == rows.end || columns.begin == columns.end) return;
    const T count = cells.count(visit);
    for (const Tap<T>* y = rows.begin; y != rows.end; ++y) {
      T* row = slab + y->cell * cells.map_width * kLanes<T, N>;
      Scores<T> share[N];
      for (int n = 0; n < N; ++n) share[n] = y->weight * (grad[n] / count);
      for (const Tap<T>* x = columns.begin; x != columns.end; ++x) {
        Scores<T>* cell = scores(row + x->cell * kLanes<T, N>);
        for (int n = 0; n < N; ++n) cell[n] += x->weight * share[n];
      }
    }
  }
};

static void reduce_samples(const ScorePlan& plan, int64_t task) { reduce<AlignBins>(plan, task); }
static void spread_samples(const ScorePlan& plan, int64_t task) { spread<AlignBins>(plan, task); }
static void finish_samples(const ScorePlan& plan, int64_t task) { finish<false>(plan, task); }
