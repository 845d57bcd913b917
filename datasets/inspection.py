"""Collects all faults and oddities of a dataset as plain values, for `detector inspect`.

Faults stop a training before it starts. Oddities do not; they are listed with their count and their first cases.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from detector.datasets.faults import Fault
from detector.datasets.fingerprints import Fingerprint, fingerprints, near_pairs
from detector.datasets.folder import Folder
from detector.datasets.picture_check import PictureFacts, check_pictures
from detector.datasets.readable import is_rotated, picture_problem
from detector.datasets.sample import Annotation
from detector.datasets.tar_shards import File
from detector.ops.boxes import iou

CASES_SHOWN = 5  # number of cases shown for each oddity
DUPLICATE_IOU = 0.9  # two boxes of one class with at least this IoU are the same object, drawn twice
SMALL_CELLS = 2  # objects with a side below this many cells of the feature map have almost no features
ROWS = 500  # number of boxes compared with all others at a time
COVERED_IOU = 0.5  # an RPN hardly learns objects whose IoU with the best anchor is below this


@dataclass(frozen=True, slots=True)
class Oddity:
    """A possible mistake in a dataset."""

    kind: str  # description
    count: int
    cases: list[str]  # the first ones


@dataclass(slots=True)
class Inspection:
    """The result of the inspection of a folder."""

    root: str
    summary: list[str]  # how the folder was read, one line each
    faults: list[Fault]
    oddities: list[Oddity]
    images: dict[str, int]  # by split
    objects: dict[str, dict[str, int]]  # by class, then by split
    image_sizes: list[tuple[str, int]]  # "640x480", count; the most frequent first
    object_sizes: list[tuple[str, int]]  # percent of the picture's area, count
    aspects: list[tuple[str, int]]  # height / width, count
    examples: list[tuple[str, int]] = field(default_factory=list)  # split and index of pictures to draw
    unusable: set[File] = field(default_factory=set)  # pictures that are unreadable or of a wrong size
    contents: dict[File, str] = field(default_factory=dict)  # a hash of each readable picture's bytes

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "root": self.root,
            "told": self.summary,
            "faults": [{"image": fault.image_id, "message": fault.message} for fault in self.faults],
            "oddities": [{"kind": odd.kind, "count": odd.count, "first": odd.cases} for odd in self.oddities],
            "images": self.images,
            "objects": self.objects,
            "image_sizes": dict(self.image_sizes),
            "object_sizes": dict(self.object_sizes),
            "aspects": dict(self.aspects),
        }

    def text(self) -> str:
        """Return faults and oddities as lines for a terminal. The summary is logged when the folder is opened."""
        lines = [f"fault: {fault.message}" for fault in self.faults[:50]]
        lines += [f"... and {len(self.faults) - 50} more faults"] if len(self.faults) > 50 else []
        for odd in self.oddities:
            more = " ..." if odd.count > len(odd.cases) else ""
            lines.append(f"odd: {odd.kind}: {odd.count} ({'; '.join(odd.cases)}{more})")
        lines.append(f"{len(self.faults)} faults, {len(self.oddities)} oddities")
        return "\n".join(lines)


def inspect(
    folder: Folder, *, stride: int, short_side: int, max_side: int, anchors: Tensor, keep_checks: bool = False
) -> Inspection:
    """Check every picture and every box of an opened folder.

    `stride` is the stride of the planned feature map. `short_side` and `max_side` are the sides of the network's input.
    `anchors` [A, 4] are the base anchors of an RPN, in pixels of the input.
    """
    sides = {"train": folder.train, "test": folder.test}
    annotations = {name: side.annotations for name, side in sides.items()}
    files = {name: side.files for name, side in sides.items()}
    facts = {name: check_pictures(files[name]) for name in sides}
    faults = list(folder.faults)
    unusable: set[File] = set()
    for name in sides:
        for item, path, fact in zip(annotations[name], files[name], facts[name], strict=True):
            problem = picture_problem(item, path, fact)
            if problem:
                faults.append(Fault(item.image_id, problem))
                unusable.add(path)
    everything = [item for name in sides for item in annotations[name]]
    scales = [_scale(item, short_side, max_side) for item in everything]
    oddities = [_odd("odd class names", folder.odd), _odd("notes of the reader", folder.notes)]
    oddities += _of_pictures(annotations, facts)
    readable = [
        (name, item.image_id, path)
        for name in sides
        for item, path, fact in zip(annotations[name], files[name], facts[name], strict=True)
        if fact.problem is None
    ]
    prints = fingerprints([path for _, _, path in readable])
    oddities += _of_copies([(name, image_id) for name, image_id, _ in readable], prints)
    oddities += _of_boxes(everything, folder.train.classes, scales, stride, anchors)
    counts = {name: _count(items, len(folder.train.classes)) for name, items in annotations.items()}
    return Inspection(
        root=str(folder.root),
        summary=folder.summary,
        faults=faults,
        oddities=[odd for odd in oddities if odd.count],
        images={name: len(items) for name, items in annotations.items()},
        objects={
            label: {name: counts[name][number] for name in sides}
            for number, label in enumerate(folder.train.classes, start=1)
        },
        image_sizes=Counter(f"{item.width}x{item.height}" for item in everything).most_common(),
        object_sizes=_histogram([_share(item) for item in everything], SHARES, "{:g} to {:g} %"),
        aspects=_histogram([_aspect(item) for item in everything], ASPECTS, "{:g} to {:g}"),
        examples=_examples(annotations, facts),
        unusable=unusable,
        contents={path: item.content for (_, _, path), item in zip(readable, prints, strict=True)},
    )


SHARES = (0, 0.1, 0.5, 1, 2, 5, 10, 20, 50, 100.001)  # percent of a picture
ASPECTS = (0, 0.2, 1 / 3, 0.5, 0.75, 4 / 3, 2, 3, 5, float("inf"))


def _odd(kind: str, cases: Sequence[str]) -> Oddity:
    return Oddity(kind, len(cases), list(cases[:CASES_SHOWN]))


def _count(items: Sequence[Annotation], num_classes: int) -> list[int]:
    """Return the number of objects of each label, 0 to `num_classes`."""
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(item.labels for item in items)])
    counts: list[int] = labels.bincount(minlength=num_classes + 1).tolist()
    return counts


def _scale(item: Annotation, short_side: int, max_side: int) -> float:
    shorter, longer = sorted((item.width, item.height))
    return min(short_side / shorter, max_side / longer)


def _share(item: Annotation) -> Tensor:
    """Return the area of each box in percent of the picture."""
    sides = item.boxes[:, 2:] - item.boxes[:, :2]
    return 100 * sides.prod(1) / (item.width * item.height)


def _aspect(item: Annotation) -> Tensor:
    sides = item.boxes[:, 2:] - item.boxes[:, :2]
    return sides[:, 1] / sides[:, 0]


def _histogram(parts: Sequence[Tensor], edges: Sequence[float], name: str) -> list[tuple[str, int]]:
    values = torch.cat([torch.zeros(0), *parts])
    return [
        (name.format(round(low, 2), round(high, 2)), int(((values >= low) & (values < high)).sum()))
        for low, high in pairwise(edges)
    ]


def _of_pictures(annotations: dict[str, Sequence[Annotation]], facts: dict[str, list[PictureFacts]]) -> list[Oddity]:
    pairs = [pair for name in annotations for pair in zip(annotations[name], facts[name], strict=True)]
    return [
        _odd("pictures without objects", [item.image_id for item, _ in pairs if not len(item.boxes)]),
        _odd(
            "pictures rotated by EXIF, since their annotation fits only then",
            [item.image_id for item, fact in pairs if is_rotated(item, fact)],
        ),
        _odd(
            "pictures with an EXIF rotation that is ignored here, but not by viewers; do their boxes fit?",
            [item.image_id for item, fact in pairs if fact.orientation not in (0, 1) and not is_rotated(item, fact)],
        ),
        _odd(
            "pictures much wider or taller than others (1:3 and more)",
            [item.image_id for item, _ in pairs if max(item.width, item.height) >= 3 * min(item.width, item.height)],
        ),
    ]


def _of_copies(pictures: Sequence[tuple[str, str]], prints: Sequence[Fingerprint]) -> list[Oddity]:
    """Return the copies of pictures (split, id) within a split and between splits (leakage)."""
    first: dict[str, int] = {}
    exact = [(first[p.content], at) for at, p in enumerate(prints) if first.setdefault(p.content, at) != at]
    near = [
        pair for pair in near_pairs([p.thumbnail for p in prints]) if prints[pair[0]].content != prints[pair[1]].content
    ]
    found: dict[str, list[str]] = defaultdict(list)
    for kind, pairs in (("exact", exact), ("near", near)):
        for one, other in pairs:
            where = "within" if pictures[one][0] == pictures[other][0] else "across"
            found[f"{kind} {where}"].append(f"{' '.join(pictures[one])} = {' '.join(pictures[other])}")
    return [
        _odd("the same picture in train and test: scores on it mean nothing", found["exact across"]),
        _odd("nearly the same picture in train and test", found["near across"]),
        _odd("copies of a picture within a split", found["exact within"]),
        _odd("near copies of a picture within a split", found["near within"]),
    ]


def _of_boxes(
    items: Sequence[Annotation], classes: Sequence[str], scales: Sequence[float], stride: int, anchors: Tensor
) -> list[Oddity]:
    twice, small, uncovered, whole = [], [], [], []
    for item, scale in zip(items, scales, strict=True):
        names = [f"{item.image_id}: {classes[label - 1]}" for label in item.labels.tolist()]
        sides = (item.boxes[:, 2:] - item.boxes[:, :2]) * scale
        twice += [names[row] for row in drawn_before(item).nonzero().flatten().tolist()]
        is_small = sides.amin(1) < SMALL_CELLS * stride
        small += [names[row] for row in is_small.nonzero().flatten().tolist()]
        best = _best_overlap(sides, anchors)
        uncovered += [names[row] for row in (best < COVERED_IOU).nonzero().flatten().tolist()]
        covers = _share(item) > 98
        whole += [names[row] for row in covers.nonzero().flatten().tolist()]
    return [
        _odd("boxes drawn twice", twice),
        _odd(f"objects with a side below {SMALL_CELLS} cells of the feature map (stride {stride})", small),
        _odd("objects without a planned anchor of IoU 0.5 or more", uncovered),
        _odd("boxes that cover the whole picture", whole),
    ]


def drawn_before(item: Annotation) -> Tensor:
    """Return a mask [G] of the boxes that repeat an earlier box of the same class.

    Sorted by their left sides, a box and its copies are near each other. So a picture with many thousands of boxes
    needs few comparisons.
    """
    if len(item.boxes) < 2:
        return torch.zeros(len(item.boxes), dtype=torch.bool)
    order = item.boxes[:, 0].argsort()
    boxes, labels = item.boxes[order], item.labels[order]
    left, widths = boxes[:, 0].contiguous(), boxes[:, 2] - boxes[:, 0]
    found = torch.zeros(len(boxes), dtype=torch.bool)
    for rows in torch.arange(len(boxes)).split(ROWS):
        reach = float(widths[rows].max()) * (1 / DUPLICATE_IOU - 1) + 1
        ends = torch.stack((left[rows[0]] - reach, left[rows[-1]] + reach))
        start, stop = torch.searchsorted(left, ends).tolist()
        near = slice(start, stop)
        same = (iou(boxes[rows], boxes[near]) >= DUPLICATE_IOU) & (labels[rows][:, None] == labels[near][None])
        found[order[near]] |= (same & (order[rows][:, None] < order[near][None])).any(0)
    return found


def _best_overlap(sides: Tensor, anchors: Tensor) -> Tensor:
    """Return the IoU [G] of each object's size [G, 2] with the best anchor, if both have the same centre."""
    shapes = anchors[:, 2:] - anchors[:, :2]
    shared = torch.minimum(sides[:, None], shapes[None]).prod(2)
    union = sides.prod(1)[:, None] + shapes.prod(1)[None] - shared
    return (shared / union).amax(1)


def _examples(
    annotations: dict[str, Sequence[Annotation]], facts: dict[str, list[PictureFacts]], count: int = 12
) -> list[tuple[str, int]]:
    """Return evenly spaced pictures of both splits that can be drawn."""
    found = []
    for name, items in annotations.items():
        usable = [at for at, fact in enumerate(facts[name]) if fact.problem is None and len(items[at].boxes)]
        step = max(1, len(usable) // (count // 2))
        found += [(name, at) for at in usable[::step][: count // 2]]
    return found
