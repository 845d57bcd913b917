"""Detects the tool that wrote a JSON file, from its first and last bytes. COCO's files are too large to read twice."""

from __future__ import annotations

from detector.datasets.readers.tree import Tree

COCO_KEYS = (b'"images"', b'"annotations"', b'"categories"')
COCO_FIELDS = (b'"file_name"', b'"image_id"', b'"category_id"', b'"supercategory"', b'"bbox"', b'"licenses"', b'"info"')


def json_files(tree: Tree, kind: str) -> list[str]:
    """Return the JSON files of one kind: coco, labelme or label_studio."""
    return [path for path in tree.having(".json") if kind_of(tree.head(path), tree.tail(path)) == kind]


def kind_of(head: bytes, tail: bytes) -> str | None:
    """Return coco, labelme or label_studio; None for anything else."""
    seen = (head + tail).replace(b"\0", b"")
    start = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1]
    if start == b"{":
        if b'"shapes"' in seen and any(key in seen for key in (b'"imagePath"', b'"imageData"', b'"imageHeight"')):
            return "labelme"
        if any(key in seen for key in COCO_KEYS) and any(key in seen for key in COCO_FIELDS):
            return "coco"
    marks = (b'"rectanglelabels"', b'"from_name"', b'"original_width"', b'"completions"', b'"file_upload"')
    if start == b"[" and any(mark in seen for mark in marks):
        return "label_studio"
    return None
