// Non-maximum suppression on CUDA. Boxes (rows) are sorted by score and processed in rounds. One kernel writes, for
// each row not yet dropped, a bit for every later box that it suppresses. A second kernel with one block goes through
// the rows of the round, 64 at a time, and keeps the rows that no kept row suppresses. A third one drops the later
// boxes that they suppress. All data stays on the device. If few boxes are wanted, the first round is short. Once
// enough boxes are kept, later kernels return at once.

#include "../overlap.h"
#include "sort.cuh"

namespace fast_rfcn {

using Word = unsigned long long;

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWordBits = 64;
constexpr int kRoundWords = 64;
constexpr int64_t kRoundRows = kRoundWords * kWordBits;
constexpr int64_t kFirstRows = 1024;  // a multiple of kWordBits
constexpr int64_t kMostBoxes = 1 << 24;
constexpr int kMaskWarps = 4;
constexpr int kDropRows = 8;  // rows of the mask that a thread reads ahead
constexpr int kDropThreads = kRoundWords * (kWordBits / kDropRows);
constexpr int kSettleThreads = 32 + kDropThreads;
constexpr int kLaterWarps = 8;

// Words of one row of the mask. A thread writes them at the same time, as one sector of memory.
struct alignas(16) Words {
  static constexpr int kCount = 4;
  Word word[kCount];
};

template <typename T>
struct Boxes {
  const SortedBox<T>* box;  // by falling score
  const int64_t* label;     // by falling score, or null
  int64_t num;
};

// The state after the rounds so far; its arrays are on the device.
struct Progress {
  Word* dropped;  // a bit for each box
  int* num_kept;
  int limit;  // maximum number of boxes to keep
};

// The first rows of a round, and their mask.
struct Round {
  int64_t first_row, end_row;
  int64_t parts;  // of a row of the mask
  Words* mask;    // [rows][parts]

  __host__ __device__ int64_t first_word() const { return first_row / kWordBits; }
  __host__ __device__ int64_t end_word() const { return (end_row + kWordBits - 1) / kWordBits; }
};

template <typename S>
__global__ void __launch_bounds__(kItemThreads)
    sort_boxes(const S* __restrict__ boxes, const int64_t* __restrict__ labels, const Tiles tiles,
               SortedBox<Number<S>>* __restrict__ box, int64_t* __restrict__ label, int* __restrict__ order,
               const Progress progress) {
  const int64_t thread = blockIdx.x * static_cast<int64_t>(kItemThreads) + threadIdx.x, item = thread / kSearchers;
  const int place = place_of(tiles, smaller(item, tiles.num - 1));
  if (item >= tiles.num || thread % kSearchers != 0) return;
  if (item == 0) *progress.num_kept = 0;
  if (item % kWordBits == 0) progress.dropped[item / kWordBits] = 0;
  const int source = tiles.source[item];
  const S* corners = boxes + source * static_cast<int64_t>(4);
  box[place] = {to_number(corners[0]), to_number(corners[1]), to_number(corners[2]), to_number(corners[3])};
  order[place] = source;
  if (labels != nullptr) label[place] = labels[source];
}

// A row of the mask, and its box.
template <typename T>
struct Row {
  bool wanted;  // neither beyond the round nor dropped
  SortedBox<T> box{};
  int64_t label = 0;

  __device__ Row(const Boxes<T>& boxes, const Progress& progress, const Round& round, int64_t number)
      : wanted(number < round.end_row && !(progress.dropped[number / kWordBits] >> (number % kWordBits) & 1)) {
    if (wanted) box = boxes.box[number];
    if (wanted && boxes.label != nullptr) label = boxes.label[number];
  }
};

// What the rows are compared with first: the boxes of a word, in shared memory.
template <typename T>
struct Columns {
  T x[kWordBits], y[kWordBits], area[kWordBits];
  unsigned lower_label[kWordBits];

