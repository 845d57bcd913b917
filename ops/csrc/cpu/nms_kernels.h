// Greedy suppression for one instruction set; see for_each_instruction_set.h.

// Whether any box of the block has an IoU with `box` above the threshold. The rounded division defines the result; it
// is computed only if a product shows that it may be above.
template <typename T>
static inline bool any_over(const NmsBlock<T>& block, const NmsBox<T>& box, T threshold, T almost) {
  constexpr int count = NmsBlock<T>::kLanes * static_cast<int>(sizeof(T)) / kVectorBytes;
  const Vector<T> zero = {};
  Vector<T> intersections[count], unions[count];
  Index<T> maybe = {};
  for (int n = 0; n < count; ++n) {
    const Vector<T> x1 = vectors(block.x1)[n], x2 = vectors(block.x2)[n];
    const Vector<T> y1 = vectors(block.y1)[n], y2 = vectors(block.y2)[n];
    const Vector<T> left = x1 > box.x1 ? x1 : zero + box.x1, right = x2 < box.x2 ? x2 : zero + box.x2;
    const Vector<T> top = y1 > box.y1 ? y1 : zero + box.y1, bottom = y2 < box.y2 ? y2 : zero + box.y2;
    Vector<T> width = right - left, height = bottom - top;
    width = width > zero ? width : zero;
    height = height > zero ? height : zero;
    intersections[n] = width * height;
    unions[n] = (vectors(block.area)[n] + box.area) - intersections[n];
    maybe |= intersections[n] > almost * unions[n];
  }
  if (!any_lane<T>(maybe)) return false;
  Index<T> over = {};
  for (int n = 0; n < count; ++n) over |= intersections[n] / unions[n] > threshold;
  return any_lane<T>(over);
}

template <typename T>
static bool suppressed(const NmsPlan<T>& plan, const NmsBox<T>& box, double reach, T almost) {
  constexpr double slack = 1e-3;
  const double area = box.area, centre = 0.5 * (static_cast<double>(box.x1) + box.x2);
  const double width = (static_cast<double>(box.x2) - box.x1) * reach;
  const int32_t lowest = larger(plan.grid.raw_level(area * plan.threshold * (1 - slack)) - plan.first_level, 0);
  const int32_t highest =
      smaller(plan.grid.raw_level(area / plan.threshold * (1 + slack)) - plan.first_level, plan.num_levels - 1);
  const int32_t* heads = plan.heads + static_cast<int64_t>(box.group) * plan.num_levels * NmsGrid::kMostStrips;
  const NmsBlock<T>* blocks = plan.blocks->data();
  const auto meets = [&](int32_t level) {
    const int32_t last = plan.strip(level, centre + width);
    for (int32_t strip = plan.strip(level, centre - width); strip <= last; ++strip) {
      for (int32_t i = heads[level * NmsGrid::kMostStrips + strip]; i >= 0; i = blocks[i].next) {
        if (any_over(blocks[i], box, plan.rounded_threshold, almost)) return true;
      }
    }
    return false;
  };
  // Boxes of the same size are most likely to suppress this box.
  for (int32_t level = box.level; level <= highest; ++level) {
    if (meets(level)) return true;
  }
  for (int32_t level = box.level - 1; level >= lowest; --level) {
    if (meets(level)) return true;
  }
  return false;
}

template <typename T>
static void insert(const NmsPlan<T>& plan, const NmsBox<T>& box) {
  const int32_t strip = plan.strip(box.level, 0.5 * (static_cast<double>(box.x1) + box.x2));
  const int64_t list = (static_cast<int64_t>(box.group) * plan.num_levels + box.level) * NmsGrid::kMostStrips + strip;
  int32_t& head = plan.heads[list];
  if (head < 0 || (*plan.blocks)[head].used == NmsBlock<T>::kLanes) {
    NmsBlock<T> fresh = {};
    for (int lane = 0; lane < NmsBlock<T>::kLanes; ++lane) {
      fresh.x1[lane] = fresh.y1[lane] = std::numeric_limits<T>::max();
      fresh.x2[lane] = fresh.y2[lane] = std::numeric_limits<T>::lowest();
    }
    fresh.next = head;
    head = static_cast<int32_t>(plan.blocks->size());
    plan.blocks->push_back(fresh);
  }
  NmsBlock<T>& block = (*plan.blocks)[head];
  const int32_t lane = block.used++;
  block.x1[lane] = box.x1, block.y1[lane] = box.y1, block.x2[lane] = box.x2, block.y2[lane] = box.y2;
  block.area[lane] = box.area;
}

// Visits boxes by falling score. Returns the number of kept boxes.
template <typename T>
static int64_t suppress(const NmsPlan<T>& plan) {
  // Two boxes with an IoU above t have centres nearer than this part of the width of each.
  const double t = plan.threshold;
  const double reach = 1.001 * larger(1 - t, (1 - t) / (2 * t));
  const T almost = plan.rounded_threshold * static_cast<T>(1 - 1e-5);
  int64_t num_kept = 0;
  for (int64_t i = 0; i < plan.num_boxes && num_kept < plan.max_output; ++i) {
    const NmsBox<T>& box = plan.boxes[i];
    if (box.level >= 0) {
      if (suppressed(plan, box, reach, almost)) continue;
      insert(plan, box);
    }
    plan.kept[num_kept++] = i;
  }
  return num_kept;
}
