// The forward pass of every RoI operator. A block owns one image and one group of channels (for position-sensitive
// operators: one bin and one group of classes). It copies that part of the map (a slab) to shared memory if that saves
// time, and reduces the bins of its share of the RoIs. If slabs do not fit there, another kernel first lays them out in
// global memory, so that the channels of a cell are neighbours. A thread reduces one bin for the whole group, so edges
// and weights are computed once for up to 8 channels. Every output is written once, by one thread.
#pragma once

#include "reduce.cuh"

namespace fast_rfcn {

constexpr int kPoolThreads = 512;
constexpr int kPoolWarps = kPoolThreads / 32;
constexpr int kCellsAtOnce = 2;  // cells that a thread reads before it writes them
// Shared memory for the list of RoIs, and for the entries of one round.
constexpr int64_t kListBytes = 2 * kPoolThreads + 4 * kPoolWarps;
constexpr int64_t kEntryBytes = 12 << 10;

struct PoolShape {
  int height, width;        // bins
  bool position_sensitive;  // channel (d * height + i) * width + j serves bin (i, j) of output d
  int64_t num_rois, outputs;
  // Pooled is [height, width, outputs, num_rois], so that the threads of one bin write neighbouring numbers; else, and
  // for places, [num_rois, outputs, height, width].
  bool rois_last = false;
  int rois_per_round = 0;

  PoolShape(int height, int width, bool position_sensitive, int64_t num_rois, int64_t outputs)
      : height(height), width(width), position_sensitive(position_sensitive), num_rois(num_rois), outputs(outputs) {}

  __host__ __device__ int64_t bins() const { return static_cast<int64_t>(height) * width; }
  // Number of bins that one block reduces, along each axis.
  __host__ __device__ int rows() const { return position_sensitive ? 1 : height; }
  __host__ __device__ int columns() const { return position_sensitive ? 1 : width; }
};

// The part of a map that the blocks of one blockIdx.x own.
struct PoolPart {
  int64_t image, first_output;
  int bin, count;  // the bin in position-sensitive operators, else 0; outputs, at most `group`

  __device__ PoolPart(const PoolShape& shape, int group) {
    const int groups = static_cast<int>((shape.outputs + group - 1) / group);
    int block = static_cast<int>(blockIdx.x);
    first_output = static_cast<int64_t>(block % groups) * group;
    block /= groups;
    const int bins = shape.position_sensitive ? static_cast<int>(shape.bins()) : 1;
    bin = block % bins;
    image = block / bins;
    count = static_cast<int>(smaller<int64_t>(group, shape.outputs - first_output));
  }
  template <typename S>
  __device__ GlobalPlanes<S> of(const View<S>& map, const PoolShape& shape) const {
    const int64_t channel_step = shape.position_sensitive ? shape.bins() : 1;
    return {map, image, first_output * channel_step + bin, channel_step, count};
  }
};

// A bin of the RoIs of a round. Threads step through the bins without divisions.
struct BinOfRound {
  int number, row, column;

  __device__ BinOfRound(int index, int rows, int columns)
      : number(index / columns / rows), row(index / columns % rows), column(index % columns) {}
  __device__ void advance(const BinOfRound& step, int rows, int columns) {
    number += step.number, row += step.row, column += step.column;
    if (column >= columns) column -= columns, ++row;
    if (row >= rows) row -= rows, ++number;
  }
};

// Lists the threads of a block that hit, in order, and returns their number.
__device__ inline int list_hits(bool hit, unsigned short* listed, int* hits_of_warp) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned hits = __ballot_sync(0xffffffffu, hit);
  if (lane == 0) hits_of_warp[warp] = __popc(hits);
  __syncthreads();
  int num = 0, before = __popc(hits & ((1u << lane) - 1));
  for (int other = 0; other < kPoolWarps; ++other) {
    if (other < warp) before += hits_of_warp[other];
    num += hits_of_warp[other];
  }
  if (hit) listed[before] = static_cast<unsigned short>(threadIdx.x);
  __syncthreads();
  return num;
}

// Copies the parts of a map: laid_out is [parts, cells].
template <typename S>
__global__ void __launch_bounds__(kPoolThreads)
    lay_out(const View<S> map, const PoolShape shape, Cell<S>* __restrict__ laid_out) {
  const GlobalPlanes<S> there = PoolPart(shape, kGroup<S>).of(map, shape);
  const int map_width = static_cast<int>(map.width()), num_cells = static_cast<int>(map.cells());
  Cell<S>* part = laid_out + blockIdx.x * map.cells();
  for (int i = blockIdx.y * kPoolThreads + threadIdx.x; i < num_cells; i += gridDim.y * kPoolThreads) {
    store(part + i, 1, there.at(i / map_width, i % map_width));
  }
}

