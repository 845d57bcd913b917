"""Reads Open Images' CSV: boxes are fractions, classes have machine names, pictures are named by ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from detector.datasets.images import read_size
from detector.datasets.readers.collect import Collection
from detector.datasets.readers.tables import columns_of, read_table
from detector.datasets.readers.tree import Tree, split_of, split_of_list
from detector.datasets.records import MarkedObject, Reading

CORNERS = ("XMin", "YMin", "XMax", "YMax")


def is_boxes(columns: Sequence[str]) -> bool:
    """Return True if these are the columns of Open Images' boxes."""
    return {"ImageID", "LabelName", *CORNERS} <= {column.strip() for column in columns}


def is_machine_name(name: str) -> bool:
    """Return True for the identifier of a class, such as /m/01yrx."""
    return name.startswith(("/m/", "/g/"))


def find(tree: Tree) -> list[str]:
    """Return the tables of boxes, with empty files, which are faults."""
    files = [path for path in tree.having(".csv") if is_boxes(columns_of(tree.head(path)))]
    return [*files, *tree.blank(".csv")] if files else []


def read(tree: Tree, files: list[str]) -> Reading:
    """Return the records of the pictures in the folder. The tables usually name many more pictures."""
    found = Collection(tree)
    named = _class_names(tree)
    absent: set[str] = set()
    labels: set[str] = set()  # of the pictures in the folder
    for path in files:
        full = tree.full(path)
        table = read_table(full)
        at = {column: place for place, column in enumerate(table.columns)}
        split = split_of_list(path)
        rows: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
        for line, cells in table.rows:
            if len(cells) == len(table.columns):
                rows[cells[at["ImageID"]]].append((line, cells))
            else:
                found.fault(
                    cells[0], ValueError(f"{full}: line {line} has {len(cells)} cells; expected {len(table.columns)}")
                )
        for image_id, lines in rows.items():
            picture = tree.picture_named(image_id, path, split)
            if picture is None:
                absent.add(image_id)
                continue
            try:
                width, height = read_size(tree.full(picture))
                objects = [_object(cells, at, width, height, named, f"{full}: line {line}") for line, cells in lines]
            except ValueError as error:
                found.fault(image_id, error)
            else:
                labels |= {cells[at["LabelName"]] for _, cells in lines}
                found.add(picture, full, (width, height), objects, split or split_of(picture))
    unnamed = sorted(name for name in labels - named.keys() if is_machine_name(name))
    if unnamed:
        found.notes.append(
            f"no class-descriptions file names the classes {', '.join(unnamed[:5])}; put it into the folder, or name "
            "them with dataset.rename"
        )
    if absent:
        found.notes.append(f"{len(absent)} pictures of the tables are not in the folder and are left out")
    found.note_left_out("are in no table")
    return found.reading(f"Open Images CSV: {len(found)} pictures, {', '.join(files[:4])}")


def _class_names(tree: Tree) -> dict[str, str]:
    """Return machine name -> display name, from class-descriptions*.csv or FiftyOne's classes.csv."""
    names: dict[str, str] = {}
    for path in tree.having(".csv"):
        if "class-descriptions" in path or (
            len(first := columns_of(tree.head(path))) == 2 and is_machine_name(first[0])
        ):
            names |= {
                cells[0]: cells[1] for _, cells in read_table(tree.full(path), has_head=False).rows if len(cells) > 1
            }
    return names


def _object(
    cells: Sequence[str], at: dict[str, int], width: int, height: int, named: dict[str, str], where: str
) -> MarkedObject:
    texts = [cells[at[column]] for column in CORNERS]
    try:
        x1, y1, x2, y2 = (float(text) for text in texts)
    except ValueError as error:
        raise ValueError(f"{where} has the box {texts}; expected four fractions; correct or remove it") from error
    flags = {column: column in at and cells[at[column]] == "1" for column in ("IsGroupOf", "IsTruncated", "IsOccluded")}
    label = cells[at["LabelName"]]
    return MarkedObject(
        named.get(label, label),
        (x1 * width, y1 * height, x2 * width, y2 * height),
        where,
        f"({', '.join(CORNERS)}) = ({x1:g}, {y1:g}, {x2:g}, {y2:g})",
        difficult=flags["IsGroupOf"],
        truncated=flags["IsTruncated"],
        occluded=flags["IsOccluded"],
    )
