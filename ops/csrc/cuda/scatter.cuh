// The backward pass of maxima: gradients are added at the cells of the maxima. A block owns a plane (one channel of one
// image). Each of its warps has its own copy of the plane, in shared memory. If no copy fits, it has one warp.
// Each warp lists the RoIs of the image, takes its part of the list, and processes their gradients in order, 32 at a
// time. Of the lanes with the same target cell, the first adds for all of them. At the end the copies are added in
// order. So the order of the sums is fixed, without atomics, and every run gives the same bits.
#pragma once

#include "tensors.cuh"

namespace fast_rfcn {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kScatterWarps = 4;  // at most
constexpr int kListedRois = 256;  // RoIs that a warp examines for its list; a position in them is one byte
constexpr int kShuffles = 4;      // shuffles between two votes

// Adds each lane's value to its cell (-1 for none), in the order of the lanes.
template <typename T>
__device__ __forceinline__ void add_in_order(T* plane, int cell, T value) {
  const unsigned lane = threadIdx.x % 32, before = (1u << lane) - 1;
  const unsigned peers = __match_any_sync(kAllLanes, cell);
  const bool adds = cell >= 0 && (peers & before) == 0;
  unsigned others = adds ? peers & (peers - 1) : 0;
  T sum = value;
  if (adds) sum = plane[cell] + value;
  while (__any_sync(kAllLanes, others != 0)) {
#pragma unroll
    for (int i = 0; i < kShuffles; ++i) {
      const T other = __shfl_sync(kAllLanes, value, others != 0 ? __ffs(static_cast<int>(others)) - 1 : 0);
      if (others != 0) sum += other;
      others &= others - 1;
    }
  }
  if (adds) plane[cell] = sum;
  __syncwarp();
}

// A gradient, and the cells and weights that its output came from.
template <typename T, int kCorners>
struct Part {
  T value;
  int cell[kCorners];
  T weight[kCorners];
};

// `targets(roi, bin, index, cells, weights)` fills in the cells and weights that output `index` [R, C, bins] came from.
template <typename S, typename Targets>
__global__ void __launch_bounds__(32 * kScatterWarps)
    scatter_planes(const S* __restrict__ grad, const Number<S>* __restrict__ rois, const Targets targets,
                   int64_t num_rois, int64_t images, int64_t channels, int64_t cells, int bins, S* __restrict__ total,
                   Number<S>* scratch) {
  using T = Number<S>;
  constexpr int corners = Targets::kCorners;
  constexpr int batch = 8 / corners;  // loads that run at the same time
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ unsigned char listed[kScatterWarps][kListedRois];
  const int warps = static_cast<int>(blockDim.x) / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t number = blockIdx.x, image = number / channels, channel = number % channels;
  T* planes = scratch != nullptr ? scratch + number * cells : reinterpret_cast<T*>(memory);  // one for each warp
  T* plane = planes + warp * cells;
  for (int64_t i = lane; i < cells; i += 32) plane[i] = 0;

  for (int64_t begin = 0; begin < num_rois; begin += kListedRois) {
    const int count = static_cast<int>(smaller<int64_t>(kListedRois, num_rois - begin));
    int num = 0;
    for (int first = 0; first < count; first += 32) {
      const int i = first + lane;
      const bool hit = i < count && image_of(rois + (begin + i) * kRoiColumns, images) == image;
      const unsigned hits = __ballot_sync(kAllLanes, hit);
      if (hit) listed[warp][num + __popc(hits & ((1u << lane) - 1))] = static_cast<unsigned char>(i);
      num += __popc(hits);
    }
    __syncwarp();
    // Each lane goes through (listed RoI, bin) in steps of 32 bins. It reads a batch before it adds the one before.
    const int first = num * warp / warps, end = num * (warp + 1) / warps;  // of the list
    int at = first + lane / bins, bin = lane % bins;
    const auto read = [&](Part<T, corners>(&parts)[batch]) {
#pragma unroll
      for (int u = 0; u < batch; ++u) {
        parts[u].value = 0;
#pragma unroll
        for (int c = 0; c < corners; ++c) parts[u].cell[c] = -1, parts[u].weight[c] = 1;
        if (at < end) {
          const int64_t roi = begin + listed[warp][at], index = (roi * channels + channel) * bins + bin;
          targets(rois + roi * kRoiColumns, bin, index, parts[u].cell, parts[u].weight);
          parts[u].value = to_number(grad[index]);
        }
        at += 32 / bins, bin += 32 % bins;
        if (bin >= bins) ++at, bin -= bins;
      }
    };
    Part<T, corners> next[batch];
    read(next);
    for (int64_t left = static_cast<int64_t>(end - first) * bins; left > 0; left -= 32 * batch) {
      Part<T, corners> parts[batch];
#pragma unroll
      for (int u = 0; u < batch; ++u) parts[u] = next[u];
      read(next);
#pragma unroll
      for (int u = 0; u < batch; ++u) {
#pragma unroll
        for (int c = 0; c < corners; ++c) add_in_order(plane, parts[u].cell[c], parts[u].value * parts[u].weight[c]);
      }
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < cells; i += 32 * warps) {
    T sum = planes[i];
    for (int other = 1; other < warps; ++other) sum += planes[other * cells + i];
    total[number * cells + i] = from_number<S>(sum);
  }
}

// Launches scatter_planes for a dense gradient [R, C, bins] and a total [N, C, cells] that is not empty.
template <typename S, typename Targets>
void scatter(const Device& device, const Tensor& grad, const Tensor& rois, const Targets& targets,
             const std::vector<int64_t>& size, int64_t bins, Tensor& total) {
  using T = Number<S>;
  const int64_t cells = size[2] * size[3], bytes = cells * static_cast<int64_t>(sizeof(T));
  const int64_t lists = kScatterWarps * kListedRois;
  const int64_t fit = (device.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) - lists) / bytes;
  // As many copies as the GPU can hold for all planes at the same time. It reserves 1 KiB for each block.
  const int64_t planes = size[0] * size[1], processors = device.attribute(cudaDevAttrMultiProcessorCount);
  const int64_t of_processor = device.attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  int64_t warps = larger<int64_t>(1, smaller<int64_t>(fit, kScatterWarps));
  while (warps > 1 && of_processor / (warps * bytes + lists + 1024) * processors < planes) --warps;
  std::optional<Tensor> scratch;
  if (fit == 0) scratch = new_output(grad, size, number_dtype(grad.scalar_type()));
  device.launch(&scatter_planes<S, Targets>, grid_of(planes), dim3(static_cast<unsigned>(32 * warps)),
                fit == 0 ? 0 : warps * bytes, input<S>(grad), input<T>(rois), targets, rois.size(0), size[0], size[1],
                cells, static_cast<int>(bins), output<S>(total), scratch ? output<T>(*scratch) : nullptr);
}

}  // namespace fast_rfcn
