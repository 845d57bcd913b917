"""`detector explain OPERATOR key=value ...`: one RoI on one feature map, in numbers and in a picture.

Without settings an operator is explained on a published worked example. All numbers are computed by the operators
themselves, so whoever doubts a convention can look it up here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detector.configs.errors import ConfigError
from detector.configs.paths import plain_text
from detector.tools.explain.draw import draw_explanation, number_texts
from detector.tools.explain.examples import DEFAULTS, EXAMPLES, NAMED_MAPS, named_map
from detector.tools.explain.geometry import Explanation, explain

# Options of an operator beyond its RoIs, output_size and spatial_scale, with their defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "roi_pool": {"quantization": "caffe"},
    "roi_align": {"sampling_ratio": 0, "aligned": True, "reduction": "mean", "sample_grid": "centers"},
    "roi_warp": {},
    "ps_roi_pool": {"reduction": "mean"},
    "ps_roi_vote": {"reduction": "mean"},
    "ps_roi_align": {"sampling_ratio": 0},
}

HELP = f"""\
usage: detector explain OPERATOR [key=value ...]

operators  {" ".join(OPTIONS)}

settings
  example=NAME             {" ".join(EXAMPLES)}: where the settings below start
  map=NAME_OR_FILE         {" ".join(NAMED_MAPS)} random, or a .npy, .csv or .txt file;
                           with the operator's own defaults unless example= is given too
  seed=0 map_size=8,12     of map=random: height,width
  rois=x1,y1,x2,y2         pixels; more, separated by ";", count in the gradient
  output_size=7            bins, or height,width
  spatial_scale=1/16       cells per pixel
  show=values              or gradient: that of the sum of all outputs
  output=PICTURE.png
  theme=light              or dark: the colors of the picture
  quantization=caffe       roi_pool: caffe floor split outer
  sampling_ratio=0         roi_align, ps_roi_align: samples per bin and axis, 0 adapts
  aligned=true             roi_align: shift by half a cell
  reduction=mean           roi_align, ps_roi_pool, ps_roi_vote: mean max
  sample_grid=centers      roi_align: centers inner

a trained R-FCN's score maps of one class, the RoI laid over them and its votes:
  detector explain ps_roi_pool weights=runs/demo images=photo.jpg [box=x1,y1,x2,y2] [class=NAME] [output=PICTURE.png]

which boxes non-maximum suppression keeps, and which of them removes each other one:
  detector explain nms [boxes="x1,y1,x2,y2;..." scores=0.9,...] [iou=0.5] [output=PICTURE.png] [theme=dark]
"""

COMMON = ("example", "map", "seed", "map_size", "rois", "output_size", "spatial_scale", "show", "output", "theme")


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be explained, checked."""

    op: str
    maps: Tensor  # [C, H, W]
    boxes: Tensor  # [R, 4]
    output_size: tuple[int, int]
    spatial_scale: float
    options: dict[str, Any]
    show_gradient: bool
    output: Path
    dark: bool


