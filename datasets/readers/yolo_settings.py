"""Reads the class names of YOLO's text files, and the other settings of data.yaml."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]

from detector.datasets.readers.tree import Tree
from detector.datasets.text_files import read_text

NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")  # one class name per line
NULL = ("null", "~")  # YAML's nothing


def read_names(tree: Tree) -> tuple[tuple[str, ...], dict[str, Any], str]:
    """Return the class names, the content of the YAML file with them (empty for other files), and the file's path."""
    found: list[tuple[tuple[str, ...], dict[str, Any], str]] = []
    for path in tree.having(".yaml", ".yml"):
        content = _yaml(tree, path)
        if "names" in content:
            names = _yaml_names(content["names"], f"{tree.full(path)}: names")
            if content.get("nc", str(len(names))) != str(len(names)):
                raise ValueError(
                    f"{tree.full(path)}: nc is {content['nc']}, but {len(names)} classes are named; correct one of them"
                )
            found.append((names, content, path))
    for path in tree.having(".txt", ".names", ".labels"):
        if PurePosixPath(path).name.lower() in NAME_FILES or path.endswith(".names"):
            lines = [line.strip() for line in read_text(tree.full(path)).strip().splitlines()]
            if "" in lines:
                raise ValueError(
                    f"{tree.full(path)}: line {lines.index('') + 1} is blank; expected a class name on each line; "
                    "add the name or remove the line"
                )
            found.append((tuple(lines), {}, path))
    if not found:
        raise ValueError(
            f"{tree.setting}: no data.yaml or classes.txt names the classes of YOLO's text files; write "
            "classes.txt, one name per line"
        )
    first = found[0]
    other = next((item for item in found if item[0] != first[0]), None)
    if other is not None:
        raise ValueError(
            f"{tree.full(first[2])} and {tree.full(other[2])} name different classes ({', '.join(first[0][:5])}; "
            f"{', '.join(other[0][:5])}); remove one of the files"
        )
    doubled = {name for name in first[0] if first[0].count(name) > 1}
    if doubled or not first[0]:
        raise ValueError(f"{tree.full(first[2])}: names {sorted(doubled) or 'nothing'} twice; name each class once")
    return first


def _yaml(tree: Tree, path: str) -> dict[str, Any]:
    """Return the content of a YAML file with all values as text: otherwise the class 010 is 8, and yes is True.

    A file of another structure has no content. Raises ValueError for a file with class names that is not YAML.
    """
    try:
        text = read_text(tree.full(path))
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        if not re.search(r"^names\s*:", text, re.MULTILINE):
            return {}
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" near line {mark.line + 1}"
        reason = getattr(error, "problem", None) or type(error).__name__
        raise ValueError(f"{tree.full(path)}: not readable as YAML{place} ({reason}); correct the file") from error
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _yaml_names(names: Any, what: str) -> tuple[str, ...]:
    if isinstance(names, dict):
        if sorted(names) != sorted(map(str, range(len(names)))):
            raise ValueError(f"{what} has the keys {list(names)[:10]}; expected 0, 1, 2 ...")
        names = [names[str(key)] for key in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{what} is {names!r}; expected a list of class names")
    if any(name.strip() in ("", *NULL) for name in names):
        raise ValueError(f"{what} is {names!r}; expected a name for each class")
    return tuple(name.strip() for name in names)


def keypoint_numbers(settings: dict[str, Any]) -> int:
    """Return how many numbers of keypoints follow each box, as `kpt_shape` in the YAML file says; 0 without it."""
    shape = settings.get("kpt_shape")
    if (
        isinstance(shape, list)
        and len(shape) == 2
        and all(isinstance(side, str) and side.isdecimal() for side in shape)
    ):
        return int(shape[0]) * int(shape[1])
    return 0
