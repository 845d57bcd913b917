// The backward pass of means. A mean is linear, and a cell's weight is the product of a row weight and a column weight.
// So each cell sums the gradients of the bins that cover it, times these weights. One kernel tabulates, per RoI and
// axis, every cell's weight in every bin. In a second kernel, a block owns a tile of cells and a group of channels and
// selects the RoIs that touch the tile. It sums the gradients of each column of bins over the bins, once per row of
// cells, and keeps these sums and the column weights in shared memory. Then each thread sums over columns of bins for
// its cell, in registers. The order of the sums is fixed, without atomics, so every run gives the same bits.
#pragma once

#include "reduce.cuh"

namespace fast_rfcn {

constexpr int kTileWidth = 32, kTileHeight = 8;
constexpr int kTileThreads = kTileWidth * kTileHeight;
constexpr int kColumnsOfWarp = 8;                           // columns of bins; a bit of a byte for each
constexpr int kMostColumns = kTileHeight * kColumnsOfWarp;  // columns of bins in shared memory
constexpr int kTableThreads = 128;

// Weights of all cells in all bins, per RoI and axis. They reach to the end of the last tile; cells beyond the map have
// weights of 0. The sizes of tiles keep the weights of a tile aligned to 16 bytes.
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

  __host__ __device__ int tiles_down() const { return (height + kTileHeight - 1) / kTileHeight; }
  __host__ __device__ int tiles_across() const { return (width + kTileWidth - 1) / kTileWidth; }
  __host__ __device__ int padded_height() const { return tiles_down() * kTileHeight; }
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
    touched(i) = weights_of(bins, roi, vertical).touched(bin, vertical ? tables.height : tables.width);
  }
  __syncthreads();
  for (int i = threadIdx.x; i <= tables.tiles_down(); i += kTableThreads) {
    if (i < tables.tiles_down()) {
      Span range{tables.rows, 0};
      for (int bin = 0; bin < tables.rows; ++bin) {
        if (meets(touched(bin), i * kTileHeight, (i + 1) * kTileHeight)) range = {smaller(range.first, bin), bin + 1};
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
  for (int i = threadIdx.x; i < tables.padded_height() + tables.padded_width(); i += kTableThreads) {
    const bool vertical = i < tables.padded_height();
    const int cell = vertical ? i : i - tables.padded_height(), num = vertical ? tables.rows : tables.columns;
    const int size = vertical ? tables.height : tables.width;
    const int64_t step = vertical ? tables.padded_height() : tables.padded_width();
    const auto axis = weights_of(bins, roi, vertical);
    T* of_cell = weights + (vertical ? 0 : tables.row_weights()) + cell;
    for (int bin = 0; bin < num; ++bin) {
      const Span span = touched(vertical ? bin : tables.rows + bin);
      const bool covered = cell >= span.first && cell < span.end;
      of_cell[bin * step] = covered ? axis.weight(bin, cell, size) : static_cast<T>(0);
    }
  }
}

// The weights of a bin in the rows of a tile.
template <typename T>
union RowWeights {
  static constexpr int kWords = kTileHeight * sizeof(T) / 16;
  uint4 words[kWords];
  T row[kTileHeight];
};

// The gradient may have any strides: the gradient of a vote is one number for all bins, with stride 0. In
// position-sensitive operators, a block owns one bin, so a RoI has one column.
template <typename S>
__global__ void __launch_bounds__(kTileThreads, sizeof(Number<S>) == 8 ? 2 : 4)
    mean_backward_tiles(const View<S> grad, const Tables<Number<S>> tables, int64_t channels, S* __restrict__ total) {
  using T = Number<S>;
  constexpr int group = kGroup<T>, words = CellWords<T>::kWords, per_word = group / words;
  __shared__ int listed[kTileThreads];
  __shared__ int listed_by[kTileHeight];  // hits listed by each warp
  __shared__ __align__(16) T summed[kTileHeight][words][kMostColumns][per_word];
  __shared__ T across[kMostColumns][kTileWidth];  // column weights
  // Columns in which a cell of the tile's width has a weight, a bit for each.
  __shared__ __align__(8) unsigned char columns_of[kTileWidth][kTileHeight];
  __shared__ unsigned covered[kMostColumns];  // a bit for each row of the tile in which a column has a weight
  const int64_t num_rois = tables.num_rois, outputs = grad.size[1];
  const int64_t bins = static_cast<int64_t>(tables.rows) * tables.columns;
  const bool position_sensitive = tables.position_sensitive;
  int64_t block = blockIdx.x;
  const int left = static_cast<int>(block % tables.tiles_across()) * kTileWidth;
  block /= tables.tiles_across();
  const int tile = static_cast<int>(block % tables.tiles_down()), top = tile * kTileHeight;
  block /= tables.tiles_down();
  const int64_t groups = (outputs + group - 1) / group;
  const int64_t first_output = block % groups * group;
  block /= groups;
  const int the_bin = position_sensitive ? static_cast<int>(block % bins) : 0;
  const int64_t image = position_sensitive ? block / bins : block;
  const int the_row = the_bin / tables.columns, the_column = the_bin % tables.columns;
  const int count = static_cast<int>(smaller<int64_t>(group, outputs - first_output));
  const int columns = position_sensitive ? 1 : tables.columns;

  const int lane = threadIdx.x, warp = threadIdx.y, thread = warp * kTileWidth + lane;  // a warp is a row of the tile
  // The column that a thread sums, for one channel of each word. Lanes write neighbouring numbers of shared memory.
  const int my_column = warp * (kTileWidth / per_word) + lane / per_word, my_channel = lane % per_word;
  T sum[group] = {};
  for (int64_t begin = 0; begin < num_rois; begin += kTileThreads) {
    const int64_t candidate = begin + thread;
    bool hit = candidate < num_rois && tables.image[candidate] == image;
    if (hit) {
      const Span down = position_sensitive ? tables.touched[tables.place(candidate, the_row)]
                                           : tables.rows_of[tile * num_rois + candidate];
      const Span sideways = position_sensitive ? tables.touched[tables.place(candidate, tables.rows + the_column)]
                                               : tables.sideways[candidate];
      hit = (position_sensitive ? meets(down, top, top + kTileHeight) : down.first < down.end) &&
            meets(sideways, left, left + kTileWidth);
    }
    // Lists the hits in order. Two barriers lie between each read of the list or the counts and the next write.
    const unsigned hits = __ballot_sync(0xffffffffu, hit);
    if (lane == 0) listed_by[warp] = __popc(hits);
    __syncthreads();
    int num = 0, before = __popc(hits & ((1u << lane) - 1));
    for (int other = 0; other < kTileHeight; ++other) {
      if (other < warp) before += listed_by[other];
      num += listed_by[other];
    }
    if (hit) listed[before] = thread;
    __syncthreads();
    const int all_columns = num * columns;
    for (int first = 0; first < all_columns; first += kMostColumns) {
      const int num_columns = smaller(kMostColumns, all_columns - first);
      if (my_column < num_columns) {
        const int64_t roi = begin + listed[(first + my_column) / columns];
        const int q = position_sensitive ? the_column : (first + my_column) % columns;
        Span rows{0, 0};
        if (position_sensitive) {
          rows = {the_row, the_row + 1};
        } else if (meets(tables.touched[tables.place(roi, tables.rows + q)], left, left + kTileWidth)) {
          rows = tables.rows_of[tile * num_rois + roi];
        }
        const S* gradient = grad.data + roi * grad.stride[0] + first_output * grad.stride[1] + q * grad.stride[3];
        const T* weights = tables.weights + roi * tables.weights_per_roi() + top;
        T of_row[words][kTileHeight] = {};
        unsigned rows_covered = 0;
        for (int p = rows.first; p < rows.end; ++p) {
          const uint4* source =
              reinterpret_cast<const uint4*>(weights + p * static_cast<int64_t>(tables.padded_height()));
          RowWeights<T> weight{};
#pragma unroll
          for (int i = 0; i < RowWeights<T>::kWords; ++i) weight.words[i] = source[i];
          T given[words];
#pragma unroll
          for (int i = 0; i < words; ++i) {  // channels beyond the last one repeat it
            const int channel = smaller(i * per_word + my_channel, count - 1);
            given[i] = to_number(gradient[p * grad.stride[2] + channel * grad.stride[1]]);
          }
#pragma unroll
          for (int y = 0; y < kTileHeight; ++y) {
            if (weight.row[y] == 0) continue;
            rows_covered |= 1u << y;
#pragma unroll
            for (int i = 0; i < words; ++i) of_row[i][y] += weight.row[y] * given[i];
          }
        }
#pragma unroll
        for (int y = 0; y < kTileHeight; ++y) {
#pragma unroll
          for (int i = 0; i < words; ++i) summed[y][i][my_column][my_channel] = of_row[i][y];
        }
        if (my_channel == 0) covered[my_column] = rows_covered;
      }
      // Each warp copies the column weights of 8 columns.
      unsigned weighs = 0;
      int place = first + warp * kColumnsOfWarp;
      int at = place / columns, q = position_sensitive ? the_column : place % columns;
      for (int i = 0; i < kColumnsOfWarp && place < all_columns; ++i, ++place) {
        const T* weights = tables.weights + (begin + listed[at]) * tables.weights_per_roi() + tables.row_weights();
        const T weight = weights[static_cast<int64_t>(q) * tables.padded_width() + left + lane];
        across[warp * kColumnsOfWarp + i][lane] = weight;
        if (weight != 0) weighs |= 1u << i;
        if (position_sensitive || ++q == columns) ++at, q = position_sensitive ? the_column : 0;
      }
      columns_of[lane][warp] = static_cast<unsigned char>(weighs);
      __syncthreads();
      // Each cell goes through the columns in which its row and its column of the map have a weight.
      uint64_t rest = 0;
#pragma unroll
      for (int part = 0; part < kMostColumns; part += kTileWidth) {
        const bool mine = part + lane < num_columns && (covered[part + lane] >> warp & 1);
        rest |= static_cast<uint64_t>(__ballot_sync(0xffffffffu, mine)) << part;
      }
      rest &= *reinterpret_cast<const uint64_t*>(columns_of[lane]);
      for (; rest != 0; rest &= rest - 1) {
        const int i = __ffsll(static_cast<long long>(rest)) - 1;
        const T weight = across[i][lane];
        const Cell<T> cell = load<T>(&summed[warp][0][i][0], kMostColumns);
#pragma unroll
        for (int k = 0; k < group; ++k) sum[k] += weight * cell.channel[k];
      }
      __syncthreads();
    }
  }
  const int x = left + lane, y = top + warp;
  if (x >= tables.width || y >= tables.height) return;
  const int64_t cells = static_cast<int64_t>(tables.height) * tables.width;
#pragma unroll
  for (int k = 0; k < group; ++k) {
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
                   num_rois,
                   position_sensitive};
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
  const int64_t blocks = size[0] * blocks_for(grad.size(1), kGroup<T>) *
                         (position_sensitive ? grad.size(2) * grad.size(3) : 1) * tables.tiles_down() *
                         tables.tiles_across();
  device.launch(&mean_backward_tiles<S>, grid_of(blocks), dim3(kTileWidth, kTileHeight), 0, gradient, tables, size[1],
                output<S>(total));
}

}  // namespace fast_rfcn
