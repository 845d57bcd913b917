// The backward pass of maxima: gradients are added at the cells of the maxima. A warp owns a plane (one channel of one
// image), in shared memory if it fits, and processes the RoIs' gradients in order, 32 at a time. Lanes with the same
// target cell take turns, so the order of the sums is fixed and equals the CPU's. There are no atomics, and every run
// gives the same bits.
#pragma once

#include "tensors.cuh"

namespace fast_rfcn {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kScatterWarps = 4;

// Adds each lane's value to its cell (-1 for none), in the order of the lanes.
template <typename T>
__device__ __forceinline__ void add_in_order(T* plane, int cell, T value) {
  const unsigned lane = threadIdx.x % 32, before = (1u << lane) - 1;
  const unsigned peers = __match_any_sync(kAllLanes, cell);
  const int turn = cell < 0 ? -1 : __popc(peers & before);
  for (int round = 0; __any_sync(kAllLanes, turn >= round); ++round) {
    if (turn == round) plane[cell] += value;
    __syncwarp();
  }
}

// `targets(roi, bin, index, cells, weights)` fills in the cells and weights that output `index` [R, C, bins] came from.
template <typename S, typename Targets>
__global__ void __launch_bounds__(32 * kScatterWarps)
    scatter_planes(const S* __restrict__ grad, const Number<S>* __restrict__ rois, const Targets targets,
                   int64_t num_rois, int64_t images, int64_t channels, int64_t cells, int64_t bins,
                   S* __restrict__ total, Number<S>* scratch) {
  using T = Number<S>;
  constexpr int corners = Targets::kCorners;
  constexpr int batch = 8 / corners;  // loads that run at the same time
  extern __shared__ __align__(16) unsigned char memory[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t number = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + warp;
  if (number >= images * channels) return;  // the whole warp returns; other warps do not wait for it
  const int64_t image = number / channels, channel = number % channels;
  T* plane = scratch != nullptr ? scratch + number * cells : reinterpret_cast<T*>(memory) + warp * cells;
  for (int64_t i = lane; i < cells; i += 32) plane[i] = 0;
  __syncwarp();

  // Each lane goes through (roi, bin) in steps of 32 bins.
  const int64_t step_rois = 32 / bins, step_bins = 32 % bins;
  int64_t roi = lane / bins, bin = lane % bins;
  while (__any_sync(kAllLanes, roi < num_rois)) {
    T value[batch];
    int cell[batch][corners];
    T weight[batch][corners];
#pragma unroll
    for (int u = 0; u < batch; ++u) {
      value[u] = 0;
#pragma unroll
      for (int c = 0; c < corners; ++c) cell[u][c] = -1, weight[u][c] = 1;
      if (roi < num_rois && image_of(rois + roi * kRoiColumns, images) == image) {
        const int64_t index = (roi * channels + channel) * bins + bin;
        targets(rois + roi * kRoiColumns, static_cast<int>(bin), index, cell[u], weight[u]);
        value[u] = to_number(grad[index]);
      }
      roi += step_rois, bin += step_bins;
      if (bin >= bins) ++roi, bin -= bins;
    }
#pragma unroll
    for (int u = 0; u < batch; ++u) {
#pragma unroll
      for (int c = 0; c < corners; ++c) add_in_order(plane, cell[u][c], value[u] * weight[u][c]);
    }
  }
  for (int64_t i = lane; i < cells; i += 32) total[number * cells + i] = from_number<S>(plane[i]);
}

// Launches scatter_planes for a dense gradient [R, C, bins] and a total [N, C, cells] that is not empty.
template <typename S, typename Targets>
void scatter(const Device& device, const Tensor& grad, const Tensor& rois, const Targets& targets,
             const std::vector<int64_t>& size, int64_t bins, Tensor& total) {
  using T = Number<S>;
  const int64_t planes = size[0] * size[1], cells = size[2] * size[3], bytes = cells * static_cast<int64_t>(sizeof(T));
  const int64_t fit = device.attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) / bytes;
  const int64_t warps = fit == 0 ? kScatterWarps : smaller<int64_t>(fit, kScatterWarps);
  std::optional<Tensor> scratch;
  if (fit == 0) scratch = new_output(grad, size, number_dtype(grad.scalar_type()));
  device.launch(&scatter_planes<S, Targets>, grid_of(blocks_for(planes, warps)),
                dim3(static_cast<unsigned>(32 * warps)), fit == 0 ? 0 : warps * bytes, input<S>(grad), input<T>(rois),
                targets, rois.size(0), size[0], size[1], cells, bins, output<S>(total),
                scratch ? output<T>(*scratch) : nullptr);
}

}  // namespace fast_rfcn
