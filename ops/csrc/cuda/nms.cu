// Non-maximum suppression on CUDA. Boxes (rows) are sorted by score and processed in rounds. One kernel writes, for
// each row not yet dropped, a bit for every later box that it suppresses. A second kernel with one block goes through
// the rows, 64 at a time, keeps the rows that no kept row suppresses, and drops the boxes that they suppress. All data
// stays on the device. If few boxes are wanted, the first round is short. Once enough boxes are kept, later kernels
// return at once.

#include <array>

#include "../overlap.h"
#include "tensors.cuh"

namespace fast_rfcn {

using Word = unsigned long long;

constexpr int kWordBits = 64;
constexpr int kWordsPerBlock = 4;  // words of the mask, along a row
constexpr int kMaskThreads = kWordBits * kWordsPerBlock;
constexpr int64_t kRoundRows = 4096;               // a multiple of kWordBits
constexpr int64_t kFirstRows = 1024;               // a multiple of kWordBits
constexpr int kSettleThreads = 768;                // 80 registers each, without spills
constexpr int kDropThreads = kSettleThreads - 32;  // all threads but the first warp
constexpr int kDropRows = 16;                      // rows of the mask that a thread reads at the same time
constexpr int kDropColumns = kDropThreads / (kWordBits / kDropRows);  // words that these threads read of each row

template <typename T>
struct Boxes {
  const SortedBox<T>* box;  // by falling score
  const int64_t* label;     // by falling score, or null
  int64_t num;

  __host__ __device__ int64_t words() const { return (num + kWordBits - 1) / kWordBits; }
};

// The state after the rounds so far; its arrays are on the device.
struct Progress {
  Word* dropped;  // a bit for each box
  int* num_kept;
  int limit;  // maximum number of boxes to keep
};

template <typename S>
__global__ void __launch_bounds__(kItemThreads)
    sort_boxes(const S* __restrict__ boxes, const int64_t* __restrict__ labels, const int64_t* __restrict__ order,
               int64_t num, SortedBox<Number<S>>* __restrict__ box, int64_t* __restrict__ label,
               const Progress progress) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kItemThreads) + threadIdx.x;
  if (i == 0) *progress.num_kept = 0;
  if (i >= num) return;
  if (i % kWordBits == 0) progress.dropped[i / kWordBits] = 0;
  const int64_t source = order[i];
  const S* corners = boxes + source * 4;
  box[i] = {to_number(corners[0]), to_number(corners[1]), to_number(corners[2]), to_number(corners[3])};
  if (labels != nullptr) label[i] = labels[source];
}

// mask[row - first_row][word]: the boxes that row suppresses, from the row's own word on.
template <typename T>
__global__ void __launch_bounds__(kMaskThreads)
    mask_rows(const Boxes<T> boxes, const Threshold<T> threshold, const Progress progress, int64_t first_row,
              int64_t end_row, Word* __restrict__ mask) {
  __shared__ SortedBox<T> box[kWordsPerBlock][kWordBits];
  __shared__ int64_t label[kWordsPerBlock][kWordBits];
  if (*progress.num_kept >= progress.limit) return;
  const int64_t words = boxes.words(), word = blockIdx.x * static_cast<int64_t>(kWordsPerBlock) + threadIdx.y;
  const int64_t row_word = first_row / kWordBits + blockIdx.y;
  if (blockIdx.x * static_cast<int64_t>(kWordsPerBlock) + kWordsPerBlock <= row_word) return;  // before the diagonal
  const int64_t column = word * kWordBits + threadIdx.x;
  if (column < boxes.num) {
    box[threadIdx.y][threadIdx.x] = boxes.box[column];
    if (boxes.label != nullptr) label[threadIdx.y][threadIdx.x] = boxes.label[column];
  }
  __syncthreads();
  const int64_t row = row_word * kWordBits + threadIdx.x;
  if (row >= end_row || word >= words || word < row_word) return;
  if (progress.dropped[row_word] >> threadIdx.x & 1) return;  // this row of the mask is not read
  const SortedBox<T> mine = boxes.box[row];
  const int64_t my_label = boxes.label != nullptr ? boxes.label[row] : 0;
  const int count = static_cast<int>(smaller<int64_t>(kWordBits, boxes.num - word * kWordBits));
  Word bits = 0;
  for (int i = word == row_word ? threadIdx.x + 1 : 0; i < count; ++i) {
    if (boxes.label != nullptr && label[threadIdx.y][i] != my_label) continue;
    if (suppresses(mine, box[threadIdx.y][i], threshold)) bits |= Word{1} << i;
  }
  mask[(row - first_row) * words + word] = bits;
}

