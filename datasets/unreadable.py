"""Says in plain words why a picture cannot be read."""

from __future__ import annotations

from PIL import Image, UnidentifiedImageError

from detector.datasets.tar_shards import File


def reason_of(path: File, error: Exception) -> str:
    """Return why Pillow refuses a picture: its error, or for an unknown content what it may be."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels: divide it into tiles"
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as failure:
        return failure.strerror or str(failure)
    if not head:
        return "it is empty"
    if not isinstance(error, UnidentifiedImageError):
        return str(error) or type(error).__name__
    if head[4:8] == b"ftyp":
        return f"it is a {head[8:12].decode('latin-1').strip().upper()} file under another name: save it as JPEG or PNG"
    if b"<html" in head.lower() or b"<!doctype" in head.lower():
        return "it is a web page, not a picture"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS: fetch the pictures with `git lfs pull`"
    return "it is no picture of a known format"
