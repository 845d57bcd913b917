// Non-maximum suppression on the CPU: sort by score, then visit each box once. nms.h explains why this is cheap.

#include "nms.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "instruction_set.h"

#define FAST_RFCN_KERNELS "nms_kernels.h"
#include "for_each_instruction_set.h"

namespace fast_rfcn {

// An unsigned key that grows as the score falls: NaN first, then infinity; both zeros are equal.
static uint32_t falling_key(float score) {
  if (score != score) return 0;
  const uint32_t bits = score == 0 ? 0 : __builtin_bit_cast(uint32_t, score);
  return ~(bits >> 31 ? ~bits : bits | 0x80000000u);
}
static uint64_t falling_key(double score) {
  if (score != score) return 0;
  const uint64_t bits = score == 0 ? 0 : __builtin_bit_cast(uint64_t, score);
  return ~(bits >> 63 ? ~bits : bits | 0x8000000000000000u);
}

// Indices by falling score, ties by index: a radix sort by 11 bits at a time.
template <typename T>
static std::vector<int32_t> order_of(const T* scores, int64_t stride, int64_t count) {
  using Key = decltype(falling_key(T{}));
  constexpr int kDigit = 11, kPasses = (sizeof(Key) * 8 + kDigit - 1) / kDigit, kValues = 1 << kDigit;
  struct Entry {
    Key key;
    int32_t index;
  };
  std::vector<Entry> entries(count), sorted(count);
  std::vector<int64_t> counts(kPasses * kValues);
  for (int64_t i = 0; i < count; ++i) {
    const Key key = falling_key(scores[i * stride]);
    entries[i] = {key, static_cast<int32_t>(i)};
    for (int pass = 0; pass < kPasses; ++pass) ++counts[pass * kValues + (key >> (pass * kDigit)) % kValues];
  }
  for (int pass = 0; pass < kPasses; ++pass) {
    int64_t* starts = counts.data() + pass * kValues;
    int64_t total = 0;
    for (int value = 0; value < kValues; ++value) {
      const int64_t here = starts[value];
      starts[value] = total;
      total += here;
    }
    for (const Entry& entry : entries) sorted[starts[(entry.key >> (pass * kDigit)) % kValues]++] = entry;
    entries.swap(sorted);
  }
  std::vector<int32_t> order(count);
  for (int64_t i = 0; i < count; ++i) order[i] = entries[i].index;
  return order;
}

// Numbers the labels 0, 1, ... in the order of first appearance, with an open-addressing hash table at most half full.
// It starts small, so that a few labels stay in the L1 cache.
static int32_t number_groups(const int64_t* labels, int64_t stride, const std::vector<int32_t>& order,
                             std::vector<int32_t>& groups) {
  struct Place {
    int64_t label = 0;
    int32_t group = -1;
  };
  int bits = 6;
  std::vector<Place> known(size_t{1} << bits);
  const auto place_of = [&](int64_t label) -> Place& {
    size_t at = static_cast<uint64_t>(label) * 0x9e3779b97f4a7c15u >> (64 - bits);
    while (known[at].group >= 0 && known[at].label != label) at = (at + 1) % known.size();
    return known[at];
  };
  int32_t num_groups = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t label = labels[order[i] * stride];
    Place& place = place_of(label);
    if (place.group >= 0) {
      groups[i] = place.group;
      continue;
    }
    groups[i] = num_groups++;
    place = {label, groups[i]};
    if (2 * static_cast<size_t>(num_groups) < known.size()) continue;
    const std::vector<Place> old = std::exchange(known, std::vector<Place>(size_t{1} << ++bits));
    for (const Place& entry : old) {
      if (entry.group >= 0) place_of(entry.label) = entry;
    }
  }
  return num_groups;
}

template <typename T>
static T rounded_down(double threshold) {
  const T rounded = static_cast<T>(threshold);
  return static_cast<double>(rounded) > threshold ? std::nextafter(rounded, T{-1}) : rounded;
}

// Boxes [N, 4] of any strides.
template <typename T>
struct Corners {
  const T* data;
  int64_t stride[2];
};

// Suppresses among `count` boxes, listed in `order` by falling score. `groups` has the group of each, or is null if
// there is one. Returns the positions of the kept boxes in `order`.
template <typename T>
static std::vector<int64_t> kept_of(const Corners<T>& corners, const int32_t* order, const int32_t* groups,
                                    int64_t count, int32_t num_groups, double threshold, int64_t max_output) {
  const NmsGrid grid(threshold);
  std::vector<NmsBox<T>> sorted(count);
  int32_t first_level = std::numeric_limits<int32_t>::max(), last_level = -1;
  double left = std::numeric_limits<double>::infinity(), right = -left;
  for (int64_t i = 0; i < count; ++i) {
    const T* box = corners.data + order[i] * corners.stride[0];
    const int64_t next = corners.stride[1];
    NmsBox<T>& to = sorted[i];
    to = {box[0], box[next], box[2 * next], box[3 * next], T{0}, groups == nullptr ? 0 : groups[i], -1};
    to.area = (to.x2 - to.x1) * (to.y2 - to.y1);
    // A box that fails this test has an IoU of 0 or NaN with every box, so it is kept and suppresses none.
    if (!(to.x2 > to.x1 && to.y2 > to.y1 && is_finite(to.area))) continue;
    to.level = grid.raw_level(to.area);
    const double centre = 0.5 * (static_cast<double>(to.x1) + to.x2);
    first_level = smaller(first_level, to.level), last_level = larger(last_level, to.level);
    left = smaller(left, centre), right = larger(right, centre);
  }
  for (NmsBox<T>& box : sorted) box.level = box.level < 0 ? -1 : box.level - first_level;
  const int32_t num_levels = larger(last_level - first_level + 1, 0);

  // Enough strips to fill their blocks, but no strip much narrower than the reach of a candidate.
  const double crowd = static_cast<double>(count) / num_groups / larger(num_levels, 1) / NmsBlock<T>::kLanes;
  std::vector<double> strips_per_pixel(num_levels);
  std::vector<int32_t> num_strips(num_levels);
  for (int32_t level = 0; level < num_levels; ++level) {
    const double side = std::sqrt(grid.smallest_area(level + first_level));
    const double fit = (right - left) / larger(side * (1 - threshold), 1e-30);
    num_strips[level] = static_cast<int32_t>(larger(smaller(smaller(fit, crowd), double{NmsGrid::kMostStrips}), 1.0));
    strips_per_pixel[level] = right > left ? num_strips[level] / (right - left) : 0;
  }

  std::vector<int32_t> heads(static_cast<size_t>(num_groups) * num_levels * NmsGrid::kMostStrips, -1);
  std::vector<NmsBlock<T>> blocks;
  std::vector<int64_t> kept(smaller(count, max_output));
  const NmsPlan<T> plan{sorted.data(),
                        count,
                        max_output,
                        threshold,
                        rounded_down<T>(threshold),
                        grid,
                        first_level,
                        num_levels,
                        strips_per_pixel.data(),
                        num_strips.data(),
                        left,
                        heads.data(),
                        &blocks,
                        kept.data()};
  kept.resize(FAST_RFCN_CHOOSE(suppress<T>)(plan));
  return kept;
}

