// The backward pass of means. A mean is linear, and a cell's weight is the product of a row weight and a column weight.
// So each cell sums the gradients of the bins that cover it, times these weights. One kernel tabulates, per RoI and
// axis, every cell's weight in every bin. In a second kernel, a block owns a tile of cells and 32 channels, and keeps
// their sums in shared memory. A warp owns a row of the tile, and a lane a channel. The block selects the RoIs that
// touch the tile and copies the gradients and weights of a few bins at a time to shared memory. Each warp sums them
// over the rows of bins, then adds these sums to its cells. The order of the sums is fixed, without atomics, so every
// run gives the same bits. Weights of 0 are multiplied too, so an infinite gradient of a bin can give NaN in cells of its
// RoI's other bins.
#pragma once

#include "../bins.h"
#include "planes.cuh"

namespace fast_rfcn {

constexpr int kTileWidth = 32, kTileChannels = 32;
// Also the number of rows and of columns of bins that are copied at a time: 32 bytes of weights.
template <typename T>
constexpr int kTileHeight = 32 / sizeof(T);
template <typename T>
constexpr int kTileThreads = kTileHeight<T> * 32;
constexpr int kTableThreads = 256;

// Weights of all cells in all bins, per RoI and axis. They reach to the end of the last tile; cells beyond the map have
// weights of 0.
template <typename T>
struct Tables {
  int rows, columns;  // bins
  int height, width;  // cells
  int64_t num_rois;
  bool position_sensitive;
  T* weights = nullptr;      // [R][rows][padded height], then [columns][padded width]
  Span* touched = nullptr;   // cells of each row bin, then of each column bin; see place
  Span* sideways = nullptr;  // [R], cells of all column bins
  Span* rows_of = nullptr;   // [tiles down][R], the row bins that touch a row of tiles
  int* image = nullptr;      // [R]

