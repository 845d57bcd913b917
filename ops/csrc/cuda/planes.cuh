// Access to feature maps, a few channels of a cell at a time, in shared or in global memory.
#pragma once

#include "tensors.cuh"

namespace fast_rfcn {

// Number of channels that a thread handles together: 32 bytes, 16 bytes in half precision.
template <typename S>
constexpr int kGroup = sizeof(S) == 8 ? 4 : 8;

// The values of one cell in a group of channels.
template <typename S>
struct alignas(16) Cell {
  S channel[kGroup<S>];
};

// A cell as words of 16 bytes; one instruction moves at most 16 bytes.
template <typename S>
union CellWords {
  static constexpr int kWords = sizeof(Cell<S>) / 16;
  uint4 words[kWords];
  Cell<S> cell;
};

// Reads a cell whose words are `step` words apart.
template <typename S>
__device__ __forceinline__ Cell<S> load(const void* source, int step) {
  CellWords<S> copy{};
#pragma unroll
  for (int i = 0; i < CellWords<S>::kWords; ++i) copy.words[i] = static_cast<const uint4*>(source)[i * step];
  return copy.cell;
}

// Writes a cell in words that are `step` words apart.
template <typename S>
__device__ __forceinline__ void store(void* target, int step, const Cell<S>& cell) {
  CellWords<S> copy{};
  copy.cell = cell;
#pragma unroll
  for (int i = 0; i < CellWords<S>::kWords; ++i) static_cast<uint4*>(target)[i * step] = copy.words[i];
}

// A group of channels of one image, in global memory.
template <typename S>
struct GlobalPlanes {
  const S* data;
  int64_t channel_stride, row_stride, column_stride;
  int count;
  bool vectors;  // the group's channels are adjacent and aligned
  static constexpr bool may_have_nan = true;

  __device__ GlobalPlanes(const View<S>& map, int64_t image, int64_t first_channel, int64_t channel_step, int count)
      : data(map.data + image * map.stride[0] + first_channel * map.stride[1]),
        channel_stride(channel_step * map.stride[1]),
        row_stride(map.stride[2]),
        column_stride(map.stride[3]),
        count(count) {
    constexpr int per_word = 16 / static_cast<int>(sizeof(S));
    vectors = channel_stride == 1 && count == kGroup<S> && row_stride % per_word == 0 &&
              column_stride % per_word == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  }

  // Cells one after another.
  __device__ GlobalPlanes(const Cell<S>* cells, int64_t width)
      : data(cells->channel),
        channel_stride(1),
        row_stride(width * kGroup<S>),
        column_stride(kGroup<S>),
        count(kGroup<S>),
        vectors(true) {}

  __device__ __forceinline__ Cell<S> at(int y, int x) const {
    const S* source = data + y * row_stride + x * column_stride;
    if (vectors) return load<S>(source, 1);
    Cell<S> cell;
#pragma unroll
    for (int k = 0; k < kGroup<S>; ++k) cell.channel[k] = source[smaller(k, count - 1) * channel_stride];
    return cell;
  }
};

// A group of channels in shared memory, as [words of a cell][cells]. So neighbouring cells are in different banks, for
// each of their words.
template <typename S>
struct SharedPlanes {
  uint4* words;
  int num_cells, width;
  bool may_have_nan;

  __device__ __forceinline__ Cell<S> at(int y, int x) const { return load<S>(words + y * width + x, num_cells); }

  __device__ __forceinline__ void put(int index, const Cell<S>& cell) const { store(words + index, num_cells, cell); }
};

}  // namespace fast_rfcn
