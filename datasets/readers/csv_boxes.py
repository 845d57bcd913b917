"""Decides the meaning of the numbers in a CSV: pixels or fractions, corners or sizes, sizes of pictures or of boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from detector.datasets.images import read_size
from detector.datasets.readers.collect import Collection
from detector.datasets.readers.shapes import Box
from detector.datasets.readers.tree import Tree
from detector.datasets.records import MarkedObject


@dataclass(slots=True)
class TablePicture:
    """The lines about one picture."""

    path: str  # the table
    objects: list[MarkedObject] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)
    sizes: set[tuple[int, int]] = field(default_factory=set)  # width and height in the table
    in_one_cell: bool = False  # the four numbers of a box


def settle_corners(tree: Tree, pictures: Sequence[tuple[str, TablePicture]], found: Collection) -> None:
    """Change boxes whose four numbers are in one cell from x, y, width, height to corners, if only corners fit.

    Add a note if they may be corners.
    """
    objects = [(name, picture, place) for name, picture in pictures for place in range(len(picture.objects))]
    boxes = [picture.objects[place].box for _, picture, place in objects]
    corners = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes]
    if not corners or not all(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in corners):
        return
    are_fractions = max(map(max, corners)) <= 1
    sizes = {name: (1, 1) if are_fractions else read_size(tree.full(name)) for name, _ in pictures}
    slack = 0.01 if are_fractions else 1.0
    limits = [(sizes[name][0] + slack, sizes[name][1] + slack) for name, _, _ in objects]

    def outside(boxes: Sequence[Box]) -> int:
        return sum(box[2] > width or box[3] > height for box, (width, height) in zip(boxes, limits, strict=True))

    if not outside(boxes):
        found.notes.append("the four numbers of a box are read as x, y, width, height, since all of these fit")
    elif not outside(corners):
        for (_, picture, place), box in zip(objects, corners, strict=True):
            item = picture.objects[place]
            picture.objects[place] = item._replace(box=box, box_text=item.box_text.replace("w, h", "x2, y2"))
        found.notes.append(
            f"the four numbers of a box are read as two corners: as width and height, {outside(boxes)} of "
            f"{len(boxes)} boxes end outside their picture"
        )


def scale_fractions(tree: Tree, pictures: Sequence[tuple[str, TablePicture]], found: Collection) -> bool:
    """Scale the boxes to pixels if they are fractions: if no number is above 1. Return True if they are."""
    boxes = [item.box for _, picture in pictures for item in picture.objects]
    if not boxes or max(max(box) for box in boxes) > 1.001:
        return False
    for name, picture in pictures:
        width, height = read_size(tree.full(name))
        for at, item in enumerate(picture.objects):
            x1, y1, x2, y2 = item.box
            picture.objects[at] = item._replace(box=(x1 * width, y1 * height, x2 * width, y2 * height))
    found.notes.append("boxes are read as fractions of their pictures, since no number is above 1")
    return True


def state_picture_sizes(pictures: Iterable[TablePicture]) -> bool:
    """Return True if the columns width and height are those of pictures: the same in all lines of a picture.

    In some tables they are the sizes of the boxes.
    """
    stated = [item for item in pictures if item.sizes]
    of_boxes = [
        (round(x2 - x1), round(y2 - y1)) in item.sizes
        for item in stated
        for x1, y1, x2, y2 in (marked.box for marked in item.objects)
        if all(map(math.isfinite, (x1, y1, x2, y2)))
    ]
    return all(len(item.sizes) == 1 for item in stated) and not all(of_boxes)