// With laid_out, the map itself is not read.
template <typename S, typename O, typename Reduction, bool kShared>
__global__ void __launch_bounds__(kPoolThreads, kShared ? 2 : 1)
    pool_bins(const View<S> map, const Cell<S>* __restrict__ laid_out, const Number<S>* __restrict__ rois,
              const Reduction reduction, const PoolShape shape, O* __restrict__ pooled, const Places places) {
  using Entry = typename Reduction::Entry;
  extern __shared__ __align__(16) unsigned char memory[];
  Entry* entries = reinterpret_cast<Entry*>(memory + (kShared ? map.cells() * sizeof(Cell<S>) : 0));
  __shared__ unsigned short listed[kPoolThreads];
  __shared__ int hits_of_warp[kPoolWarps];

  const PoolPart part(shape, kGroup<S>);
  const GlobalPlanes<S> there = kShared || laid_out == nullptr
                                    ? part.of(map, shape)
                                    : GlobalPlanes<S>(laid_out + blockIdx.x * map.cells(), map.width());
  const int map_width = static_cast<int>(map.width()), num_cells = static_cast<int>(map.cells());
  SharedPlanes<S> slab{reinterpret_cast<uint4*>(memory), num_cells, map_width, false};
  bool nan = false;
  if constexpr (kShared) {
#pragma unroll 1
    for (int i = threadIdx.x; i < num_cells; i += kCellsAtOnce * kPoolThreads) {
      Cell<S> cells[kCellsAtOnce];
#pragma unroll
      for (int j = 0; j < kCellsAtOnce; ++j) {
        const int at = smaller(i + j * kPoolThreads, num_cells - 1);
        cells[j] = there.at(at / map_width, at % map_width);
        nan |= Reduction::kFasterWithoutNan && has_nan(cells[j]);
      }
#pragma unroll
      for (int j = 0; j < kCellsAtOnce; ++j) {
        if (i + j * kPoolThreads < num_cells) slab.put(i + j * kPoolThreads, cells[j]);
      }
    }
  }

  // A block takes every `splits`-th RoI, since RoIs are often sorted by image.
  const int rows = shape.rows(), columns = shape.columns(), axes = rows + columns;
  const BinOfRound step(kPoolThreads, rows, columns);
  const int64_t splits = gridDim.y;
  const int share = static_cast<int>((shape.num_rois - blockIdx.y + splits - 1) / splits);
  const int64_t bin_step = shape.rois_last ? shape.outputs * shape.num_rois : 1;
  const int64_t output_step = shape.rois_last ? shape.num_rois : shape.bins();
  const int64_t roi_step = shape.rois_last ? 1 : shape.outputs * shape.bins();
  O* first_pooled = pooled + part.first_output * output_step + part.bin * bin_step;
  const auto roi_at = [&](int number) { return blockIdx.y + number * splits; };
  for (int from = 0; from < share; from += kPoolThreads) {
    // The RoIs of the image. Those without an image count as the first one's.
    bool hit = false;
    if (const int number = from + static_cast<int>(threadIdx.x); number < share) {
      hit = larger<int64_t>(image_of(rois + roi_at(number) * kRoiColumns, map.images()), 0) == part.image;
    }
    const int num_rois = list_hits(hit, listed, hits_of_warp);
    for (int begin = 0; begin < num_rois; begin += shape.rois_per_round) {
      const int num = smaller(shape.rois_per_round, num_rois - begin);
      for (int i = threadIdx.x; i < num * axes; i += kPoolThreads) {
        const int k = i % axes;
        const Number<S>* roi = rois + roi_at(from + listed[begin + i / axes]) * kRoiColumns;
        const bool vertical = k < rows;
        int bin = vertical ? k : k - rows;
        if (shape.position_sensitive) bin = vertical ? part.bin / shape.width : part.bin % shape.width;
        Entry entry = reduction.entry(roi, vertical, bin);
        if (image_of(roi, map.images()) < 0) Reduction::clear(entry);  // there is no such image: the bins are empty
        entries[i] = entry;
      }
      slab.may_have_nan = __syncthreads_or(nan);
      for (BinOfRound at(threadIdx.x, rows, columns); at.number < num; at.advance(step, rows, columns)) {
        const Entry& along_rows = entries[at.number * axes + at.row];
        const Entry& along_columns = entries[at.number * axes + rows + at.column];
        Reduced<S> reduced;
        if constexpr (kShared) {
          reduction(slab, along_rows, along_columns, reduced);
        } else {
          reduction(there, along_rows, along_columns, reduced);
        }
        const int bin = at.row * columns + at.column;
        const int64_t roi = roi_at(from + listed[begin + at.number]);
        O* target = first_pooled + roi * roi_step + bin * bin_step;
        int64_t place = (roi * shape.outputs + part.first_output) * shape.bins() + part.bin + bin;
#pragma unroll
        for (int k = 0; k < kGroup<S>; ++k, target += output_step, place += shape.bins()) {
          if (k >= part.count) continue;
          *target = from_number<O>(reduced.value[k]);
          if constexpr (Reduction::kPlaces) places.put(place, reduced.place[k]);
        }
      }
      __syncthreads();  // the next round overwrites the entries
    }
  }
}

