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
constexpr int64_t kRoundRows = 4096;  // a multiple of kWordBits
constexpr int64_t kFirstRows = 1024;  // a multiple of kWordBits
constexpr int kSettleThreads = 1024;
constexpr int kDropThreads = kSettleThreads - 32;  // all threads but the first warp

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

// Two rows of a lane: the bits that they suppress in their own word and in the next word.
struct WordRows {
  Word own_low = 0, own_high = 0, next_low = 0, next_high = 0;
};

// One block decides which of rows first_row .. end_row - 1 are kept, and lists them. In each turn, the first warp
// decides one word. In the same turn, the other warps drop the boxes that the previous word suppresses in the words
// after this one. So the first warp itself computes the boxes that a word suppresses in the next word, from rows read
// one turn earlier.
__global__ void __launch_bounds__(kSettleThreads)
    settle_rows(const Progress progress, const int64_t* __restrict__ order, int64_t words, int64_t first_row,
                int64_t end_row, const Word* __restrict__ mask, int64_t* __restrict__ kept) {
  extern __shared__ Word dropped[];  // from the first row's word on
  __shared__ Word settled[2];        // kept rows of the latest even and the latest odd word
  int num_kept = *progress.num_kept;
  if (num_kept >= progress.limit) return;
  const int64_t first_word = first_row / kWordBits, end_word = (end_row + kWordBits - 1) / kWordBits;
  for (int64_t i = first_word + threadIdx.x; i < words; i += kSettleThreads) {
    dropped[i - first_word] = progress.dropped[i];
  }
  const int lane = threadIdx.x % 32;
  // The mask of a dropped row is not needed. For rows dropped before this round, it was not written.
  const auto read_rows = [&](int64_t word) {
    WordRows rows;
    if (word >= end_word) return rows;
    const Word gone = progress.dropped[word];
    const bool has_next = word + 1 < words;
    const int64_t start = word * kWordBits;
    const Word* low = mask + (start + lane - first_row) * words + word;
    if (start + lane < end_row && !(gone >> lane & 1)) rows.own_low = low[0], rows.next_low = has_next ? low[1] : 0;
    const Word* high = low + 32 * words;
    if (start + lane + 32 < end_row && !(gone >> (lane + 32) & 1)) {
      rows.own_high = high[0], rows.next_high = has_next ? high[1] : 0;
    }
    return rows;
  };
  // Drops the boxes of the words from `target` on that the kept rows of a word suppress. Each thread reads a few rows,
  // so that all loads run at the same time.
  const auto drop = [&](int64_t word, Word stays, int64_t target, int thread, int threads) {
    const Word* rows = mask + (word * kWordBits - first_row) * words;
    const int64_t later = larger<int64_t>(words - target, 0);
    const int64_t parts = smaller<int64_t>(larger<int64_t>(1, threads / larger<int64_t>(later, 1)), 16);
    for (int64_t i = thread; i < later * parts; i += threads) {
      Word bits = 0;
      for (int64_t row = i / later; row < kWordBits; row += parts) {
        if (stays >> row & 1) bits |= rows[row * words + target + i % later];
      }
      if (bits != 0) atomicOr(dropped + (target + i % later - first_word), bits);
    }
  };
  const auto list = [&](int64_t word, Word stays, int thread) {
    if (thread < kWordBits && (stays >> thread & 1)) {
      const int place = num_kept + __popcll(stays & ((Word{1} << thread) - 1));
      if (place < progress.limit) kept[place] = order[word * kWordBits + thread];
    }
  };
  const bool settles = threadIdx.x < 32;
  WordRows rows;
  if (settles) rows = read_rows(first_word);
  Word by_last = 0;  // rows of this word that the previous word suppresses
  __syncthreads();
  int64_t word = first_word;
  for (; word < end_word && num_kept < progress.limit; ++word) {
    const bool has_last = word > first_word;
    const Word last = has_last ? settled[(word - 1) % 2] : 0;
    if (settles) {
      const int count = static_cast<int>(smaller<int64_t>(kWordBits, end_row - word * kWordBits));
      const Word all = count == kWordBits ? ~Word{0} : (Word{1} << count) - 1;
      const WordRows next = read_rows(word + 1);
      const Word stays = settle_word(all & ~dropped[word - first_word] & ~by_last, rows.own_low, rows.own_high);
      if (lane == 0) settled[word % 2] = stays;
      by_last = any_of_lanes((stays >> lane & 1 ? rows.next_low : 0) | (stays >> (lane + 32) & 1 ? rows.next_high : 0));
      rows = next;
    } else if (has_last) {
      drop(word - 1, last, word + 1, threadIdx.x - 32, kDropThreads);
      list(word - 1, last, threadIdx.x - 32);
    }
    num_kept += __popcll(last);
    __syncthreads();
  }
  if (word > first_word) {  // the last word of the loop
    const Word last = settled[(word - 1) % 2];
    drop(word - 1, last, word, threadIdx.x, kSettleThreads);
    list(word - 1, last, threadIdx.x);
    num_kept += __popcll(last);
  }
  __syncthreads();
  for (int64_t i = first_word + threadIdx.x; i < words; i += kSettleThreads) {
    progress.dropped[i] = dropped[i - first_word];
  }
  if (threadIdx.x == 0) *progress.num_kept = smaller(num_kept, progress.limit);
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
      device.launch(&settle_rows, grid_of(1), kSettleThreads, bytes, progress, input<int64_t>(order), words, first, end,
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