__device__ __forceinline__ Word any_of_lanes(Word bits) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800  // Volta and Turing
  for (int distance = 16; distance > 0; distance /= 2) bits |= __shfl_xor_sync(0xffffffffu, bits, distance);
  return bits;
#else
  const unsigned low = __reduce_or_sync(0xffffffffu, static_cast<unsigned>(bits));
  const unsigned high = __reduce_or_sync(0xffffffffu, static_cast<unsigned>(bits >> 32));
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

// Sets bits of a word in shared memory, which has atomics of 32 bits; one of 64 bits would be a loop.
__device__ __forceinline__ void set_bits(Word* word, Word bits) {
  unsigned* halves = reinterpret_cast<unsigned*>(word);
  const unsigned low = static_cast<unsigned>(bits), high = static_cast<unsigned>(bits >> 32);
  if (low != 0) atomicOr(halves, low);
  if (high != 0) atomicOr(halves + 1, high);
}

// Two rows of a lane: the bits that they suppress in their own word and in the next word.
struct WordRows {
  Word own_low = 0, own_high = 0, next_low = 0, next_high = 0;
};

// One block decides which of rows first_row .. end_row - 1 are kept, and lists them. In each turn, the first warp
// decides one word. In the same turn, the other warps drop the boxes that the previous word suppresses in the words
// after this one. So the first warp itself computes the boxes that a word suppresses in the next word. All read the
// mask one turn before they use it: the first warp the rows of the next word, the others those rows of this word that
// may be kept. 32-bit numbers are enough: the state of all boxes fits in shared memory, and a round has kRoundRows
// rows.
__global__ void __launch_bounds__(kSettleThreads)
    settle_rows(const Progress progress, const int64_t* __restrict__ order, int words, int first_row, int end_row,
                const Word* __restrict__ mask, int64_t* __restrict__ kept) {
  extern __shared__ Word dropped[];  // from the first row's word on
  __shared__ Word settled[2];        // kept rows of the latest even and the latest odd word
  int num_kept = *progress.num_kept;
  if (num_kept >= progress.limit) return;
  const int first_word = first_row / kWordBits, end_word = (end_row + kWordBits - 1) / kWordBits;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  for (int i = first_word + thread; i < words; i += kSettleThreads) dropped[i - first_word] = progress.dropped[i];

  // The mask of a dropped row is not needed. For rows dropped before this round, it was not written.
  const auto dropped_before = [&](int word) { return word < end_word ? progress.dropped[word] : 0; };
  const auto read_rows = [&](int word, Word gone) {
    WordRows rows;
    if (word >= end_word) return rows;
    const bool has_next = word + 1 < words;
    const int row = word * kWordBits + lane;
    const Word* low = mask + static_cast<unsigned>((row - first_row) * words + word);
    if (row < end_row && !(gone >> lane & 1)) rows.own_low = low[0], rows.next_low = has_next ? low[1] : 0;
    const Word* high = low + 32 * words;
    if (row + 32 < end_row && !(gone >> (lane + 32) & 1)) {
      rows.own_high = high[0], rows.next_high = has_next ? high[1] : 0;
    }
    return rows;
  };
  // Reads kDropRows rows of a word from `first` on, in one column of the mask: the wanted rows, at the same time.
  const auto read_column = [&](int word, int first, int column, Word wanted, Word(&of_row)[kDropRows]) {
    const unsigned rows = static_cast<unsigned>(wanted >> first);
    const unsigned place = static_cast<unsigned>((word * kWordBits + first - first_row) * words + column);
#pragma unroll
    for (int k = 0; k < kDropRows; ++k) {
      const Word* source = mask + (place + static_cast<unsigned>(k * words));
      if (rows >> k & 1) of_row[k] = *source;
    }
  };
  // Drops the boxes of that column which the kept rows suppress.
  const auto drop_column = [&](int first, int column, Word stays, const Word(&of_row)[kDropRows]) {
    const unsigned rows = static_cast<unsigned>(stays >> first);
    Word bits = 0;
#pragma unroll
    for (int k = 0; k < kDropRows; ++k) {
      if (rows >> k & 1) bits |= of_row[k];
    }
    set_bits(dropped + (column - first_word), bits);
  };
  // Drops the boxes of the columns from `target` on that the kept rows of a word suppress.
  const auto drop = [&](int word, Word stays, int target, int number, int numbers, Word(&of_row)[kDropRows]) {
    const int later = words - target;
    for (int i = number; i < later * (kWordBits / kDropRows); i += numbers) {
      const int first = i / later * kDropRows, column = target + i % later;
      read_column(word, first, column, stays, of_row);
      drop_column(first, column, stays, of_row);
    }
  };
  const auto list = [&](int word, Word stays, int number) {
    if (number < kWordBits && (stays >> number & 1)) {
      const int place = num_kept + __popcll(stays & ((Word{1} << number) - 1));
      if (place < progress.limit) kept[place] = order[word * kWordBits + number];
    }
  };

  const bool settles = thread < 32;
  const int number = thread - 32, ahead_first = number / kDropColumns * kDropRows,
            ahead_column = 2 + number % kDropColumns;
  Word ahead[kDropRows];
  WordRows rows;
  Word gone = 0;  // rows of the next word dropped before this round
  if (settles) {
    rows = read_rows(first_word, dropped_before(first_word));
    gone = dropped_before(first_word + 1);
  }
  Word by_last = 0;  // rows of this word that the previous word suppresses
  __syncthreads();
  int word = first_word;
  for (; word < end_word && num_kept < progress.limit; ++word) {
    const bool has_last = word > first_word;
    const Word last = has_last ? settled[(word - 1) % 2] : 0;
    const int count = smaller(kWordBits, end_row - word * kWordBits);
    const Word all = count == kWordBits ? ~Word{0} : (Word{1} << count) - 1;
    const Word candidates = all & ~dropped[word - first_word];  // in this turn, nobody drops boxes of this word
    if (settles) {
      const WordRows next = read_rows(word + 1, gone);
      gone = dropped_before(word + 2);
      const Word stays = settle_word(candidates & ~by_last, rows.own_low, rows.own_high);
      if (lane == 0) settled[word % 2] = stays;
      by_last = any_of_lanes((stays >> lane & 1 ? rows.next_low : 0) | (stays >> (lane + 32) & 1 ? rows.next_high : 0));
      rows = next;
    } else {
      if (has_last) {
        const int column = word - 1 + ahead_column;
        if (column < words) drop_column(ahead_first, column, last, ahead);
        drop(word - 1, last, word + 1 + kDropColumns, number, kDropThreads, ahead);
        list(word - 1, last, number);
      }
      if (word + ahead_column < words) read_column(word, ahead_first, word + ahead_column, candidates, ahead);
    }
    num_kept += __popcll(last);
    __syncthreads();
  }
  if (word > first_word) {  // the last word of the loop
    const Word last = settled[(word - 1) % 2];
    drop(word - 1, last, word, thread, kSettleThreads, ahead);
    list(word - 1, last, thread);
    num_kept += __popcll(last);
  }
  __syncthreads();
  for (int i = first_word + thread; i < words; i += kSettleThreads) progress.dropped[i] = dropped[i - first_word];
  if (thread == 0) *progress.num_kept = smaller(num_kept, progress.limit);
}

