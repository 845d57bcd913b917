"""Detects the tool that wrote a JSON file, from its first and last bytes. COCO's files are too large to read twice."""

from __future__ import annotations

from detector.datasets.readers.tree import Tree

COCO_KEYS = (b'"images"', b'"annotations"', b'"categories"')
COCO_FIELDS = (b'"file_name"', b'"image_id"', b'"category_id"', b'"supercategory"', b'"bbox"', b'"licenses"', b'"info"')
# A file without these has categories only, as the one that Label Studio writes beside YOLO's files.
COCO_CONTENT = (b'"images"', b'"annotations"', b'"file_name"', b'"image_id"', b'"category_id"', b'"bbox"')


def json_files(tree: Tree, kind: str) -> list[str]:
    """Return the JSON files of one kind: coco, labelme, label_studio or via."""
    return [path for path in tree.having(".json") if kind_of(tree.head(path), tree.tail(path)) == kind]


def kind_of(head: bytes, tail: bytes) -> str | None:
    """Return coco, labelme, label_studio or via; None for anything else."""
    seen = (head + tail).replace(b"\0", b"")
    start = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1]
    if start == b"{":
        if b'"shapes"' in seen and any(key in seen for key in (b'"imagePath"', b'"imageData"', b'"imageHeight"')):
            return "labelme"
        if all(any(key in seen for key in keys) for keys in (COCO_KEYS, COCO_FIELDS, COCO_CONTENT)):
            return "coco"
        if b'"_via_img_metadata"' in seen or (b'"filename"' in seen and b'"regions"' in seen):
            return "via"
    marks = (b'"rectanglelabels"', b'"from_name"', b'"original_width"', b'"completions"', b'"file_upload"')
    if start == b"[" and any(mark in seen for mark in marks):
        return "label_studio"
    return None