// Suppresses within each group, on all threads. Returns the positions of the kept boxes in `order`.
template <typename T>
static std::vector<int64_t> kept_by_group(const Corners<T>& corners, const std::vector<int32_t>& order,
                                          const std::vector<int32_t>& groups, int32_t num_groups, double threshold) {
  const int64_t count = static_cast<int64_t>(order.size());
  std::vector<int64_t> bounds(num_groups + 1);
  for (const int32_t group : groups) ++bounds[group + 1];
  for (int32_t group = 0; group < num_groups; ++group) bounds[group + 1] += bounds[group];
  std::vector<int64_t> next(bounds.begin(), bounds.end() - 1);
  std::vector<int32_t> members(count), places(count);  // of each group: boxes by falling score, and their positions
  for (int64_t i = 0; i < count; ++i) {
    const int64_t to = next[groups[i]]++;
    members[to] = order[i], places[to] = static_cast<int32_t>(i);
  }
  std::vector<uint8_t> stays(count);
  for_each_task(num_groups, [&](int64_t group) {
    const int64_t begin = bounds[group], size = bounds[group + 1] - begin;
    for (const int64_t kept : kept_of(corners, members.data() + begin, nullptr, size, 1, threshold, size)) {
      stays[places[begin + kept]] = 1;
    }
  });
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < count; ++i) {
    if (stays[i]) kept.push_back(i);
  }
  return kept;
}

template <typename T>
static Tensor run(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& labels, double threshold,
                  int64_t max_output) {
  const int64_t count = boxes.size(0);
  const Corners<T> corners{static_cast<const T*>(boxes.const_data_ptr()), {boxes.stride(0), boxes.stride(1)}};
  const std::vector<int32_t> order =
      scores.scalar_type() == ScalarType::Double
          ? order_of(static_cast<const double*>(scores.const_data_ptr()), scores.stride(0), count)
          : order_of(static_cast<const float*>(scores.const_data_ptr()), scores.stride(0), count);
  std::vector<int32_t> groups(count, 0);
  const int32_t num_groups =
      labels ? number_groups(static_cast<const int64_t*>(labels->const_data_ptr()), labels->stride(0), order, groups)
             : 1;
  // With fewer outputs than boxes: by falling score over all groups, so that boxes after the last one are not compared.
  const std::vector<int64_t> kept =
      num_groups > 1 && max_output >= count
          ? kept_by_group(corners, order, groups, num_groups, threshold)
          : kept_of(corners, order.data(), groups.data(), count, num_groups, threshold, max_output);
  Tensor output = torch::stable::new_empty(boxes, {static_cast<int64_t>(kept.size())}, ScalarType::Long);
  if (kept.empty()) return output;
  int64_t* indices = static_cast<int64_t*>(output.mutable_data_ptr());
  for (size_t i = 0; i < kept.size(); ++i) indices[i] = order[kept[i]];
  return output;
}

static Tensor nms(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> labels, double iou_threshold,
                  std::optional<int64_t> max_output) {
  STD_TORCH_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, "expected boxes [N, 4]");
  STD_TORCH_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0), "expected scores [N], one for each box");
  STD_TORCH_CHECK(boxes.size(0) < std::numeric_limits<int32_t>::max(), "expected fewer than 2^31 boxes");
  if (labels) {
    STD_TORCH_CHECK(labels->dim() == 1 && labels->size(0) == boxes.size(0), "expected labels [N], one for each box");
    STD_TORCH_CHECK(labels->scalar_type() == ScalarType::Long, "expected labels of int64");
  }
  const auto widened = [](const Tensor& tensor) {
    const ScalarType wide = edge_dtype(tensor.scalar_type());
    return tensor.scalar_type() == wide ? tensor : torch::stable::to(tensor, wide);
  };
  const int64_t limit = max_output.value_or(boxes.size(0));
  return boxes.scalar_type() == ScalarType::Double
             ? run<double>(boxes, widened(scores), labels, iou_threshold, limit)
             : run<float>(widened(boxes), widened(scores), labels, iou_threshold, limit);
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CPU, library) { library.impl("nms", TORCH_BOX(&fast_rfcn::nms)); }
