"""Ways to break the kernels, and what the emulator is to say of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WRONG = r"values differ"


@dataclass(frozen=True, slots=True)
class Breakage:
    """A text of a file that is replaced where it stands first."""

    name: str
    file: str
    old: str
    new: str
    source: str  # that is compiled
    group: str  # of cases that are run
    says: str  # a pattern

    def apply(self, texts: Mapping[str, str]) -> dict[str, str]:
        """The sources with this fault, with one operator file and one storage type: enough, and quick to compile."""
        kept = {name: text for name, text in texts.items() if not name.endswith(".cu") or name == self.source}
        assert self.old in kept[self.file], f"{self.name}: {self.file} has changed; break it anew"
        kept[self.file] = kept[self.file].replace(self.old, self.new, 1)
        for storage in ("double{}", "__half{}", "__nv_bfloat16{}"):
            kept["cuda/tensors.cuh"] = kept["cuda/tensors.cuh"].replace(f"return f({storage});", "return f(float{});")
        return kept


POOL, SCATTER, SPREAD, NMS = "cuda/pool.cuh", "cuda/scatter.cuh", "cuda/mean_backward.cuh", "cuda/nms.cu"
ROI_POOL, ROI_ALIGN = ("cuda/roi_pool.cu", "roi_pool"), ("cuda/roi_align.cu", "roi_align")
SUPPRESSION = (NMS, "nms")
UNREADY = r"nobody wrote|races"
OUTSIDE = r"beyond a shared array|outside of every tensor|end of a tensor|was given|misaligned"

BREAKAGES = (
    Breakage(
        "no barrier after the slab is laid out",
        POOL,
        "    __syncthreads();\n    for (int i = threadIdx.x; i < num * rows",
        "    for (int i = threadIdx.x; i < num * rows",
        *ROI_POOL,
        UNREADY,
    ),
    Breakage(
        "no barrier before the next round's entries",
        POOL,
        "    __syncthreads();\n    for (int i = threadIdx.x; i < num * axes",
        "    for (int i = threadIdx.x; i < num * axes",
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
        "rows and columns exchanged",
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
        "channels that are not there are read",
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
        "places of 16 bits on a map that needs more",
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
    Breakage("lanes do not wait for their turn", SCATTER, "    __syncwarp();\n  }\n}", "  }\n}", *ROI_POOL, "races"),
    Breakage(
        "no warp barrier after a plane is cleared",
        SCATTER,
        "plane[i] = 0;\n  __syncwarp();",
        "plane[i] = 0;",
        *ROI_POOL,
        "races",
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
        "while (__any_sync(kAllLanes, roi < num_rois))",
        "while (roi < num_rois)",
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
        "sums in any order",
        SCATTER,
        "    if (turn == round) plane[cell] += value;\n    __syncwarp();",
        "    if (turn == round) atomicAdd(plane + cell, value);",
        *ROI_POOL,
        "races|other bits",
    ),
    Breakage(
        "another thread lists",
        SPREAD,
        "if (threadIdx.x == 0) listed_by",
        "if (threadIdx.x == 1 && hits) listed_by",
        *ROI_ALIGN,
        "nobody wrote",
    ),
    Breakage(
        "a barrier that some do not reach",
        SPREAD,
        "    for (int i = 0; i < num && inside; ++i) {",
        "    if (inside) __syncthreads();\n    for (int i = 0; i < num && inside; ++i) {",
        *ROI_ALIGN,
        "different barriers|wait for ever",
    ),
    Breakage(
        "the list is read while it is written",
        SPREAD,
        "if (hit) listed[before] = thread;\n    __syncthreads();",
        "if (hit) listed[before] = thread;",
        *ROI_ALIGN,
        UNREADY,
    ),
    Breakage(
        "tiles reach over the border",
        SPREAD,
        "if (!inside) return;",
        "",
        *ROI_ALIGN,
        f"races|{OUTSIDE}",
    ),
    Breakage(
        "bins are read before they are tabulated",
        SPREAD,
        "  __syncthreads();\n  if (threadIdx.x < 2) {",
        "  if (threadIdx.x < 2) {",
        *ROI_ALIGN,
        UNREADY,
    ),
    Breakage(
        "a sum of halves without a barrier",
        "cuda/roi_align.cu",
        "    }\n    __syncthreads();\n  }\n  if (threadIdx.x < kRoiColumns)",
        "    }\n  }\n  if (threadIdx.x < kRoiColumns)",
        "cuda/roi_align.cu",
        "roi_warp",
        "races",
    ),
    Breakage(
        "a vote over another RoI's bins",
        "cuda/ps_roi_pool.cu",
        "sum += pooled[i * bins + bin]",
        "sum += pooled[i * bins + bin + 1]",
        "cuda/ps_roi_pool.cu",
        "position_sensitive",
        f"{WRONG}|{OUTSIDE}",
    ),
    Breakage(
        "threads beyond the last box",
        NMS,
        "  if (i >= num) return;\n",
        "",
        *SUPPRESSION,
        OUTSIDE,
    ),
    Breakage(
        "a plain write in the place of an atomic one",
        NMS,
        "atomicOr(dropped + (target - first_word), bits)",
        "dropped[target - first_word] |= bits",
        *SUPPRESSION,
        "races",
    ),
    Breakage(
        "no barrier between the words",
        NMS,
        "atomicOr(dropped + (target - first_word), bits);\n    }\n    __syncthreads();",
        "atomicOr(dropped + (target - first_word), bits);\n    }",
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
        "boxes that nobody clears",
        NMS,
        "if (i % kWordBits == 0) progress.dropped[i / kWordBits] = 0;",
        "if (i % kWordBits == 0 && i > 0) progress.dropped[i / kWordBits] = 0;",
        *SUPPRESSION,
        "nobody wrote",
    ),
)
