// The forward pass of every RoI operator. A block owns one image and one group of channels (for position-sensitive
// operators: one bin and one group of classes). It copies that part of the map (a slab) to shared memory if that saves
// time, and reduces the bins of its share of the RoIs. If slabs do not fit there, another kernel first lays them out in
// global memory, so that the channels of a cell are neighbours. A thread reduces one bin for the whole group, so edges
// and weights are computed once for up to 8 channels. Every output is written once, by one thread.
#pragma once

#include "reduce.cuh"

namespace fast_rfcn {

constexpr int kPoolThreads = 512;
constexpr int kMostRois = 256;             // RoIs in one round of a block
constexpr int64_t kEntryBytes = 12 << 10;  // shared memory for the entries of one round

struct PoolShape {
  int height, width;        // bins
  bool position_sensitive;  // channel (d * height + i) * width + j serves bin (i, j) of output d
  int64_t num_rois, outputs;
  // Pooled is [height, width, outputs, num_rois], so that the threads of one bin write neighbouring numbers; else, and
  // for places, [num_rois, outputs, height, width].
  bool rois_last = false;
  int rois_per_round = 0;

  PoolShape(int height, int width, bool position_sensitive, int64_t num_rois, int64_t outputs)
      : height(height),
        width(width),
        position_sensitive(position_sensitive),
        num_rois(num_rois),
        outputs(outputs) {}

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
    const int64_t groups = (shape.outputs + group - 1) / group;
    int64_t block = blockIdx.x;
    first_output = block % groups * group;
    block /= groups;
    bin = shape.position_sensitive ? static_cast<int>(block % shape.bins()) : 0;
    image = shape.position_sensitive ? block / shape.bins() : block;
    count = static_cast<int>(smaller<int64_t>(group, shape.outputs - first_output));
  }
  template <typename S>
  __device__ GlobalPlanes<S> of(const View<S>& map, const PoolShape& shape) const {
    const int64_t channel_step = shape.position_sensitive ? shape.bins() : 1;
    return {map, image, first_output * channel_step + bin, channel_step, count};
  }
};

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
  __shared__ bool mine[kMostRois];

  const PoolPart part(shape, kGroup<S>);
  const GlobalPlanes<S> there = kShared || laid_out == nullptr
                                    ? part.of(map, shape)
                                    : GlobalPlanes<S>(laid_out + blockIdx.x * map.cells(), map.width());
  const int map_width = static_cast<int>(map.width()), num_cells = static_cast<int>(map.cells());
  const SharedPlanes<S> slab{reinterpret_cast<uint4*>(memory), num_cells, map_width};
  if constexpr (kShared) {
    for (int i = threadIdx.x; i < num_cells; i += kPoolThreads) slab.put(i, there.at(i / map_width, i % map_width));
  }

  // A block takes every `splits`-th RoI, since RoIs are often sorted by image.
  const int rows = shape.rows(), columns = shape.columns(), axes = rows + columns;
  const int64_t splits = gridDim.y, share = (shape.num_rois - blockIdx.y + splits - 1) / splits;
  for (int64_t begin = 0; begin < share; begin += shape.rois_per_round) {
    const int num = static_cast<int>(smaller<int64_t>(shape.rois_per_round, share - begin));
    __syncthreads();
    for (int i = threadIdx.x; i < num * axes; i += kPoolThreads) {
      const int number = i / axes, k = i % axes;
      const Number<S>* roi = rois + (blockIdx.y + (begin + number) * splits) * kRoiColumns;
      const int64_t its_image = image_of(roi, map.images());
      if (k == 0) mine[number] = its_image == part.image || (its_image < 0 && part.image == 0);
      const bool vertical = k < rows;
      int bin = vertical ? k : k - rows;
      if (shape.position_sensitive) bin = vertical ? part.bin / shape.width : part.bin % shape.width;
      Entry entry = reduction.entry(roi, vertical, bin);
      if (its_image < 0) Reduction::clear(entry);  // there is no such image, so the bins are empty
      entries[i] = entry;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < num * rows * columns; i += kPoolThreads) {
      const int number = i / (rows * columns), bin = i % (rows * columns);
      if (!mine[number]) continue;
      const Entry& along_rows = entries[number * axes + bin / columns];
      const Entry& along_columns = entries[number * axes + rows + bin % columns];
      Reduced<S> reduced;
      if constexpr (kShared) {
        reduction(slab, along_rows, along_columns, reduced);
      } else {
        reduction(there, along_rows, along_columns, reduced);
      }
      const int64_t roi = blockIdx.y + (begin + number) * splits;
      const int64_t bin_of_roi = part.bin + bin;
      const int64_t place = (roi * shape.outputs + part.first_output) * shape.bins() + bin_of_roi;
      const int64_t target =
          shape.rois_last ? (bin_of_roi * shape.outputs + part.first_output) * shape.num_rois + roi : place;
      const int64_t step = shape.rois_last ? shape.num_rois : shape.bins();
#pragma unroll
      for (int k = 0; k < kGroup<S>; ++k) {
        if (k >= part.count) continue;
        pooled[target + k * step] = from_number<O>(reduced.value[k]);
        if constexpr (Reduction::kPlaces) places.put(place + k * shape.bins(), reduced.place[k]);
      }
    }
  }
}

// Launches the kernels. Neither the features nor the output are empty.
template <typename S, typename O, typename Reduction>
void pool(const Device& device, const Tensor& features, const Number<S>* rois, const Reduction& reduction,
          PoolShape shape, O* pooled, Places places) {
  const View<S> map(features);
  const int64_t entry_bytes =
      (shape.rows() + shape.columns()) * static_cast<int64_t>(sizeof(typename Reduction::Entry));
  shape.rois_per_round = static_cast<int>(larger<int64_t>(1, smaller<int64_t>(kMostRois, kEntryBytes / entry_bytes)));
  const int64_t entries = shape.rois_per_round * entry_bytes;
  const int64_t slab = map.cells() * static_cast<int64_t>(sizeof(Cell<S>));
  const int64_t most = device.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - kMostRois;
  STD_TORCH_CHECK(entries <= most, "expected at most ", most / sizeof(typename Reduction::Entry),
                  " bins along both axes together, got ", shape.height, " and ", shape.width);
  // The slab is read once, in long runs. Each bin reads about ten cells, in short runs.
  const int64_t bins_of_block = shape.num_rois * shape.rows() * shape.columns();
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
