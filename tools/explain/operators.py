"""`detector explain OPERATOR key=value ...`: one RoI on one feature map, in numbers and in a picture.

The default for each operator is a published worked example. The operators themselves compute all numbers, so the output
shows the conventions as they are.
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
  example=NAME             {" ".join(EXAMPLES)}: values for the settings below
  map=NAME_OR_FILE         {" ".join(NAMED_MAPS)} random, or a .npy, .csv or .txt file;
                           options then have the operator's defaults, unless example= is given
  seed=0 map_size=8,12     of map=random: height,width
  rois=x1,y1,x2,y2         pixels; add RoIs with ";", only the gradient includes them
  output_size=7            bins, or height,width
  spatial_scale=1/16       cells per pixel
  show=values              or gradient: the gradient of the sum of all outputs
  output=PICTURE.png
  theme=light              or dark: the colors of the picture
  quantization=caffe       roi_pool: caffe floor split outer
  sampling_ratio=0         roi_align, ps_roi_align: samples per bin and axis, 0 adapts
  aligned=true             roi_align: shift by half a cell
  reduction=mean           roi_align, ps_roi_pool, ps_roi_vote: mean max
  sample_grid=centers      roi_align: centers inner

the score maps of a trained R-FCN for one class, with the RoI and its votes:
  detector explain ps_roi_pool weights=runs/demo images=photo.jpg [box=x1,y1,x2,y2] [class=NAME] [output=PICTURE.png]

the boxes that non-maximum suppression keeps, and the kept box that removes each other box:
  detector explain nms [boxes="x1,y1,x2,y2;..." scores=0.9,...] [iou=0.5] [output=PICTURE.png] [theme=dark]
"""

COMMON = ("example", "map", "seed", "map_size", "rois", "output_size", "spatial_scale", "show", "output", "theme")


@dataclass(frozen=True, slots=True)
class Request:
    """The checked arguments of the command."""

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
    """Print and draw the explanation for `OPERATOR key=value ...`. Raises ConfigError, or OSError if writing fails."""
    request = read_request(words)
    try:
        explanation = explain(
            request.op, request.maps, request.boxes, request.output_size, request.spatial_scale, request.options
        )
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print("\n".join(describe(explanation, request)))
    picture = draw_explanation(explanation, title(request), show_gradient=request.show_gradient, dark=request.dark)
    request.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(request.output, optimize=True)
    print(f"picture  {request.output}")
    return explanation


def read_request(words: Sequence[str]) -> Request:
    """The operator and its checked arguments. Raises ConfigError that names the wrong setting."""
    op = words[0] if words else ""
    if op not in OPTIONS:
        raise ConfigError(f"explain: expected an operator, one of {', '.join(OPTIONS)}, nms, got {op!r}")
    allowed = (*COMMON, *OPTIONS[op])
    given = split_settings(words[1:], allowed, f"explain {op}")
    name = given.get("example", DEFAULTS[op])
    if name not in EXAMPLES:
        raise ConfigError(f"example={name}: expected one of {', '.join(EXAMPLES)}")
    example = EXAMPLES[name]
    # The options of an example are for its map. With another map, the operator's defaults are used.
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
    """Parse words key=value into a dict. Raises ConfigError for an unknown key or a missing value."""
    settings = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not value:
            raise ConfigError(f"{command}: expected settings key=value, got {word!r}")
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
            tip = f"did you mean {close[0]}?" if close else f"use one of {', '.join(allowed)}"
            raise ConfigError(f"{key}: no such setting of {command}; {tip}")
        settings[key] = plain_text(value)
    return settings


def numbers(key: str, text: str, count: int, meaning: str = "x1,y1,x2,y2 in pixels") -> list[float]:
    """Parse `count` finite numbers, separated by commas. Raises ConfigError."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        raise ConfigError(f"{key}={text}: expected {count} numbers, {meaning}")
    return values


def is_dark(theme: str) -> bool:
    """Return whether `theme` is dark. Raises ConfigError unless it is light or dark."""
    if theme not in ("light", "dark"):
        raise ConfigError(f"theme={theme}: expected light or dark")
    return theme == "dark"


def check_picture_name(path: Path) -> None:
    """Raise ConfigError if the path does not end like a picture."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"output={path}: expected the name of a picture ending in .png or .jpg")


def _option(key: str, value: Any, default: Any) -> Any:
    """Convert an option to the type of its default. The operator checks the value."""
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
    """Parse height and width from one number or two."""
    sizes = [_whole(key, word) for word in text.split(",")]
    if len(sizes) > 2 or min(sizes) < 1 or max(sizes) > 64:
        raise ConfigError(f"{key}={text}: expected one number or height,width, each 1 to 64")
    return sizes[0], sizes[-1]