def run_explain(words: Sequence[str]) -> Explanation:
    """Prints and draws what `OPERATOR key=value ...` asks for. Raises ConfigError, or OSError in writing."""
    request = read_request(words)
    try:
        told = explain(
            request.op, request.maps, request.boxes, request.output_size, request.spatial_scale, request.options
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print("\n".join(describe(told, request)))
    picture = draw_explanation(told, title(request), show_gradient=request.show_gradient, dark=request.dark)
    request.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(request.output, optimize=True)
    print(f"picture  {request.output}")
    return told


def read_request(words: Sequence[str]) -> Request:
    """The operator and its checked arguments. Raises ConfigError that names the setting at fault."""
    op = words[0] if words else ""
    if op not in OPTIONS:
        raise ConfigError(f"explain: expected an operator, one of {', '.join(OPTIONS)}, nms, got {op!r}")
    allowed = (*COMMON, *OPTIONS[op])
    given = split_settings(words[1:], allowed, f"explain {op}")
    name = given.get("example", DEFAULTS[op])
    if name not in EXAMPLES:
        raise ConfigError(f"example={name}: expected one of {', '.join(EXAMPLES)}")
    example = EXAMPLES[name]
    # An example's rule belongs to its map; another map starts from the operator's own defaults.
    rule = example.options if "example" in given or "map" not in given else {}
    settings = {
        "map": example.map,
        "rois": example.rois,
        "output_size": example.output_size,
        "spatial_scale": example.spatial_scale,
        **{key: value for key, value in rule.items() if key in allowed},
        **given,
    }
    options = {key: _option(key, settings.get(key, default), default) for key, default in OPTIONS[op].items()}
    size = _pair("output_size", settings["output_size"])
    channels = size[0] * size[1] if op.startswith("ps_") else 1
    maps = _map(settings, channels)
    show = settings.get("show", "values")
    if show not in ("values", "gradient"):
        raise ConfigError(f"show={show}: expected values or gradient")
    output = Path(settings.get("output", f"runs/explain/{op}.png"))
    check_picture_name(output)
    boxes = torch.tensor([numbers("rois", part, 4) for part in settings["rois"].split(";")])
    scale = _fraction("spatial_scale", settings["spatial_scale"])
    dark = is_dark(settings.get("theme", "light"))
    return Request(op, maps, boxes, size, scale, options, show == "gradient", output, dark)


def split_settings(words: Sequence[str], allowed: Sequence[str], command: str) -> dict[str, str]:
    """key=value words as a dict. Raises ConfigError for a key that is not allowed, or one without a value."""
    settings = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not value:
            raise ConfigError(f"{word!r} is not of the form key=value")
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
            tip = f"did you mean {close[0]}?" if close else f"known: {', '.join(allowed)}"
            raise ConfigError(f"{key}: no such setting of {command}; {tip}")
        settings[key] = plain_text(value)
    return settings


def numbers(key: str, text: str, count: int, meaning: str = "x1,y1,x2,y2 in pixels") -> list[float]:
    """That many finite numbers, separated by commas. Raises ConfigError."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ConfigError(f"{key}={text}: expected {count} numbers, {meaning}")
    return values


def is_dark(theme: str) -> bool:
    """Whether `theme=` asks for the colors of a dark page. Raises ConfigError for another word."""
    if theme not in ("light", "dark"):
        raise ConfigError(f"theme={theme}: expected light or dark")
    return theme == "dark"


def check_picture_name(path: Path) -> None:
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"output={path}: expected the name of a picture, .png or .jpg")


def _option(key: str, value: Any, default: Any) -> Any:
    """An option in its default's type; the operator checks whether it knows the value."""
    if isinstance(default, bool):
        if str(value).lower() not in ("true", "false"):
            raise ConfigError(f"{key}={value}: expected true or false")
        return str(value).lower() == "true"
    if isinstance(default, int):
        return _whole(key, str(value))
    return value


def _whole(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{key}={text}: expected a whole number") from error


def _pair(key: str, text: str) -> tuple[int, int]:
    """Height and width, given as one number or two."""
    sizes = [_whole(key, word) for word in text.split(",")]
    if len(sizes) > 2 or min(sizes) < 1 or max(sizes) > 64:
        raise ConfigError(f"{key}={text}: expected one number or height,width, each 1 to 64")
    return sizes[0], sizes[-1]


def _fraction(key: str, text: str) -> float:
    """A positive number, or a fraction such as 1/16."""
    over, _, under = text.partition("/")
    try:
        value = float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (0 < value < math.inf):
        raise ConfigError(f"{key}={text}: expected a positive number or a fraction such as 1/16")
    return value


def _map(settings: dict[str, str], channels: int) -> Tensor:
    """The feature map [C, H, W] float32 by name, at random, or from a file; `channels` is for a random one."""
    name = settings["map"]
    if name != "random" and (found := named_map(name)) is not None:
        return found
    if name == "random":
        height, width = _pair("map_size", settings.get("map_size", "8,12"))
        generator = torch.Generator().manual_seed(_whole("seed", settings.get("seed", "0")))
        return torch.randint(0, 100, (channels, height, width), generator=generator) / 100
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"map={name}: expected one of {', '.join(NAMED_MAPS)}, random, or a .npy, .csv or .txt file")
    return read_map(path)


def read_map(path: Path) -> Tensor:
    """A map [C, H, W] float32 from .npy ([H, W] or [C, H, W]) or text: rows of numbers, an empty line between channels.

    Raises ConfigError that names the file, and the line that is at fault.
    """
    if path.suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False).astype(np.float32)
        except (ValueError, OSError, EOFError) as error:
            raise ConfigError(f"map={path}: expected an array of numbers saved by numpy.save ({error})") from error
    else:
        array = np.array(_read_channels(path), dtype=np.float32)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.size == 0:
        raise ConfigError(f"map={path}: expected a map [H, W] or [C, H, W], got {list(array.shape)}")
    return torch.from_numpy(array)