  __host__ __device__ int tiles_down() const { return (height + kTileHeight<T> - 1) / kTileHeight<T>; }
  __host__ __device__ int tiles_across() const { return (width + kTileWidth - 1) / kTileWidth; }
  __host__ __device__ int padded_height() const { return tiles_down() * kTileHeight<T>; }
  __host__ __device__ int padded_width() const { return tiles_across() * kTileWidth; }
  __host__ __device__ int64_t row_weights() const { return static_cast<int64_t>(rows) * padded_height(); }
  __host__ __device__ int64_t weights_per_roi() const {
    return row_weights() + static_cast<int64_t>(columns) * padded_width();
  }
  // Place in touched. A block of a position-sensitive operator reads one bin of all RoIs, so RoIs are neighbours there.
  __device__ int64_t place(int64_t roi, int bin) const {
    return position_sensitive ? bin * num_rois + roi : roi * (rows + columns) + bin;
  }
};

__device__ __forceinline__ bool meets(Span span, int first, int end) { return span.first < end && span.end > first; }

template <typename T, typename Bins>
__global__ void __launch_bounds__(kTableThreads)
    tabulate(const T* __restrict__ rois, int64_t images, const Bins bins, const Tables<T> tables) {
  const int64_t number = blockIdx.x;
  const T* roi = rois + number * kRoiColumns;
  T* weights = tables.weights + number * tables.weights_per_roi();
  const auto touched = [&](int bin) -> Span& { return tables.touched[tables.place(number, bin)]; };
  for (int i = threadIdx.x; i < tables.rows + tables.columns; i += kTableThreads) {
    const bool vertical = i < tables.rows;
    const int bin = vertical ? i : i - tables.rows;
    const int size = vertical ? tables.height : tables.width;
    const auto axis = weights_of(bins, roi, vertical);
    Span span = axis.touched(bin, size);
    while (span.first < span.end && axis.weight(bin, span.first, size) == 0) ++span.first;
    while (span.first < span.end && axis.weight(bin, span.end - 1, size) == 0) --span.end;
    touched(i) = span;
  }
  __syncthreads();
  for (int i = threadIdx.x; i <= tables.tiles_down(); i += kTableThreads) {
    if (i < tables.tiles_down()) {
      Span range{tables.rows, 0};
      for (int bin = 0; bin < tables.rows; ++bin) {
        if (meets(touched(bin), i * kTileHeight<T>, (i + 1) * kTileHeight<T>))
          range = {smaller(range.first, bin), bin + 1};
      }
      tables.rows_of[i * tables.num_rois + number] = range;
    } else {
      Span all{kFar, 0};
      for (int bin = tables.rows; bin < tables.rows + tables.columns; ++bin) {
        const Span span = touched(bin);
        if (span.first < span.end) all = {smaller(all.first, span.first), larger(all.end, span.end)};
      }
      tables.sideways[number] = all;
      tables.image[number] = static_cast<int>(image_of(roi, images));
    }
  }
  for (int64_t i = threadIdx.x; i < tables.weights_per_roi(); i += kTableThreads) {
    const bool vertical = i < tables.row_weights();
    const int item = static_cast<int>(vertical ? i : i - tables.row_weights());
    const int padded = vertical ? tables.padded_height() : tables.padded_width();
    const int bin = item / padded, cell = item % padded;
    const Span span = touched(vertical ? bin : tables.rows + bin);
    const bool covered = cell >= span.first && cell < span.end;
    const int size = vertical ? tables.height : tables.width;
    weights[i] = covered ? weights_of(bins, roi, vertical).weight(bin, cell, size) : static_cast<T>(0);
  }
}

// The gradient may have any strides: the gradient of a vote is one number for all bins, with stride 0. In
// position-sensitive operators, a block owns one bin, and copies the gradients of that bin for several RoIs at a time.
// In the others it copies a part of a RoI: up to kBins x kBins bins.
template <typename S, bool kPositionSensitive>
__global__ void __launch_bounds__(kTileThreads<Number<S>>, sizeof(Number<S>) == 8 ? 2 : 3)
    mean_backward_tiles(const View<S> grad, const Tables<Number<S>> tables, int channels, S* __restrict__ total) {
  using T = Number<S>;
  constexpr int threads = kTileThreads<T>, warps = kTileHeight<T>;
  constexpr int kBins = kPositionSensitive ? 1 : kTileHeight<T>, kSlots = kBins * kBins;
  constexpr int kRois = kPositionSensitive ? 128 / sizeof(T) : 1;
  constexpr int kSources = kRois * kBins;  // columns of bins
  constexpr int kSteps = kRois * kSlots * kTileChannels / threads, kColumnSteps = kSources / warps;
  // given is [RoI][channel] or [channel][bin], across is [RoI][cell] or [cell][bin]. The padding of 16 bytes avoids
  // conflicts of banks.
  constexpr int kGivenRows = kPositionSensitive ? kRois : kTileChannels;
  constexpr int kGivenWidth = kPositionSensitive ? kTileChannels : kSlots + 16 / sizeof(T);
  constexpr int kAcrossRows = kPositionSensitive ? kRois : kTileWidth;
  constexpr int kAcrossWidth = kPositionSensitive ? kTileWidth : kBins + 16 / sizeof(T);
  __shared__ T sums[kTileHeight<T>][kTileWidth][kTileChannels + 1];
  __shared__ __align__(16) T given[kGivenRows][kGivenWidth];
  __shared__ T down[kTileHeight<T>][kSources + 1];               // row weights
  __shared__ __align__(16) T across[kAcrossRows][kAcrossWidth];  // column weights
  __shared__ unsigned weighed[kSources];  // a bit for each cell in which a column of bins has a weight
  __shared__ unsigned listed[threads];    // RoIs
  __shared__ Span listed_rows[threads];   // the row bins that touch the tile
  __shared__ int listed_by[warps];        // hits listed by each warp

  const int bins = tables.rows * tables.columns, outputs = static_cast<int>(grad.size[1]);
  const int groups = (outputs + kTileChannels - 1) / kTileChannels;
  int block = blockIdx.x;
  const int left = block % tables.tiles_across() * kTileWidth;
  block /= tables.tiles_across();
  const int tile = block % tables.tiles_down(), top = tile * kTileHeight<T>;
  block /= tables.tiles_down();
  const int first_output = block % groups * kTileChannels;
  block /= groups;
  const int the_bin = kPositionSensitive ? block % bins : 0;
  const int image = kPositionSensitive ? block / bins : block;
  const int the_row = the_bin / tables.columns, the_column = the_bin % tables.columns;
  const int count = smaller(kTileChannels, outputs - first_output);
  const int64_t weights_per_roi = tables.weights_per_roi();
  const int row_parts = (tables.rows + kBins - 1) / kBins, column_parts = (tables.columns + kBins - 1) / kBins;

  const int lane = threadIdx.x, warp = threadIdx.y;
  const unsigned thread = threadIdx.y * 32 + threadIdx.x;
  for (int x = 0; x < kTileWidth; ++x) sums[warp][x][lane] = 0;
  for (int64_t begin = 0; begin < tables.num_rois; begin += threads) {
    const int64_t candidate = begin + thread;
    Span rows{0, 0};
    bool hit = candidate < tables.num_rois && tables.image[candidate] == image;
    if (hit) {
      rows = kPositionSensitive ? tables.touched[tables.place(candidate, the_row)]
                                : tables.rows_of[tile * tables.num_rois + candidate];
      const Span sideways = kPositionSensitive ? tables.touched[tables.place(candidate, tables.rows + the_column)]
                                               : tables.sideways[candidate];
      hit = (kPositionSensitive ? meets(rows, top, top + kTileHeight<T>) : rows.first < rows.end) &&
            meets(sideways, left, left + kTileWidth);
    }
    // Lists the hits in order.
    const unsigned hits = __ballot_sync(0xffffffffu, hit);
    if (lane == 0) listed_by[warp] = __popc(hits);
    __syncthreads();
    int num = 0, before = __popc(hits & ((1u << lane) - 1));
    for (int other = 0; other < warps; ++other) {
      if (other < warp) before += listed_by[other];
      num += listed_by[other];
    }
    if (hit) listed[before] = static_cast<unsigned>(candidate), listed_rows[before] = rows;
    __syncthreads();

    for (int part = 0; part < (kPositionSensitive ? 1 : row_parts * column_parts); ++part) {
      // What a thread copies of a RoI.
      const int first_row = kPositionSensitive ? the_row : part / column_parts * kBins;
      const int first_column = kPositionSensitive ? the_column : part % column_parts * kBins;
      const int channel = kPositionSensitive ? lane : thread / kSlots;
      const int row = first_row + thread % kSlots / kBins, column = first_column + thread % kBins;
      const int channels_left = column < tables.columns ? count - channel : 0;
      const S* my_gradient =
          grad.data + (first_output + channel) * grad.stride[1] + row * grad.stride[2] + column * grad.stride[3];
      const int weight_row = first_row + (kPositionSensitive ? 0 : thread / kTileHeight<T>);
      const T* my_row_weight = tables.weights + weight_row * tables.padded_height() + top + thread % kTileHeight<T>;
      const int weight_column = first_column + (kPositionSensitive ? 0 : warp);
      const T* my_column_weight =
          tables.weights + tables.row_weights() + weight_column * tables.padded_width() + left + lane;
      // A thread reads its next numbers before it adds those in shared memory.
      T next_given[kSteps], next_down, next_across[kColumnSteps];
      const auto read = [&](int at) {
        next_down = 0;
        if constexpr (kPositionSensitive) {
#pragma unroll
          for (int i = 0; i < kSteps; ++i) {
            const int number = at + warp + i * warps;
            next_given[i] = next_across[i] = 0;
            if (number >= num) continue;
            const int64_t roi = listed[number];
            next_across[i] = my_column_weight[roi * weights_per_roi];
            if (channels_left > 0) next_given[i] = to_number(my_gradient[roi * grad.stride[0]]);
          }
          const int number = at + thread / kTileHeight<T>;
          if (thread < kRois * kTileHeight<T> && number < num) {
            next_down = my_row_weight[listed[number] * weights_per_roi];
          }
        } else {
          const int64_t roi = listed[at], weights = roi * weights_per_roi;
          const Span rows = listed_rows[at];
          const S* source = my_gradient + roi * grad.stride[0];
          const int num_channels = row >= rows.first && row < rows.end ? channels_left : 0;
#pragma unroll
          for (int i = 0; i < kSteps; ++i) {
            next_given[i] = i * (threads / kSlots) < num_channels ? to_number(*source) : static_cast<T>(0);
            source += threads / kSlots * grad.stride[1];
          }
          const bool weighs = thread < kSlots && weight_row >= rows.first && weight_row < rows.end;
          if (weighs) next_down = my_row_weight[weights];
          next_across[0] = 0;
          if (weight_column < tables.columns) next_across[0] = my_column_weight[weights];
        }
      };
      if (num > 0) read(0);
      for (int at = 0; at < num; at += kRois) {
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          if constexpr (kPositionSensitive) {
            given[warp + i * warps][lane] = next_given[i];
          } else {
            given[thread / kSlots + i * (threads / kSlots)][thread % kSlots] = next_given[i];
          }
        }
        if (thread < kSources * kTileHeight<T>) down[thread % kTileHeight<T>][thread / kTileHeight<T>] = next_down;
#pragma unroll
        for (int i = 0; i < kColumnSteps; ++i) {
          const int column = warp + i * warps;
          (kPositionSensitive ? across[column][lane] : across[lane][column]) = next_across[i];
          const unsigned cells = __ballot_sync(0xffffffffu, next_across[i] != 0);
          if (lane == 0) weighed[column] = cells;
        }
        __syncthreads();
        if (at + kRois < num) read(at + kRois);
        unsigned rest = __ballot_sync(0xffffffffu, lane < kSources && down[warp][lane % kSources] != 0);
        if constexpr (kPositionSensitive) {
          for (; rest != 0; rest &= rest - 1) {
            const int i = __ffs(static_cast<int>(rest)) - 1;
            const T value = down[warp][i] * given[i][lane];
            for (unsigned cells = weighed[i]; cells != 0; cells &= cells - 1) {
              const int x = __ffs(static_cast<int>(cells)) - 1;
              sums[warp][x][lane] = ::fma(across[i][x], value, sums[warp][x][lane]);
            }
          }
        } else {
          T of_column[kBins] = {};
          unsigned cells = 0;
#pragma unroll
          for (int q = 0; q < kBins; ++q) cells |= weighed[q];
          if (rest == 0) cells = 0;
          for (; rest != 0; rest &= rest - 1) {
            const int p = __ffs(static_cast<int>(rest)) - 1;
            const T weight = down[warp][p];
            const Cell<T> of_row = load<T>(given[lane] + p * kBins, 1);
#pragma unroll
            for (int q = 0; q < kBins; ++q) of_column[q] = ::fma(weight, of_row.channel[q], of_column[q]);
          }
          // Two cells at a time, in chains that run at the same time. One of them may have weights of 0.
          constexpr int together = 2;
          const int end = 32 - __clz(static_cast<int>(cells));
          for (int x = (__ffs(static_cast<int>(cells)) - 1) / together * together; x < end; x += together) {
            Cell<T> weight[together];
            T sum[together];
#pragma unroll
            for (int i = 0; i < together; ++i) weight[i] = load<T>(across[x + i], 1), sum[i] = sums[warp][x + i][lane];
#pragma unroll
            for (int q = 0; q < kBins; ++q) {
#pragma unroll
              for (int i = 0; i < together; ++i) sum[i] = ::fma(weight[i].channel[q], of_column[q], sum[i]);
            }
#pragma unroll
            for (int i = 0; i < together; ++i) sums[warp][x + i][lane] = sum[i];
          }
        }
        __syncthreads();
      }
    }
  }
  __syncwarp();
  const int x = left + lane, y = top + warp;
  if (x >= tables.width || y >= tables.height) return;
  // The channels of a position-sensitive bin are not neighbours.
  const int64_t cells = static_cast<int64_t>(tables.height) * tables.width;
  const int64_t step = kPositionSensitive ? bins * cells : cells;
  S* target = total + (static_cast<int64_t>(image) * channels + the_bin) * cells + first_output * step +
              static_cast<int64_t>(y) * tables.width + x;
  for (int k = 0; k < count; ++k) target[k * step] = from_number<S>(sums[warp][lane][k]);
}