def _fraction(key: str, text: str) -> float:
    """Parse a positive number or a fraction such as 1/16."""
    over, _, under = text.partition("/")
    try:
        value = float(over) / float(under or 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (0 < value < math.inf):
        raise ConfigError(f"{key}={text}: expected a positive number or a fraction such as 1/16")
    return value


def _map(settings: dict[str, str], channels: int) -> Tensor:
    """The feature map [C, H, W] float32: by name, random with `channels` channels, or from a file."""
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
    """Read a map [C, H, W] float32 from .npy ([H, W] or [C, H, W]) or text (rows of numbers, empty line = new channel).

    Raises ConfigError that names the file and the wrong line.
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
        raise ConfigError(f"map={path}: expected a text file or a .npy file, got bytes that are not UTF-8") from error
    for number, line in enumerate(lines, start=1):
        words = line.replace(",", " ").replace(";", " ").split()
        if not words:
            channels.append([])
            continue
        try:
            channels[-1].append([float(word) for word in words])
        except ValueError as error:
            raise ConfigError(f"map={path}: line {number}: expected numbers, got {line.strip()!r}") from error
        width = len(next(row for rows in channels for row in rows))
        if len(words) != width:
            raise ConfigError(f"map={path}: line {number}: expected {width} numbers as in line 1, got {len(words)}")
    channels = [rows for rows in channels if rows]
    if len({len(rows) for rows in channels}) > 1:
        raise ConfigError(f"map={path}: expected channels of one size, got {[len(rows) for rows in channels]} rows")
    return channels


def title(request: Request) -> str:
    """The operator, the RoI and all options in one line."""
    corners = " ".join(f"{value:g}" for value in request.boxes[0].tolist())
    scale = 1 / request.spatial_scale
    shown = f"1/{scale:g}" if request.spatial_scale < 1 and scale == round(scale) else f"{request.spatial_scale:g}"
    height, width = request.output_size
    options = "".join(f", {key} {value}" for key, value in request.options.items())
    return f"{request.op}: RoI {corners}, scale {shown}, {height} x {width} bins{options}"


def describe(explanation: Explanation, request: Request) -> list[str]:
    """The explanation as lines of text. Positions are in cells; the centre of cell i is at i + 0.5."""
    roi = explanation.roi
    lines = [
        title(request),
        f"RoI      x {roi.left:g} to {roi.right:g}, y {roi.top:g} to {roi.bottom:g} cells: "
        f"{roi.right - roi.left:g} x {roi.bottom - roi.top:g}",
    ]
    if explanation.rounded is not None:
        rounded = explanation.rounded
        lines += [
            f"rounded  x {rounded.left:g} to {rounded.right:g}, y {rounded.top:g} to {rounded.bottom:g} cells: "
            f"{max(rounded.right - rounded.left, 0):g} x {max(rounded.bottom - rounded.top, 0):g}, within the map",
            f"columns  {_spans(explanation.columns)}",
            f"rows     {_spans(explanation.rows)}",
            "area     " + ", ".join(f"{name} {value:.2f}" for name, value in explanation.areas().items()) + " cells",
        ]
    else:
        width, height = (axis[0][1] - axis[0][0] for axis in (explanation.columns, explanation.rows))
        lines.append(f"bins     {width:.4g} x {height:.4g} cells, not rounded")
    if explanation.samples is not None:
        lines += _sample_lines(explanation)
    if explanation.cells:
        winners = (f"({row}, {column}) at row {y} column {x}" for (row, column), (y, x) in explanation.cells.items())
        lines.append("largest  " + "; ".join(winners))
    lines += ["pooled", *_table(explanation.pooled)]
    if explanation.vote is not None:
        lines.append(f"vote     {explanation.vote:.6g}")
    if request.show_gradient:
        for channel in explanation.gradient:
            lines += ["gradient of the sum of all outputs", *_table(channel)]
    return lines


def _spans(bins: list[tuple[float, float]]) -> str:
    """The cells of each bin as text: first-last."""
    texts = []
    for start, end in bins:
        several = f"{start:g}-{end - 1:g}" if end - start > 1 else f"{start:g}"
        texts.append(several if end > start else "none")
    return " | ".join(texts)


def _sample_lines(explanation: Explanation) -> list[str]:
    """The samples of the first bin as lines of text."""
    assert explanation.samples is not None
    samples = explanation.samples
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