def _read_channels(path: Path) -> list[list[list[float]]]:
    channels: list[list[list[float]]] = [[]]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"map={path}: expected text or a .npy file, got other bytes") from error
    for number, line in enumerate(lines, start=1):
        words = line.replace(",", " ").replace(";", " ").split()
        if not words:
            channels.append([])
            continue
        try:
            channels[-1].append([float(word) for word in words])
        except ValueError as error:
            raise ConfigError(f"map={path}: line {number}: expected numbers, got {line.strip()!r}") from error
        if len(words) != len(next(row for rows in channels for row in rows)):
            raise ConfigError(f"map={path}: line {number}: has {len(words)} numbers, the first line another count")
    channels = [rows for rows in channels if rows]
    if len({len(rows) for rows in channels}) > 1:
        raise ConfigError(f"map={path}: expected channels of one size, got {[len(rows) for rows in channels]} rows")
    return channels


def title(request: Request) -> str:
    """The call in one line."""
    corners = " ".join(f"{value:g}" for value in request.boxes[0].tolist())
    scale = 1 / request.spatial_scale
    shown = f"1/{scale:g}" if request.spatial_scale < 1 and scale == round(scale) else f"{request.spatial_scale:g}"
    height, width = request.output_size
    options = "".join(f", {key} {value}" for key, value in request.options.items())
    return f"{request.op}: RoI {corners}, scale {shown}, {height} x {width} bins{options}"


def describe(told: Explanation, request: Request) -> list[str]:
    """The explanation in lines of text; positions in cells, a cell's centre being at its number + 0.5."""
    roi = told.roi
    lines = [
        title(request),
        f"RoI      x {roi.left:g} to {roi.right:g}, y {roi.top:g} to {roi.bottom:g} cells: "
        f"{roi.right - roi.left:g} x {roi.bottom - roi.top:g}",
    ]
    if told.taken is not None:
        taken = told.taken
        lines += [
            f"rounded  x {taken.left:g} to {taken.right:g}, y {taken.top:g} to {taken.bottom:g} cells: "
            f"{max(taken.right - taken.left, 0):g} x {max(taken.bottom - taken.top, 0):g}, within the map",
            f"columns  {_spans(told.columns)}",
            f"rows     {_spans(told.rows)}",
            "area     " + ", ".join(f"{name} {value:.2f}" for name, value in told.areas().items()) + " cells",
        ]
    else:
        width, height = (axis[0][1] - axis[0][0] for axis in (told.columns, told.rows))
        lines.append(f"bins     {width:.4g} x {height:.4g} cells, nothing rounded")
    if told.samples is not None:
        lines += _sample_lines(told)
    if told.cells:
        winners = (f"({row}, {column}) at row {y} column {x}" for (row, column), (y, x) in told.cells.items())
        lines.append("largest  " + "; ".join(winners))
    lines += ["pooled", *_table(told.pooled)]
    if told.vote is not None:
        lines.append(f"vote     {told.vote:.6g}")
    if request.show_gradient:
        for channel in told.gradient:
            lines += ["gradient of the sum of all outputs", *_table(channel)]
    return lines


def _spans(bins: list[tuple[float, float]]) -> str:
    """Cells of the bins, the last one included."""
    texts = []
    for start, end in bins:
        several = f"{start:g}-{end - 1:g}" if end - start > 1 else f"{start:g}"
        texts.append(several if end > start else "none")
    return " | ".join(texts)


def _sample_lines(told: Explanation) -> list[str]:
    """The samples of the first bin."""
    assert told.samples is not None
    samples = told.samples
    if samples.values.numel() == 0:
        return ["samples  none: the RoI has no size"]
    lines = []
    places = [(y, x) for y in samples.y[0].tolist() for x in samples.x[0].tolist()]
    values = samples.values[0, 0].flatten().tolist()
    for number, ((y, x), value) in enumerate(zip(places, values, strict=True)):
        mark = "  largest" if samples.winners is not None and number == int(samples.winners[0, 0]) else ""
        lines.append(f"S{number + 1:<8}x {x:.3f}, y {y:.3f}: {value:.4f}{mark}")
    return lines


def _table(values: Tensor) -> list[str]:
    texts = number_texts(values, 4)
    longest = max(map(len, texts))
    columns = values.shape[1]
    rows = (texts[start : start + columns] for start in range(0, len(texts), columns))
    return ["  " + " ".join(text.rjust(longest) for text in row) for row in rows]