// Launches the kernels. Neither the features nor the output are empty.
template <typename S, typename O, typename Reduction>
void pool(const Device& device, const Tensor& features, const Number<S>* rois, const Reduction& reduction,
          PoolShape shape, O* pooled, Places places) {
  const View<S> map(features);
  STD_TORCH_CHECK(shape.num_rois <= std::numeric_limits<int32_t>::max(), "too many RoIs: ", shape.num_rois);
  const int64_t entry_bytes =
      (shape.rows() + shape.columns()) * static_cast<int64_t>(sizeof(typename Reduction::Entry));
  const int64_t bins_per_roi = static_cast<int64_t>(shape.rows()) * shape.columns();
  const int64_t fit = larger<int64_t>(1, kEntryBytes / entry_bytes);
  // The threads go through the bins in whole turns.
  const int64_t turns = fit * bins_per_roi / kPoolThreads;
  shape.rois_per_round = static_cast<int>(turns == 0 ? fit : larger<int64_t>(1, turns * kPoolThreads / bins_per_roi));
  const int64_t entries = shape.rois_per_round * entry_bytes;
  const int64_t slab = map.cells() * static_cast<int64_t>(sizeof(Cell<S>));
  const int64_t most = device.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - kListBytes;
  STD_TORCH_CHECK(entries <= most, "expected at most ", most / sizeof(typename Reduction::Entry),
                  " bins along both axes together, got ", shape.height, " and ", shape.width);
  // The slab is read once, in long runs. Each bin reads about ten cells, in short runs.
  const int64_t bins_of_block = shape.num_rois * bins_per_roi;
  const bool shared = bins_of_block * 32 >= map.cells() && slab + entries <= most;
  const int64_t bytes = entries + (shared ? slab : 0);
  const int64_t blocks =
      map.images() * blocks_for(shape.outputs, kGroup<S>) * (shape.position_sensitive ? shape.bins() : 1);
  // The number of RoI shares that fills the GPU with one wave of blocks.
  const int64_t per_processor = larger<int64_t>(
      1, smaller<int64_t>(2, device.attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (bytes + 2048)));
  const int64_t wave = device.attribute(cudaDevAttrMultiProcessorCount) * per_processor;
  const int64_t splits = smaller<int64_t>(larger<int64_t>(1, wave / blocks), smaller<int64_t>(shape.num_rois, 65535));
  const auto kernel = shared ? &pool_bins<S, O, Reduction, true> : &pool_bins<S, O, Reduction, false>;
  std::optional<Tensor> laid_out;
  // That writes the map too, so it needs more bins.
  if (!shared && bins_of_block * 8 >= map.cells() && (shape.position_sensitive || map.stride[1] != 1)) {
    laid_out = new_output(features, {blocks, map.cells(), kGroup<S>}, features.scalar_type());
    const int64_t shares = smaller<int64_t>(blocks_for(map.cells(), kPoolThreads), 64);
    device.launch(&lay_out<S>, grid_of(blocks, shares), kPoolThreads, 0, map, shape, output<Cell<S>>(*laid_out));
  }
  device.launch(kernel, grid_of(blocks, splits), kPoolThreads, bytes, map,
                laid_out ? input<Cell<S>>(*laid_out) : nullptr, rois, reduction, shape, pooled, places);
}

}  // namespace fast_rfcn
