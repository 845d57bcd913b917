// Scores in falling order on CUDA, in two kernels: sort_tiles sorts tiles of scores, and with place_of the next kernel
// finds the place of each score among all tiles. A general sort takes a kernel for each digit of its keys, and for some
// thousand scores the launches take longer than the work.
#pragma once

#include "tensors.cuh"

namespace fast_rfcn {

using Key = unsigned long long;

constexpr int kTile = 256;
constexpr int kSearchers = 8;  // threads that find the place of one key

// Falls with the score: a NaN has the largest key, and -0 has that of 0.
__device__ __forceinline__ Key key_of(double score) {
  constexpr Key sign = Key{1} << 63;
  if (!(score == score)) return ~Key{0};
  const Key bits = static_cast<Key>(__double_as_longlong(score == 0 ? 0.0 : score));
  return bits & sign ? ~bits : bits | sign;
}

// Equal keys stay in their order.
__device__ __forceinline__ bool precedes(Key other, Key mine, bool is_earlier) {
  return is_earlier ? other >= mine : other > mine;
}

// The keys, and the indices of their scores; each tile in falling order.
struct Tiles {
  Key* key;
  int* source;
  int64_t num;

  __host__ __device__ int64_t count() const { return (num + kTile - 1) / kTile; }
};

template <typename S>
__global__ void __launch_bounds__(kTile) sort_tiles(const S* __restrict__ scores, const Tiles tiles) {
  __shared__ Key keys[kTile];
  const int64_t first = blockIdx.x * static_cast<int64_t>(kTile);
  const int count = static_cast<int>(smaller<int64_t>(kTile, tiles.num - first)), i = static_cast<int>(threadIdx.x);
  if (i < count) keys[i] = key_of(to_number(scores[first + i]));
  __syncthreads();
  if (i >= count) return;
  const Key mine = keys[i];
  int place = 0;
  for (int other = 0; other < count; ++other) place += precedes(keys[other], mine, other < i);
  tiles.key[first + place] = mine;
  tiles.source[first + place] = static_cast<int>(first) + i;
}

// The place of an item of the tiles in the order of all scores. kSearchers neighbouring threads call this together.
__device__ __forceinline__ int place_of(const Tiles& tiles, int64_t item) {
  const Key mine = tiles.key[item];
  const int64_t own = item / kTile;
  int place = 0;
#pragma unroll 2
  for (int64_t tile = threadIdx.x % kSearchers; tile < tiles.count(); tile += kSearchers) {
    const Key* keys = tiles.key + tile * kTile;
    const int count = static_cast<int>(smaller<int64_t>(kTile, tiles.num - tile * kTile));
    int before = 0;
#pragma unroll
    for (int step = kTile; step > 0; step /= 2) {
      if (before + step <= count && precedes(__ldg(keys + before + step - 1), mine, tile < own)) before += step;
    }
    place += tile == own ? static_cast<int>(item % kTile) : before;
  }
#pragma unroll
  for (int distance = kSearchers / 2; distance > 0; distance /= 2) place += __shfl_xor_sync(~0u, place, distance);
  return place;
}

}  // namespace fast_rfcn