// Launches both kernels. grad is [R, outputs, rows, columns]; total has `size` [N, C, H, W] and is not empty.
template <typename S, bool kPositionSensitive, typename Bins>
void mean_backward(const Device& device, const Tensor& grad, const Tensor& rois, const Bins& bins,
                   const std::vector<int64_t>& size, Tensor& total) {
  using T = Number<S>;
  const View<S> gradient(grad);
  const int64_t num_rois = rois.size(0);
  Tables<T> tables{static_cast<int>(grad.size(2)),
                   static_cast<int>(grad.size(3)),
                   static_cast<int>(size[2]),
                   static_cast<int>(size[3]),
                   num_rois,
                   kPositionSensitive};
  const int64_t spans_of_bins = grad.size(2) + grad.size(3);
  Tensor weights = new_output(rois, {num_rois, tables.weights_per_roi()}, rois.scalar_type());
  Tensor spans = new_output(rois, {spans_of_bins + 1 + tables.tiles_down(), num_rois, 2}, ScalarType::Int);
  Tensor image = new_output(rois, {num_rois}, ScalarType::Int);
  tables.weights = output<T>(weights);
  tables.touched = output<Span>(spans);
  tables.sideways = tables.touched + spans_of_bins * num_rois;
  tables.rows_of = tables.sideways + num_rois;
  tables.image = output<int>(image);
  if (num_rois > 0) {
    device.launch(&tabulate<T, Bins>, grid_of(num_rois), kTableThreads, 0, input<T>(rois), size[0], bins, tables);
  }
  const int64_t blocks = size[0] * blocks_for(grad.size(1), kTileChannels) *
                         (kPositionSensitive ? grad.size(2) * grad.size(3) : 1) * tables.tiles_down() *
                         tables.tiles_across();
  device.launch(&mean_backward_tiles<S, kPositionSensitive>, grid_of(blocks), dim3(kTileWidth, kTileHeight<T>), 0,
                gradient, tables, static_cast<int>(size[1]), output<S>(total));
}

}  // namespace fast_rfcn
