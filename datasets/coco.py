"""COCO-format annotations: one JSON file and a folder of images.

Labels number the file's categories in the order of their ids. A crowd region (`iscrowd`) is one box around many
objects. It becomes a `difficult` object, so that the VOC metric counts it neither as missed nor as a false positive. To
exclude crowds from training, exclude difficult objects (sampling.use_difficult=false).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from detector.datasets.annotate import annotate, read_annotated
from detector.datasets.bit_depth import common_depth
from detector.datasets.class_names import odd_classes
from detector.datasets.coco_json import notes_of, read_coco
from detector.datasets.faults import Fault, raise_faults
from detector.datasets.records import Record
from detector.datasets.sample import Annotation

log = logging.getLogger("detector")


class COCODataset:
    """Images and annotations of one annotation file. The id of an image is its `id`, as text."""

    classes: tuple[str, ...]
    annotations: Sequence[Annotation]

    def __init__(
        self,
        path: Path,
        images: Path,
        *,
        need_images: bool = True,
        classes: Sequence[str] | None = None,
        strict: bool = False,
        bit_depth: int | None = None,
    ) -> None:
        """`path` is the annotation file, `images` the folder that its file names are relative to.

        `classes` are the classes of the training file, in the order of its labels; None: those of this file. Without
        `need_images`, the pictures may be missing: scoring result files does not read them. A box with at most a tenth
        of its area beyond the edge is clipped; with `strict` it is a fault.

        Raises ValueError for a file of another format, and its subclass FaultyDataError with all missing images and
        all annotations that cannot be used. Boxes without area, which the published files have, are left out with a
        warning.
        """
        found = read_coco(path)
        own = tuple(found.categories.values())
        self.classes = own if classes is None else tuple(classes)
        if set(own) - set(self.classes):
            raise ValueError(
                f"{path}: its categories are not those of the training file: {', '.join(set(own) - set(self.classes))} "
                f"not in {', '.join(self.classes)}; use the same categories in both files"
            )
        if set(own) < set(self.classes):
            log.warning("%s: does not have the categories %s", path, ", ".join(sorted(set(self.classes) - set(own))))
        faults = list(found.faults)
        if need_images:
            present = _listing({images / image.file_name for image in found.images})
            faults += [
                Fault(image.image_id, f"{images / image.file_name}: no such image, but {path} names it")
                for image in found.images
                if images / image.file_name not in present
            ]
            raise_faults(str(path), [] if all(image.size for image in found.images) else faults)
        records = [
            Record(image.image_id, images / image.file_name, path, image.size, tuple(image.objects))
            for image in found.images
        ]
        self.annotations, self.files = annotate(records, self.classes, faults, strict=strict, where=str(path))
        self.bit_depth = bit_depth or (common_depth(self.files) if need_images else None)
        raise_faults(str(path), faults)
        for line in odd_classes(Counter(item.name for record in records for item in record.objects)):
            log.warning("%s: %s", path, line)
        for line in notes_of([found]):
            log.warning("%s: %s", path, line)

    def image(self, index: int) -> Tensor:
        """Return the decoded image [3, H, W] uint8. Raises ValueError if it is unreadable or of a wrong size."""
        return read_annotated(self.files[index], self.annotations[index], self.bit_depth)


def _listing(files: set[Path]) -> set[Path]:
    """Return the files that exist. Lists each folder only once."""
    folders = {file.parent for file in files}
    return {file for folder in folders if folder.is_dir() for file in folder.iterdir()} & files