  // A warp loads them.
  __device__ __forceinline__ void load(const Boxes<T>& boxes, const Threshold<T>& threshold, int64_t word) {
#pragma unroll
    for (int at = threadIdx.x % 32; at < kWordBits; at += 32) {
      const int64_t column = word * kWordBits + at;
      const bool exists = column < boxes.num;
      const Reach<T> its(exists ? boxes.box[column] : SortedBox<T>{}, threshold);
      x[at] = its.x, y[at] = its.y, area[at] = its.area;
      lower_label[at] = exists && boxes.label != nullptr ? static_cast<unsigned>(boxes.label[column]) : 0;
    }
  }
};

// A word whose first bit is the sign of the number.
__device__ __forceinline__ unsigned sign_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ unsigned sign_of(double value) { return static_cast<unsigned>(__double2hiint(value)); }

// Sets the bits of the boxes that a row cannot suppress, by the signs of differences: a comparison would take two more
// instructions. For two rows at the same time, which halves the loads.
template <bool kLabels, typename T>
__device__ __forceinline__ void leave_out(const Columns<T>& columns, const Reach<T> (&reach)[2],
                                          const Row<T> (&rows)[2], Word (&far)[2]) {
  unsigned halves[2][2] = {};  // of each row, the lower and the upper half of the word
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll 8
    for (int at = half * 32 + 31; at >= half * 32; --at) {
      const T x = columns.x[at], y = columns.y[at], area = columns.area[at];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        unsigned sign = sign_of(spare(reach[r].along_x, reach[r].x, x)) |
                        sign_of(spare(reach[r].along_y, reach[r].y, y)) |
                        sign_of(spare(reach[r].along_area, reach[r].area, area));
        if constexpr (kLabels) {
          const unsigned differs = columns.lower_label[at] ^ static_cast<unsigned>(rows[r].label);
          sign |= differs | (0u - differs);
        }
        halves[r][half] = halves[r][half] << 1 | sign >> 31;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) far[r] = static_cast<Word>(halves[r][1]) << 32 | halves[r][0];
}

// The bits of the boxes that a row suppresses, of some candidates in a word.
template <typename T>
__device__ __forceinline__ Word suppressed_by(const Row<T>& row, const Boxes<T>& boxes, const Threshold<T>& threshold,
                                              int64_t word, Word candidates) {
  Word bits = 0;
  for (; candidates != 0; candidates &= candidates - 1) {
    const int at = __ffsll(static_cast<long long>(candidates)) - 1;
    const int64_t column = word * kWordBits + at;
    const bool same_label = boxes.label == nullptr || boxes.label[column] == row.label;
    if (same_label && suppresses(row.box, boxes.box[column], threshold)) bits |= Word{1} << at;
  }
  return bits;
}

// The bits of the boxes that a row suppresses, from the row's own word on. A warp computes them for the 64 rows of a
// word, two for each thread, and for the boxes of several words.
template <typename T, bool kLabels>
__global__ void __launch_bounds__(32 * kMaskWarps, 4)
    mask_rows(const Boxes<T> boxes, const Threshold<T> threshold, const Progress progress, const Round round) {
  __shared__ __align__(16) Columns<T> columns_of[kMaskWarps];
  if (*progress.num_kept >= progress.limit) return;
  const int lane = threadIdx.x % 32;
  const int64_t part = blockIdx.x * static_cast<int64_t>(kMaskWarps) + threadIdx.x / 32;
  const int64_t row_word = round.first_word() + blockIdx.y;
  if (part >= round.parts || (part + 1) * Words::kCount <= row_word) return;  // before the diagonal
  const int64_t first = row_word * kWordBits + lane;
  const Row<T> rows[2] = {{boxes, progress, round, first}, {boxes, progress, round, first + 32}};
  if (!__any_sync(kAllLanes, rows[0].wanted || rows[1].wanted)) return;
  const Reach<T> reach[2] = {{rows[0].box, threshold}, {rows[1].box, threshold}};

  Columns<T>& columns = columns_of[threadIdx.x / 32];
  Words found[2] = {};
  for (int i = 0; i < Words::kCount; ++i) {
    const int64_t word = part * Words::kCount + i, count = boxes.num - word * kWordBits;
    Word bits[2] = {0, 0};
    if (word >= row_word && count > 0) {
      __syncwarp();
      columns.load(boxes, threshold, word);
      __syncwarp();
      Word far[2];
      leave_out<kLabels>(columns, reach, rows, far);
      const Word all = count < kWordBits ? (Word{1} << count) - 1 : ~Word{0};
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const Word later = word == row_word ? ~Word{1} << (lane + 32 * r) : ~Word{0};
        bits[r] = suppressed_by(rows[r], boxes, threshold, word, all & later & ~far[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {  // a shift: with an index that is not
                                   // constant, `found` would be in memory
#pragma unroll
      for (int k = 1; k < Words::kCount; ++k) found[r].word[k - 1] = found[r].word[k];
      found[r].word[Words::kCount - 1] = bits[r];
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (rows[r].wanted) round.mask[(first + 32 * r - round.first_row) * round.parts + part] = found[r];
  }
}

__device__ __forceinline__ Word any_of_lanes(Word bits) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800  // Volta and Turing
  for (int distance = 16; distance > 0; distance /= 2) bits |= __shfl_xor_sync(kAllLanes, bits, distance);
  return bits;
#else
  const unsigned low = __reduce_or_sync(kAllLanes, static_cast<unsigned>(bits));
  const unsigned high = __reduce_or_sync(kAllLanes, static_cast<unsigned>(bits >> 32));
  return static_cast<Word>(high) << 32 | low;
#endif
}

// The kept rows of one word, computed by one warp. At first all candidates count as kept. Each turn finds the final
// state of at least one more row, from the front. A turn without a change is the last.
__device__ __forceinline__ Word settle_word(Word candidates, Word low_rows, Word high_rows) {
  const int lane = threadIdx.x % 32;
  Word stays = candidates;
  while (true) {
    const Word mine = (stays >> lane & 1 ? low_rows : 0) | (stays >> (lane + 32) & 1 ? high_rows : 0);
    const Word next = candidates & ~any_of_lanes(mine);
    if (next == stays) return stays;
    stays = next;
  }
}

// Sets bits of a word with atomics of 32 bits; one of 64 bits would be a loop in shared memory.
__device__ __forceinline__ void set_bits(Word* word, Word bits) {
  unsigned* halves = reinterpret_cast<unsigned*>(word);
  const unsigned low = static_cast<unsigned>(bits), high = static_cast<unsigned>(bits >> 32);
  if (low != 0) atomicOr(halves, low);
  if (high != 0) atomicOr(halves + 1, high);
}

// Reads a word while others set bits of it.
__device__ __forceinline__ Word read_bits(Word* word) {
  unsigned* halves = reinterpret_cast<unsigned*>(word);
  const unsigned low = atomicOr(halves, 0u), high = atomicOr(halves + 1, 0u);
  return static_cast<Word>(high) << 32 | low;
}

// Two rows of a lane: the bits that they suppress in their own word and in the next word.
struct WordRows {
  Word own_low = 0, own_high = 0, next_low = 0, next_high = 0;
};

// One block decides which rows of a round are kept, and lists them. In each turn, the first warp decides one word. In
// the same turn, the other warps drop the boxes that the word before it suppresses in the words after it. So the first
// warp itself computes the boxes that a word suppresses in the next word. All read the mask two turns before they use
// it: the first warp the rows of a word, the others those that may be kept. Words count from the round's first word.
__global__ void __launch_bounds__(kSettleThreads)
    settle_rows(const Progress progress, const int* __restrict__ order, const Round round, int64_t* __restrict__ kept) {
  __shared__ Word written[kRoundWords];  // rows that the mask has
  __shared__ Word dropped[kRoundWords];
  __shared__ Word known[2];  // rows dropped, for the words that are read next
  __shared__ Word stays_of[kRoundWords];
  __shared__ int kept_before[kRoundWords];
  int num_kept = *progress.num_kept;
  if (num_kept >= progress.limit) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int rows = static_cast<int>(round.end_row - round.first_row), words = (rows + kWordBits - 1) / kWordBits;
  const int stride = static_cast<int>(round.parts) * Words::kCount;
  const Word* mask = reinterpret_cast<const Word*>(round.mask) + round.first_word();
  if (thread < words) {
    const int count = smaller(kWordBits, rows - thread * kWordBits);
    const Word all = count == kWordBits ? ~Word{0} : (Word{1} << count) - 1;
    written[thread] = all & ~progress.dropped[round.first_word() + thread];
    dropped[thread] = ~written[thread];
    if (thread == 1) known[1] = dropped[1];
  }
  __syncthreads();

  const bool settles = thread < 32;
  const int number = thread - 32, first = number / kRoundWords * kDropRows, column = 2 + number % kRoundWords;
  const auto read_rows = [&](int word, WordRows& into) {
    if (word >= words) return;
    const Word* low = mask + (word * kWordBits + lane) * stride + word;
    const Word* high = low + 32 * stride;
    const bool has_next = word + 1 < words;
    if (written[word] >> lane & 1) into.own_low = low[0], into.next_low = has_next ? low[1] : 0;
    if (written[word] >> (lane + 32) & 1) into.own_high = high[0], into.next_high = has_next ? high[1] : 0;
  };
  // Some rows of a word, in the words from the second after it on: one for each thread.
  const auto read_column = [&](int word, Word rows_of_word, Word(&of_row)[kDropRows]) {
    if (word + column >= words) return;
    const unsigned wanted = static_cast<unsigned>(rows_of_word >> first);
    const Word* source = mask + (word * kWordBits + first) * stride + word + column;
#pragma unroll
    for (int k = 0; k < kDropRows; ++k) {
      if (wanted >> k & 1) of_row[k] = source[k * stride];
    }
  };
  const auto drop_column = [&](int word, const Word(&of_row)[kDropRows]) {
    if (word + column >= words) return;
    const unsigned stays = static_cast<unsigned>(stays_of[word] >> first);
    Word bits = 0;
#pragma unroll
    for (int k = 0; k < kDropRows; ++k) {
      if (stays >> k & 1) bits |= of_row[k];
    }
    set_bits(dropped + word + column, bits);
  };
  Word by_last = 0;  // rows of this word that the word before it suppresses
  // Decides a word. `ahead` has the rows of the word before, and gets those of the next word.
  const auto turn = [&](int word, WordRows& of_word, Word(&ahead)[kDropRows]) {
    if (settles) {
      const Word stays = settle_word(~dropped[word] & ~by_last, of_word.own_low, of_word.own_high);
      if (lane == 0) stays_of[word] = stays, kept_before[word] = num_kept;
      by_last =
          any_of_lanes((stays >> lane & 1 ? of_word.next_low : 0) | (stays >> (lane + 32) & 1 ? of_word.next_high : 0));
      read_rows(word + 2, of_word);
    } else {
      if (word > 0) drop_column(word - 1, ahead);
      if (word + 1 < words) read_column(word + 1, ~known[(word + 1) % 2], ahead);
      // Others drop boxes of that word in this turn. Which of them are known does not matter: kept rows are read.
      if (number == kDropThreads - 1 && word + 2 < words) known[word % 2] = read_bits(dropped + word + 2);
    }
    __syncthreads();
    num_kept += __popcll(stays_of[word]);
  };

  WordRows even, odd;
  Word ahead_of_even[kDropRows], ahead_of_odd[kDropRows];  // rows of even and of odd words
  if (settles) {
    read_rows(0, even);
    read_rows(1, odd);
  } else {
    read_column(0, written[0], ahead_of_even);
  }
  int word = 0;
  while (word < words && num_kept < progress.limit) {
    turn(word, even, ahead_of_odd);
    if (++word == words || num_kept >= progress.limit) break;
    turn(word, odd, ahead_of_even);
    ++word;
  }
  for (int i = thread; i < word * kWordBits; i += kSettleThreads) {
    const Word stays = stays_of[i / kWordBits], bit = Word{1} << (i % kWordBits);
    const int place = kept_before[i / kWordBits] + __popcll(stays & (bit - 1));
    if ((stays & bit) != 0 && place < progress.limit) kept[place] = order[round.first_row + i];
  }
  if (thread < word) progress.dropped[round.first_word() + thread] = ~stays_of[thread];
  if (thread == 0) *progress.num_kept = smaller(num_kept, progress.limit);
}

// Drops the boxes after a round that its kept rows suppress. A block reads the 64 rows of a word, in 32 words.
__global__ void __launch_bounds__(32 * kLaterWarps)
    drop_later(const Progress progress, const Round round, int64_t words) {
  constexpr int rows = kWordBits / kLaterWarps;  // of a warp
  __shared__ Word suppressed[kLaterWarps][32];
  if (*progress.num_kept >= progress.limit) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t word = round.end_word() + blockIdx.x * static_cast<int64_t>(32) + lane;
  const int64_t first = blockIdx.y * static_cast<int64_t>(kWordBits) + warp * rows;  // from the round's first row
  const unsigned kept = static_cast<unsigned>(~progress.dropped[round.first_word() + blockIdx.y] >> (warp * rows));
  const Word* source = reinterpret_cast<const Word*>(round.mask + first * round.parts) + word;
  Word bits = 0;
#pragma unroll
  for (int k = 0; k < rows; ++k) {
    if (word < words && (kept >> k & 1)) bits |= source[k * round.parts * Words::kCount];
  }
  suppressed[warp][lane] = bits;
  __syncthreads();
  if (warp != 0 || word >= words) return;
  for (int other = 1; other < kLaterWarps; ++other) bits |= suppressed[other][lane];
  set_bits(progress.dropped + word, bits);
}

static Tensor nms(const Tensor& boxes_in, const Tensor& scores, std::optional<Tensor> labels_in, double iou_threshold,
                  std::optional<int64_t> max_output) {
  STD_TORCH_CHECK(boxes_in.dim() == 2 && boxes_in.size(1) == 4 && scores.dim() == 1 &&
                      scores.size(0) == boxes_in.size(0) && scores.is_cuda(),
                  "expected boxes [N, 4] and scores [N] on one device");
  STD_TORCH_CHECK(!labels_in || (labels_in->numel() == scores.numel() && labels_in->scalar_type() == ScalarType::Long &&
                                 labels_in->is_cuda()),
                  "expected labels [N] of int64 on the device of the boxes");
  const int64_t num = boxes_in.size(0);
  const int64_t words = blocks_for(num, kWordBits);
  const int64_t limit = max_output ? smaller(larger<int64_t>(*max_output, 0), num) : num;
  STD_TORCH_CHECK(num <= kMostBoxes, "expected at most ", kMostBoxes, " boxes, got ", num);
  const Device device(boxes_in);
  Tensor kept = new_output(boxes_in, {limit}, ScalarType::Long);
  if (limit == 0) return kept;

  const Tensor boxes_dense = dense(boxes_in), scores_dense = dense(scores);
  const int64_t first_rows = blocks_for(larger(kFirstRows, 4 * limit), kWordBits) * kWordBits;
  const int64_t parts = blocks_for(words, Words::kCount);
  int32_t num_kept = 0;
  Tensor keys = new_output(boxes_in, {num}, ScalarType::Long);
  Tensor sources = new_output(boxes_in, {2, num}, ScalarType::Int);  // of the tiles, then of all boxes
  Tensor sorted = new_output(boxes_in, {num, 4}, number_dtype(boxes_in.scalar_type()));
  Tensor labels = new_output(boxes_in, {labels_in ? num : 0}, ScalarType::Long);
  Tensor state = new_output(boxes_in, {words + 1}, ScalarType::Long);
  Tensor mask = new_output(boxes_in, {smaller(num, kRoundRows), parts, Words::kCount}, ScalarType::Long);
  const Tiles tiles{reinterpret_cast<Key*>(output<int64_t>(keys)), output<int>(sources), num};
  int* order = tiles.source + num;
  const Progress progress{reinterpret_cast<Word*>(output<int64_t>(state)),
                          reinterpret_cast<int*>(output<int64_t>(state) + words), static_cast<int>(limit)};
  with_storage(scores.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    device.launch(&sort_tiles<S>, grid_of(tiles.count()), kTile, 0, input<S>(scores_dense), tiles);
  });
  with_storage(boxes_in.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const Tensor labels_dense = labels_in ? dense(*labels_in) : labels;
    const Boxes<T> boxes{output<SortedBox<T>>(sorted), labels_in ? input<int64_t>(labels) : nullptr, num};
    device.launch(&sort_boxes<S>, grid_of(blocks_for(num * kSearchers, kItemThreads)), kItemThreads, 0,
                  input<S>(boxes_dense), labels_in ? input<int64_t>(labels_dense) : nullptr, tiles,
                  output<SortedBox<T>>(sorted), output<int64_t>(labels), order, progress);
    const auto mask_of = labels_in ? &mask_rows<T, true> : &mask_rows<T, false>;
    Round round{0, 0, parts, output<Words>(mask)};
    for (; round.end_row < num; round.first_row = round.end_row) {
      const int64_t rows = round.first_row == 0 && limit < num ? smaller(first_rows, kRoundRows) : kRoundRows;
      round.end_row = smaller(num, round.first_row + rows);
      const int64_t row_words = round.end_word() - round.first_word();
      device.launch(mask_of, grid_of(blocks_for(parts, kMaskWarps), row_words), 32 * kMaskWarps, 0, boxes,
                    Threshold<T>(iou_threshold), progress, round);
      device.launch(&settle_rows, grid_of(1), kSettleThreads, 0, progress, order, round, output<int64_t>(kept));
      if (round.end_row == num) break;
      device.launch(&drop_later, grid_of(blocks_for(words - round.end_word(), 32), row_words), 32 * kLaterWarps, 0,
                    progress, round, words);
    }
  });
  // The host waits for the device only here, for the size of the result.
  check(cudaMemcpyAsync(&num_kept, progress.num_kept, sizeof(num_kept), cudaMemcpyDeviceToHost, device.stream()));
  check(cudaStreamSynchronize(device.stream()));
  return torch::stable::narrow(kept, 0, 0, num_kept);
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CUDA, library) { library.impl("nms", TORCH_BOX(&fast_rfcn::nms)); }
