"""Reads image lists of VOC's ImageSets, also in the variants that people write."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import PurePosixPath
from typing import Literal
from unicodedata import normalize

from detector.datasets.images import SUFFIXES
from detector.datasets.tar_shards import File
from detector.datasets.text_files import read_text

FORMS: tuple[Literal["NFC", "NFD"] | None, ...] = (None, "NFC", "NFD")  # of accents; macOS stores them separately


def read_list(path: File, known: Set[str]) -> list[str]:
    """Return the ids of an image list, in its order. `known` are the ids in the folder, to interpret unclear lines.

    Lines may end in the flag of a class list, where -1 means "not in this image". Ids may contain blanks, folders and
    suffixes. Raises ValueError naming the file if it cannot be read or is empty.
    """
    ids = []
    for line in map(str.strip, read_text(path).splitlines()):
        if not line:
            continue
        of_class = None if line in known else re.fullmatch(r"(.+?)\s+(-?[01])", line)
        if of_class is None:
            ids.append(_known_id(line, known))
        elif of_class[2] != "-1":
            ids.append(_known_id(of_class[1], known))
    if not ids:
        raise ValueError(f"{path}: the image list is empty; expected one image id per line")
    return ids


def _known_id(text: str, known: Set[str]) -> str:
    if text in known:
        return text
    path = text.strip('"').replace("\\", "/")
    path = path[: -len(PurePosixPath(path).suffix)] if path.lower().endswith((*SUFFIXES, ".xml")) else path
    name = text.replace("\\", "/").rpartition("/")[2]
    stem = path.rpartition("/")[2]
    forms = [item if form is None else normalize(form, item) for form in FORMS for item in (text, path, name, stem)]
    return next((item for item in forms if item in known), text)
