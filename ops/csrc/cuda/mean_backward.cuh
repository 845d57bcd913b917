// The backward pass of means. A mean is linear, and a cell's weight is the product of a row weight and a column weight.
// So each cell sums the gradients of the bins that cover it, times these weights. One kernel tabulates, per RoI and
// axis, every cell's weight in every bin. In a second kernel, a block owns a tile of cells and a group of channels and
// selects the RoIs that touch the tile. Its threads sum in registers over RoIs and bins. The order of the sums is
// fixed, without atomics, so every run gives the same bits.
#pragma once

#include "reduce.cuh"

namespace fast_rfcn {

constexpr int kTileWidth = 32, kTileHeight = 8;
constexpr int kTileThreads = kTileWidth * kTileHeight;
constexpr int kSpreadChannels = 8;
constexpr int kTableThreads = 128;

// Weights of all cells in all bins, per RoI and axis.
template <typename T>
struct Tables {
  int rows, columns;  // bins
  int height, width;  // cells
  T* weights;         // [R][height * rows + width * columns]
  Span* touched;      // [R][rows + columns + 2], cells of each bin, then of all row bins, then of all column bins
  Span* bins_of;      // [R][height + width], the bins in which a row or column of cells has a weight

  __host__ __device__ int64_t weights_per_roi() const {
    return static_cast<int64_t>(height) * rows + static_cast<int64_t>(width) * columns;
  }
  __host__ __device__ int64_t touched_per_roi() const { return static_cast<int64_t>(rows) + columns + 2; }
  __host__ __device__ int64_t bins_of_per_roi() const { return static_cast<int64_t>(height) + width; }
};

template <typename T, typename Bins>
__global__ void __launch_bounds__(kTableThreads)
    tabulate(const T* __restrict__ rois, const Bins bins, const Tables<T> tables) {
  const T* roi = rois + static_cast<int64_t>(blockIdx.x) * kRoiColumns;
  T* weights = tables.weights + blockIdx.x * tables.weights_per_roi();
  Span* touched = tables.touched + blockIdx.x * tables.touched_per_roi();
  Span* bins_of = tables.bins_of + blockIdx.x * tables.bins_of_per_roi();
  for (int i = threadIdx.x; i < tables.rows + tables.columns; i += kTableThreads) {
    const bool vertical = i < tables.rows;
    const int bin = vertical ? i : i - tables.rows;
    touched[i] = weights_of(bins, roi, vertical).touched(bin, vertical ? tables.height : tables.width);
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    const bool vertical = threadIdx.x == 0;
    const int from = vertical ? 0 : tables.rows, to = vertical ? tables.rows : tables.rows + tables.columns;
    Span all{kFar, 0};
    for (int i = from; i < to; ++i) {
      if (touched[i].first < touched[i].end) {
        all = {smaller(all.first, touched[i].first), larger(all.end, touched[i].end)};
      }
    }
    touched[tables.rows + tables.columns + threadIdx.x] = all;
  }
  for (int i = threadIdx.x; i < tables.height + tables.width; i += kTableThreads) {
    const bool vertical = i < tables.height;
    const int cell = vertical ? i : i - tables.height, num = vertical ? tables.rows : tables.columns;
    const int size = vertical ? tables.height : tables.width;
    const auto axis = weights_of(bins, roi, vertical);
    T* of_cell =
        weights + static_cast<int64_t>(cell) * num + (vertical ? 0 : static_cast<int64_t>(tables.height) * tables.rows);
    Span range{num, 0};
    for (int bin = 0; bin < num; ++bin) {
      const Span span = touched[vertical ? bin : tables.rows + bin];
      const T weight = cell >= span.first && cell < span.end ? axis.weight(bin, cell, size) : static_cast<T>(0);
      of_cell[bin] = weight;
      if (weight != 0) range = {smaller(range.first, bin), bin + 1};
    }
    bins_of[i] = range;
  }
}

__device__ __forceinline__ bool meets(Span span, int first, int end) { return span.first < end && span.end > first; }

// The gradient may have any strides: the gradient of a vote is one number for all bins, with stride 0.
template <typename S>
__global__ void __launch_bounds__(kTileThreads)
    mean_backward_tiles(const View<S> grad, const Number<S>* __restrict__ rois, const Tables<Number<S>> tables,
                        int64_t images, int64_t channels, bool position_sensitive, S* __restrict__ total) {
  using T = Number<S>;
  __shared__ int listed[kTileThreads];
  __shared__ int listed_by[kTileHeight];  // hits listed by each warp
  const int64_t num_rois = grad.size[0], outputs = grad.size[1];
  const int64_t bins = static_cast<int64_t>(tables.rows) * tables.columns;
  const int64_t tiles_across = (tables.width + kTileWidth - 1) / kTileWidth;
  const int64_t tiles_down = (tables.height + kTileHeight - 1) / kTileHeight;
  int64_t block = blockIdx.x;
  const int left = static_cast<int>(block % tiles_across) * kTileWidth;
  block /= tiles_across;
  const int top = static_cast<int>(block % tiles_down) * kTileHeight;
  block /= tiles_down;
  const int64_t groups = (outputs + kSpreadChannels - 1) / kSpreadChannels;
  const int64_t first_output = block % groups * kSpreadChannels;
  block /= groups;
  const int the_bin = position_sensitive ? static_cast<int>(block % bins) : 0;
  const int64_t image = position_sensitive ? block / bins : block;
  const int the_row = the_bin / tables.columns, the_column = the_bin % tables.columns;
  const int count = static_cast<int>(smaller<int64_t>(kSpreadChannels, outputs - first_output));

  const int thread = threadIdx.y * kTileWidth + threadIdx.x;
  const int x = left + threadIdx.x, y = top + threadIdx.y;
  const bool inside = x < tables.width && y < tables.height;
  T sum[kSpreadChannels] = {};
  for (int64_t begin = 0; begin < num_rois; begin += kTileThreads) {
    const int64_t candidate = begin + thread;
    bool hit = candidate < num_rois && image_of(rois + candidate * kRoiColumns, images) == image;
    if (hit) {
      const Span* touched = tables.touched + candidate * tables.touched_per_roi();
      const int all = tables.rows + tables.columns;
      hit = meets(touched[position_sensitive ? the_row : all], top, top + kTileHeight) &&
            meets(touched[position_sensitive ? tables.rows + the_column : all + 1], left, left + kTileWidth);
    }
    // Lists the hits in order; a warp is a row of the tile. No thread overwrites the list before the next round's first
    // barrier, or the counts before this round's second barrier, so all threads have read them by then.
    const unsigned hits = __ballot_sync(0xffffffffu, hit);
    if (threadIdx.x == 0) listed_by[threadIdx.y] = __popc(hits);
    __syncthreads();
    int num = 0, before = __popc(hits & ((1u << threadIdx.x) - 1));
    for (int warp = 0; warp < kTileHeight; ++warp) {
      if (warp < static_cast<int>(threadIdx.y)) before += listed_by[warp];
      num += listed_by[warp];
    }
    if (hit) listed[before] = thread;
    __syncthreads();
    for (int i = 0; i < num && inside; ++i) {
      const int64_t roi = begin + listed[i];
      const T* on_row = tables.weights + roi * tables.weights_per_roi() + static_cast<int64_t>(y) * tables.rows;
      const T* on_column = tables.weights + roi * tables.weights_per_roi() +
                           static_cast<int64_t>(tables.height) * tables.rows + static_cast<int64_t>(x) * tables.columns;
      Span rows{the_row, the_row + 1}, columns{the_column, the_column + 1};
      if (!position_sensitive) {
        rows = tables.bins_of[roi * tables.bins_of_per_roi() + y];
        columns = tables.bins_of[roi * tables.bins_of_per_roi() + tables.height + x];
      }
      const S* gradient = grad.data + roi * grad.stride[0] + first_output * grad.stride[1];
      for (int p = rows.first; p < rows.end; ++p) {
        for (int q = columns.first; q < columns.end; ++q) {
          const T weight = on_row[p] * on_column[q];
          if (weight == 0) continue;
          const S* of_bin = gradient + p * grad.stride[2] + q * grad.stride[3];
#pragma unroll
          for (int k = 0; k < kSpreadChannels; ++k) {
            if (k < count) sum[k] += weight * to_number(of_bin[k * grad.stride[1]]);
          }
        }
      }
    }
  }
  if (!inside) return;
  const int64_t cells = static_cast<int64_t>(tables.height) * tables.width;
#pragma unroll
  for (int k = 0; k < kSpreadChannels; ++k) {
    const int64_t channel = position_sensitive ? (first_output + k) * bins + the_bin : first_output + k;
    S* plane = total + (image * channels + channel) * cells;
    if (k < count) plane[static_cast<int64_t>(y) * tables.width + x] = from_number<S>(sum[k]);
  }
}

// Launches both kernels. grad is [R, outputs, rows, columns]; total has `size` [N, C, H, W] and is not empty.
template <typename S, typename Bins>
void mean_backward(const Device& device, const Tensor& grad, const Tensor& rois, const Bins& bins,
                   const std::vector<int64_t>& size, bool position_sensitive, Tensor& total) {
  using T = Number<S>;
  const View<S> gradient(grad);
  const int64_t num_rois = rois.size(0);
  Tables<T> tables{static_cast<int>(grad.size(2)),
                   static_cast<int>(grad.size(3)),
                   static_cast<int>(size[2]),
                   static_cast<int>(size[3]),
                   nullptr,
                   nullptr,
                   nullptr};
  Tensor weights = new_output(rois, {num_rois, tables.weights_per_roi()}, rois.scalar_type());
  Tensor spans = new_output(rois, {num_rois, tables.touched_per_roi() + tables.bins_of_per_roi(), 2}, ScalarType::Int);
  tables.weights = output<T>(weights);
  tables.touched = output<Span>(spans);
  tables.bins_of = tables.touched + num_rois * tables.touched_per_roi();
  if (num_rois > 0) {
    device.launch(&tabulate<T, Bins>, grid_of(num_rois), kTableThreads, 0, input<T>(rois), bins, tables);
  }
  const int64_t blocks = size[0] * blocks_for(grad.size(1), kSpreadChannels) *
                         (position_sensitive ? grad.size(2) * grad.size(3) : 1) * blocks_for(size[2], kTileHeight) *
                         blocks_for(size[3], kTileWidth);
  device.launch(&mean_backward_tiles<S>, grid_of(blocks), dim3(kTileWidth, kTileHeight), 0, gradient, input<T>(rois),
                tables, size[0], size[1], position_sensitive, output<S>(total));
}

}  // namespace fast_rfcn