// Indices by falling score, ties by index, NaN first.
static Tensor falling(const Tensor& scores) {
  const std::optional<bool> stable = true;
  std::array<StableIValue, 4> stack{torch::stable::detail::from(scores), torch::stable::detail::from(stable),
                                    torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(true)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  const Tensor values = torch::stable::detail::to<Tensor>(stack[0]);  // takes ownership, so that it is released
  return torch::stable::detail::to<Tensor>(stack[1]);
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
  const Device device(boxes_in);
  Tensor kept = new_output(boxes_in, {limit}, ScalarType::Long);
  if (limit == 0) return kept;
  const int64_t most =
      device.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) / static_cast<int64_t>(sizeof(Word)) - 16;
  STD_TORCH_CHECK(words <= most, "expected at most ", most * kWordBits, " boxes, got ", num);

  const Tensor boxes_dense = dense(boxes_in), order = falling(scores);
  const int64_t first_rows = blocks_for(larger(kFirstRows, 4 * limit), kWordBits) * kWordBits;
  int32_t num_kept = 0;
  Tensor sorted = new_output(boxes_in, {num, 4}, number_dtype(boxes_in.scalar_type()));
  Tensor labels = new_output(boxes_in, {labels_in ? num : 0}, ScalarType::Long);
  Tensor state = new_output(boxes_in, {words + 1}, ScalarType::Long);
  Tensor mask = new_output(boxes_in, {smaller(num, kRoundRows), words}, ScalarType::Long);
  const Progress progress{reinterpret_cast<Word*>(output<int64_t>(state)),
                          reinterpret_cast<int*>(output<int64_t>(state) + words), static_cast<int>(limit)};
  with_storage(boxes_in.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using T = Number<S>;
    const Tensor labels_dense = labels_in ? dense(*labels_in) : labels;
    const Boxes<T> boxes{output<SortedBox<T>>(sorted), labels_in ? input<int64_t>(labels) : nullptr, num};
    device.launch(&sort_boxes<S>, grid_of(blocks_for(num, kItemThreads)), kItemThreads, 0, input<S>(boxes_dense),
                  labels_in ? input<int64_t>(labels_dense) : nullptr, input<int64_t>(order), num,
                  output<SortedBox<T>>(sorted), output<int64_t>(labels), progress);
    for (int64_t first = 0, end = 0; first < num; first = end) {
      const int64_t rows = first == 0 && limit < num ? smaller(first_rows, kRoundRows) : kRoundRows;
      end = smaller(num, first + rows);
      device.launch(&mask_rows<T>, grid_of(blocks_for(words, kWordsPerBlock), blocks_for(end - first, kWordBits)),
                    dim3(kWordBits, kWordsPerBlock), 0, boxes, Threshold<T>(iou_threshold), progress, first, end,
                    reinterpret_cast<Word*>(output<int64_t>(mask)));
      const int64_t bytes = (words - first / kWordBits) * static_cast<int64_t>(sizeof(Word));
      device.launch(&settle_rows, grid_of(1), kSettleThreads, bytes, progress, input<int64_t>(order),
                    static_cast<int>(words), static_cast<int>(first), static_cast<int>(end),
                    reinterpret_cast<const Word*>(input<int64_t>(mask)), output<int64_t>(kept));
    }
  });
  // The host waits for the device only here, for the size of the result.
  check(cudaMemcpyAsync(&num_kept, progress.num_kept, sizeof(num_kept), cudaMemcpyDeviceToHost, device.stream()));
  check(cudaStreamSynchronize(device.stream()));
  return torch::stable::narrow(kept, 0, 0, num_kept);
}

}  // namespace fast_rfcn

STABLE_TORCH_LIBRARY_IMPL(fast_rfcn, CUDA, library) { library.impl("nms", TORCH_BOX(&fast_rfcn::nms)); }
