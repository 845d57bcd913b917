"""Ways to break the kernels, and the emulator's expected message for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from build import with_one_dtype

WRONG = r"values differ"


@dataclass(frozen=True, slots=True)
class Breakage:
    """A change of a kernel: a text that occurs once in a file is replaced. White space in the text does not count."""

    name: str
    file: str
    old: str
    new: str
    source: str  # the operator file that is compiled
    group: str  # the cases that run
    message: str  # a pattern of the emulator's message
    dtype: str = "float32"  # of the features

    def apply(self, texts: Mapping[str, str]) -> dict[str, str]:
        """Return the sources with this fault, with one operator file and one storage type, which compile fast."""
        kept = {name: text for name, text in texts.items() if not name.endswith(".cu") or name == self.source}
        found = list(pattern(self.old).finditer(kept[self.file]))
        assert len(found) == 1, f"{self.name}: {self.file} has this text {len(found)} times; adapt this breakage"
        start, end = found[0].span()
        kept[self.file] = f"{kept[self.file][:start]}{self.new}{kept[self.file][end:]}"
        return with_one_dtype(kept, {"float32": "float", "float16": "__half"}[self.dtype])


def pattern(code: str) -> re.Pattern[str]:
    """Return a pattern of a piece of code: its names, numbers and signs in order, with any white space between them."""
    return re.compile(r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", code))))


POOL, SCATTER, SPREAD, NMS = "cuda/pool.cuh", "cuda/scatter.cuh", "cuda/mean_backward.cuh", "cuda/nms.cu"
ROI_POOL, ROI_ALIGN = ("cuda/roi_pool.cu", "roi_pool"), ("cuda/roi_align.cu", "roi_align")
SUPPRESSION = (NMS, "nms")
DEFORM = "cuda/deform_ps_roi_pool.cu"
DEFORMABLE = (DEFORM, "deformable")
UNREADY = r"nobody wrote|races"
OUTSIDE = r"beyond a shared array|outside of every tensor|end of a tensor|was given|misaligned"

BREAKAGES = (
    Breakage(
        "no barrier after the slab is laid out",
        POOL,
        "__syncthreads(); for (int i = threadIdx.x; i < num * rows",
        "for (int i = threadIdx.x; i < num * rows",
        *ROI_POOL,
        UNREADY,
    ),
    Breakage(
        "no barrier before the next round's entries",
        POOL,
        "__syncthreads(); for (int i = threadIdx.x; i < num * axes",
        "for (int i = threadIdx.x; i < num * axes",
        *ROI_POOL,
        "races",
    ),
    Breakage(
        "too little shared memory",
        POOL,
        "const int64_t bytes = entries + (shared ? slab : 0);",
        "const int64_t bytes = entries / 2 + (shared ? slab : 0);",
        *ROI_POOL,
        "beyond a shared array",
    ),
    Breakage(
        "rows and columns swapped",
        POOL,
        "there.at(i / map_width, i % map_width)",
        "there.at(i % map_width, i / map_width)",
        *ROI_POOL,
        f"{WRONG}|{OUTSIDE}",
    ),
    Breakage(
        "channels beyond the last group",
        POOL,
        "if (k >= count) continue;",
        "",
        *ROI_POOL,
        f"races|{OUTSIDE}",
    ),
    Breakage(
        "one RoI too many",
        POOL,
        "share = (shape.num_rois - blockIdx.y + splits - 1) / splits",
        "share = (shape.num_rois - blockIdx.y + splits) / splits",
        *ROI_POOL,
        f"races|{OUTSIDE}",
    ),
    Breakage(
        "missing channels are read",
        "cuda/planes.cuh",
        "source[smaller(k, count - 1) * channel_stride]",
        "source[k * channel_stride]",
        *ROI_POOL,
        OUTSIDE,
    ),
    Breakage(
        "vectors without alignment",
        "cuda/planes.cuh",
        "column_stride % per_word == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0",
        "column_stride % per_word == 0",
        *ROI_POOL,
        "misaligned",
    ),
    Breakage(
        "16-bit positions on a map that needs more",
        "cuda/tensors.cuh",
        "{ return cells >= 65535; }",
        "{ return cells >= 70000; }",
        *ROI_POOL,
        WRONG + r"|in the place of",
    ),
    Breakage(
        "more shared memory than asked for",
        "cuda/tensors.cuh",
        "if (shared_bytes > 32 * 1024)",
        "if (shared_bytes > 128 * 1024)",
        *ROI_POOL,
        "more shared memory than it asked for",
    ),
    Breakage(
        "lanes do not wait for their turn",
        SCATTER,
        "if (adds) plane[cell] = sum; __syncwarp();",
        "if (adds) plane[cell] = sum;",
        *ROI_POOL,
        "races",
    ),
    Breakage(
        "no warp barrier after the RoIs are listed",
        SCATTER,
        "num += __popc(hits); } __syncwarp();",
        "num += __popc(hits); }",
        *ROI_POOL,
        UNREADY,
    ),
    Breakage(
        "a cell is not cleared",
        SCATTER,
        "for (int64_t i = lane; i < cells; i += 32) plane[i] = 0;",
        "for (int64_t i = lane; i + 1 < cells; i += 32) plane[i] = 0;",
        *ROI_POOL,
        "nobody wrote",
    ),
    Breakage(
        "lanes leave before the others",
        SCATTER,
        "while (__any_sync(kAllLanes, others != 0))",
        "while (others != 0)",
        *ROI_POOL,
        "wait for ever|different collectives",
    ),
    Breakage(
        "warps share a plane",
        SCATTER,
        "reinterpret_cast<T*>(memory) + warp * cells",
        "reinterpret_cast<T*>(memory) + warp / 2 * cells",
        *ROI_POOL,
        "races",
    ),
    Breakage(
        "the last lane is left out",
        SCATTER,
        "unsigned others = adds ? peers & (peers - 1) : 0;",
        "unsigned others = adds ? peers & (peers - 1) & 0x7fffffffu : 0;",
        *ROI_POOL,
        WRONG,
    ),
    Breakage(
        "the RoIs of all images are listed",
        SCATTER,
        "const bool hit = i < count && image_of(rois + (begin + i) * kRoiColumns, images) == image;",
        "const bool hit = i < count;",
        *ROI_POOL,
        WRONG,
    ),
    Breakage(
        "sums in any order",
        SCATTER,
        "if (adds) plane[cell] = sum; __syncwarp();",
        "if (cell >= 0) atomicAdd(plane + cell, value);",
        *ROI_POOL,
        "races|other bits",
    ),
    Breakage(
        "the wrong thread writes the list",
        SPREAD,
        "if (lane == 0) listed_by",
        "if (lane == 1 && hits) listed_by",
        *ROI_ALIGN,
        "nobody wrote",
    ),
    Breakage(
        "a barrier that some do not reach",
        SPREAD,
        "for (; rest != 0; rest &= rest - 1) {",
        "if (left + lane < tables.width) __syncthreads(); for (; rest != 0; rest &= rest - 1) {",
        *ROI_ALIGN,
        "different barriers|wait for ever",
    ),
    Breakage(
        "the list is read while it is written",
        SPREAD,
        "if (hit) listed[before] = thread; __syncthreads();",
        "if (hit) listed[before] = thread;",
        *ROI_ALIGN,
        UNREADY,
    ),
    Breakage(
        "tiles reach over the border",
        SPREAD,
        "if (x >= tables.width || y >= tables.height) return;",
        "",
        *ROI_ALIGN,
        f"races|{OUTSIDE}",
    ),
    Breakage(
        "bins are read before they are tabulated",
        SPREAD,
        "__syncthreads(); for (int i = threadIdx.x; i <= tables.tiles_down();",
        "for (int i = threadIdx.x; i <= tables.tiles_down();",
        *ROI_ALIGN,
        UNREADY,
    ),
    Breakage(
        "a sum of halves without a barrier",
        "cuda/roi_align.cu",
        "} __syncthreads(); } if (threadIdx.x < kRoiColumns)",
        "} } if (threadIdx.x < kRoiColumns)",
        "cuda/roi_align.cu",
        "roi_warp",
        "races",
    ),
    Breakage(
        "a vote over the bins of another RoI",
        "cuda/ps_roi_pool.cu",
        "sum += pooled[bin * items + i]",
        "sum += pooled[bin * items + i + 1]",
        "cuda/ps_roi_pool.cu",
        "position_sensitive",
        f"{WRONG}|{OUTSIDE}",
    ),
    Breakage(
        "threads beyond the last box",
        NMS,
        "if (i >= num) return;",
        "",
        *SUPPRESSION,
        OUTSIDE,
    ),
    Breakage(
        "a plain write in place of an atomic one",
        NMS,
        "if (low != 0) atomicOr(halves, low);",
        "if (low != 0) *halves |= low;",
        *SUPPRESSION,
        "races",
    ),
    Breakage(
        "no barrier between the words",
        NMS,
        "num_kept += __popcll(last); __syncthreads();",
        "num_kept += __popcll(last);",
        *SUPPRESSION,
        "races",
    ),
    Breakage(
        "a bit beyond the word",
        NMS,
        "for (int i = word == row_word ? threadIdx.x + 1 : 0; i < count; ++i)",
        "for (int i = word == row_word ? threadIdx.x + 1 : 0; i <= count; ++i)",
        *SUPPRESSION,
        "shift|beyond its array|nobody wrote",
    ),
    Breakage(
        "a loop that does not end",
        NMS,
        "if (next == stays) return stays;",
        "if (next == stays && stays == 0) return stays;",
        *SUPPRESSION,
        "does not end",
    ),
    Breakage(
        "boxes that are never cleared",
        NMS,
        "if (i % kWordBits == 0) progress.dropped[i / kWordBits] = 0;",
        "if (i % kWordBits == 0 && i > 0) progress.dropped[i / kWordBits] = 0;",
        *SUPPRESSION,
        "nobody wrote",
    ),
    Breakage(
        "two words share one place",
        NMS,
        "if (lane == 0) settled[word % 2] = stays;",
        "if (lane == 0) settled[0] = settled[1] = stays;",
        *SUPPRESSION,
        "races",
    ),
    Breakage(
        "the suppressions of the next word are lost",
        NMS,
        "rows = next;",
        "rows = next, by_last = 0;",
        *SUPPRESSION,
        f"{WRONG}|in the place of",
    ),
    Breakage(
        "some lanes skip a shuffle",
        NMS,
        "const Word next = candidates & ~any_of_lanes(mine);",
        "const Word next = mine == 0 ? candidates : candidates & ~any_of_lanes(mine);",
        *SUPPRESSION,
        "wait for ever|different collectives|different barriers",
    ),
    Breakage(
        "a loop over the grid goes one step too far",
        "cuda/roi_pool.cu",
        "threadIdx.x; i < items;",
        "threadIdx.x; i <= items;",
        *ROI_POOL,
        OUTSIDE,
    ),
    Breakage(
        "every RoI reads the first image",
        POOL,
        "there(map, image, first_output",
        "there(map, 0, first_output",
        *ROI_POOL,
        WRONG,
    ),
    Breakage(
        "RoIs that reach into a tile by one cell are left out",
        SPREAD,
        "return span.first < end && span.end > first;",
        "return span.first < end && span.end > first + 1;",
        *ROI_ALIGN,
        WRONG,
    ),
    Breakage(
        "threads without work do not write their part of a sum",
        "cuda/roi_align.cu",
        "sums[0][threadIdx.x] = x1,",
        "if (threadIdx.x < items) sums[0][threadIdx.x] = x1,",
        "cuda/roi_align.cu",
        "roi_warp",
        "nobody wrote",
    ),
    Breakage(
        "a gradient of no RoIs is not cleared",
        "cuda/roi_pool.cu",
        "if (total.numel() == 0 || grad.numel() == 0) { device.fill(total, 0);",
        "if (total.numel() == 0 || grad.numel() == 0) {",
        *ROI_POOL,
        "never written",
    ),
    Breakage(
        "sums in the dtype of the features",
        "cuda/reduce.cuh",
        "reduced.value[k] += to_number(cell.channel[k]);",
        "reduced.value[k] = to_number(from_number<S>(reduced.value[k] + to_number(cell.channel[k])));",
        "cuda/ps_roi_pool.cu",
        "position_sensitive",
        WRONG,
        "float16",
    ),
    Breakage(
        "the second half of a cell overlaps the first half of its neighbour",
        "cuda/planes.cuh",
        "words[i * num_cells + index] = copy.words[i];",
        "words[i + index] = copy.words[i];",
        *ROI_POOL,
        "races|nobody wrote",
    ),
    Breakage(
        "a launch on the default stream",
        "cuda/tensors.cuh",
        "kernel<<<grid, block, shared_bytes, stream_>>>(arguments...);",
        "kernel<<<grid, block, shared_bytes>>>(arguments...);",
        *SUPPRESSION,
        "not launched on the current stream",
    ),
    Breakage(
        "a launch without a device",
        "cuda/tensors.cuh",
        "check(cudaSetDevice(index_));",
        "",
        *SUPPRESSION,
        "before cudaSetDevice",
    ),
    Breakage(
        "the error of a launch is ignored",
        "cuda/tensors.cuh",
        "check(cudaGetLastError());",
        "",
        *SUPPRESSION,
        "nobody asked for the error",
    ),
    Breakage(
        "the host does not wait for the number of boxes",
        NMS,
        "check(cudaStreamSynchronize(device.stream()));",
        "",
        *SUPPRESSION,
        "the host did not wait for a copy",
    ),
    Breakage(
        "a block beyond its launch bounds",
        NMS,
        "__launch_bounds__(kSettleThreads) settle_rows",
        "__launch_bounds__(kSettleThreads / 2) settle_rows",
        *SUPPRESSION,
        "beyond the launch bounds",
    ),
    Breakage(
        "a shift of 32 bits by more",
        NMS,
        "__popcll(stays & ((Word{1} << number) - 1))",
        "__popcll(stays & ((1 << number) - 1))",
        *SUPPRESSION,
        "shift",
    ),
    Breakage(
        "rows beyond the last box are read ahead",
        NMS,
        "const Word candidates = all & ~dropped[word - first_word];",
        "const Word candidates = ~dropped[word - first_word];",
        *SUPPRESSION,
        f"nobody wrote|{OUTSIDE}|{WRONG}",
    ),
    Breakage(
        "rows are read ahead of the boxes that may still be dropped",
        NMS,
        "ahead_column = 2 + number % kDropColumns;",
        "ahead_column = 1 + number % kDropColumns;",
        *SUPPRESSION,
        "races",
    ),
    Breakage(
        "words beyond those that are read ahead keep their boxes",
        NMS,
        "drop(word - 1, last, word + 1 + kDropColumns, number, kDropThreads, ahead);",
        "",
        *SUPPRESSION,
        f"{WRONG}|in the place of",
    ),
    Breakage(
        "more boxes than wanted",
        NMS,
        "if (place < progress.limit) kept[place]",
        "kept[place]",
        *SUPPRESSION,
        OUTSIDE,
    ),
    Breakage(
        "two blocks where one is expected",
        NMS,
        "device.launch(&settle_rows, grid_of(1), kSettleThreads",
        "device.launch(&settle_rows, grid_of(2), kSettleThreads",
        *SUPPRESSION,
        "of another block|by another block",
    ),
    Breakage(
        "half of the lanes vote",
        SCATTER,
        "while (__any_sync(kAllLanes, others != 0))",
        "while (__any_sync(0xffffu, others != 0))",
        *ROI_POOL,
        "a lane calls a collective that it is not named in",
    ),
    Breakage(
        "the last bins of a RoI are skipped",
        SCATTER,
        "if (bin >= bins) ++at, bin -= bins;",
        "if (bin > bins) ++at, bin -= bins;",
        *ROI_POOL,
        f"{WRONG}|{OUTSIDE}|races",
    ),
    Breakage(
        "a sum without a first value",
        SPREAD,
        "T sum[group] = {};",
        "T sum[group];",
        *ROI_ALIGN,
        WRONG,
    ),
    Breakage(
        "a warp reads the counts of others too early",
        SPREAD,
        "if (lane == 0) listed_by[warp] = __popc(hits); __syncthreads();",
        "if (lane == 0) listed_by[warp] = __popc(hits);",
        *ROI_ALIGN,
        UNREADY,
    ),
    Breakage(
        "columns of bins are read before they are summed",
        SPREAD,
        "columns_of[lane][warp] = static_cast<unsigned char>(weighs); __syncthreads();",
        "columns_of[lane][warp] = static_cast<unsigned char>(weighs);",
        *ROI_ALIGN,
        UNREADY,
    ),
    Breakage(
        "columns of bins are overwritten while they are read",
        SPREAD,
        "sum[k] += weight * cell.channel[k]; } __syncthreads();",
        "sum[k] += weight * cell.channel[k]; }",
        *ROI_ALIGN,
        "races",
    ),
    Breakage(
        "only the last row of cells of a bin gets its gradient",
        SPREAD,
        "rows_covered |= 1u << y;",
        "rows_covered = 1u << y;",
        *ROI_ALIGN,
        WRONG,
    ),
    Breakage(
        "a channels-last map is read as if it were contiguous",
        "cuda/planes.cuh",
        "row_stride(map.stride[2]), column_stride(map.stride[3])",
        "row_stride(map.width()), column_stride(1)",
        *ROI_POOL,
        f"{WRONG}|{OUTSIDE}",
    ),
    Breakage(
        "an offset of 32 bits",
        "cuda/planes.cuh",
        "data(map.data + image * map.stride[0] + first_channel * map.stride[1])",
        "data(map.data + static_cast<int>(image * map.stride[0] + first_channel * map.stride[1]))",
        *ROI_POOL,
        OUTSIDE,
        "float16",
    ),
    Breakage(
        "the last of equal maxima",
        "cuda/reduce.cuh",
        "return !(value <= best) && best == best;",
        "return !(value < best) && best == best;",
        *ROI_POOL,
        WRONG,
    ),
    Breakage(
        "sliced RoIs are read as if they were dense",
        "cuda/ps_roi_pool.cu",
        "pool_and_vote<CellMean>(device, score_maps, dense(rois_in),",
        "pool_and_vote<CellMean>(device, score_maps, rois_in,",
        "cuda/ps_roi_pool.cu",
        "position_sensitive",
        f"{WRONG}|{OUTSIDE}",
    ),
    Breakage(
        "a vote without the last bin",
        "cuda/ps_roi_pool.cu",
        "for (int64_t bin = 0; bin < bins; ++bin) sum",
        "for (int64_t bin = 0; bin + 1 < bins; ++bin) sum",
        "cuda/ps_roi_pool.cu",
        "position_sensitive",
        WRONG,
    ),
    Breakage(
        "no barrier after the RoIs of a moved bin are listed",
        DEFORM,
        "if (hit) hits[before] = mine;\n    __syncthreads();",
        "if (hit) hits[before] = mine;",
        *DEFORMABLE,
        UNREADY,
    ),
    Breakage(
        "samples off the map count",
        DEFORM,
        "given / static_cast<T>(down * across)",
        "given / static_cast<T>(bins.samples * bins.samples)",
        *DEFORMABLE,
        WRONG,
    ),
)
