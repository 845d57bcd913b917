"""Draws the k x k score maps of one class with a RoI on them, and the votes of its bins, as R-FCN's figures 3 and 4.

TensorBoard during training and `detector explain` use the same code.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PICTURE_SIDE, MAPS_SIDE, BINS_SIDE = 380, 600, 300  # longest side of the three parts, in pixels
MIN_MAP_SIDE, MIN_BIN_SIDE = 120, 46  # in pixels
GAP, HEADING = 6, 26
ROI_COLOR, BIN_COLOR = (255, 255, 255), (0, 235, 255)
INK, PAPER = (25, 25, 30), (255, 255, 255)

# Colours from the lowest value to the highest. They get lighter, so that a grey print is readable.
HEAT = np.array([(13, 8, 80), (110, 10, 150), (200, 60, 110), (245, 140, 60), (250, 245, 90)], dtype=float)


def draw_score_maps(
    image: Tensor,
    maps: Tensor,
    box: Tensor,
    bins: Tensor,
    *,
    cell_size: float,
    title: str = "",
) -> Image.Image:
    """Draw the image with its RoI, each score map with the bin that reads it, and the pooled bins with their vote.

    Args:
        image: [3, H, W] uint8.
        maps: [k * k, h, w] of one class, row-major by bin. A map may be larger than the image; padding is cut off.
        box: [4] xyxy in pixels of the image.
        bins: [k, k] output of `ps_roi_pool` for the box. The vote in the picture is their mean.
        cell_size: pixels of the image per cell of the maps: stride / scale of the resized image.
        title: text line at the top.

    Raises:
        ValueError: the number of maps is not k * k for bins [k, k].
    """
    k = bins.shape[-1]
    if bins.shape != (k, k) or maps.dim() != 3 or maps.shape[0] != k * k:
        raise ValueError(
            f"expected maps [k * k, h, w] and bins [k, k], got {list(maps.shape)} and {list(bins.shape)}; "
            "select one class and one RoI"
        )
    values = maps.detach().float().cpu().numpy()
    pooled = bins.detach().float().cpu().numpy()
    corners = box.detach().float().cpu().numpy()
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).convert("RGB")
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    parts = [
        _with_heading(_picture_panel(picture, corners, k), "RoI and its bins"),
        _with_heading(_map_panels(picture, values, corners, k, cell_size, low, high), f"{k} x {k} score maps"),
        _with_heading(_bin_panel(pooled, low, high), f"vote {pooled.mean():+.2f} = mean of the bins"),
    ]
    top = GAP + (HEADING if title else 0)
    width = sum(part.width for part in parts) + GAP * 4 * (len(parts) - 1) + GAP * 2
    figure = Image.new("RGB", (width, top + max(part.height for part in parts) + GAP), PAPER)
    if title:
        ImageDraw.Draw(figure).text((GAP, GAP), title, fill=INK, font=_font(18))
    left = GAP
    for part in parts:
        figure.paste(part, (left, top))
        left += part.width + GAP * 4
    return figure


def heat_colors(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return colours [..., 3] uint8 for values [...], from dark at `low` to light at `high`; NaN is dark."""
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    position = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * (len(HEAT) - 1)
    index = np.minimum(position.astype(int), len(HEAT) - 2)
    share = (position - index)[..., None]
    colors: np.ndarray = HEAT[index] * (1 - share) + HEAT[index + 1] * share
    return colors.round().astype(np.uint8)


def _picture_panel(picture: Image.Image, box: np.ndarray, k: int) -> Image.Image:
    zoom = PICTURE_SIDE / max(picture.size)
    panel = picture.resize(_zoomed(picture, zoom), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(panel)
    for row in range(k):
        for column in range(k):
            draw.rectangle(_bin(box, row, column, k, zoom), outline=BIN_COLOR)
    draw.rectangle(_bin(box, 0, 0, 1, zoom), outline=BIN_COLOR, width=3)
    return panel


def _map_panels(
    picture: Image.Image, maps: np.ndarray, box: np.ndarray, k: int, cell_size: float, low: float, high: float
) -> Image.Image:
    """Draw each map over the grey image, with the RoI and the bin that reads the map."""
    zoom = max(MIN_MAP_SIDE, MAPS_SIDE / k) / max(picture.size)
    width, height = _zoomed(picture, zoom)
    grey = np.asarray(picture.convert("L").resize((width, height), Image.Resampling.BILINEAR), dtype=float)
    shade = (0.7 + 0.3 * grey / 255)[..., None]
    rows = np.minimum(((np.arange(height) + 0.5) / zoom / cell_size).astype(int), maps.shape[1] - 1)
    columns = np.minimum(((np.arange(width) + 0.5) / zoom / cell_size).astype(int), maps.shape[2] - 1)
    sheet = Image.new("RGB", (k * (width + GAP) - GAP, k * (height + GAP) - GAP), PAPER)
    for index, cells in enumerate(maps):
        row, column = divmod(index, k)
        colors = heat_colors(cells, low, high)[rows][:, columns]
        panel = Image.fromarray((colors * shade).astype(np.uint8))
        draw = ImageDraw.Draw(panel)
        draw.rectangle(_bin(box, 0, 0, 1, zoom), outline=ROI_COLOR)
        left, top, right, bottom = _bin(box, row, column, k, zoom)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=BIN_COLOR, width=2)
        sheet.paste(panel, (column * (width + GAP), row * (height + GAP)))
    return sheet


def _bin_panel(bins: np.ndarray, low: float, high: float) -> Image.Image:
    """Draw the bins with their values, and the colour scale below them."""
    k = len(bins)
    side = max(MIN_BIN_SIDE, BINS_SIDE // k)
    bar = 14
    panel = Image.new("RGB", (k * side, k * side + GAP * 2 + bar + HEADING), PAPER)
    draw = ImageDraw.Draw(panel)
    colors = heat_colors(bins, low, high)
    font = _font(min(22, side // 3))
    for row in range(k):
        for column in range(k):
            left, top = column * side, row * side
            color = tuple(int(part) for part in colors[row, column])
            draw.rectangle((left, top, left + side - 2, top + side - 2), fill=color)
            ink = INK if sum(color) > 380 else PAPER
            center = (left + side / 2 - 1, top + side / 2 - 1)
            draw.text(center, f"{bins[row, column]:.2f}", fill=ink, font=font, anchor="mm")
    ramp = heat_colors(np.linspace(low, high, k * side), low, high)
    top = k * side + GAP * 2
    panel.paste(Image.fromarray(np.broadcast_to(ramp, (bar, *ramp.shape)).copy()), (0, top))
    draw.text((0, top + bar + 3), f"{low:.2f}", fill=INK, font=_font(14))
    draw.text((k * side, top + bar + 3), f"{high:.2f}", fill=INK, font=_font(14), anchor="ra")
    return panel


def _with_heading(panel: Image.Image, text: str) -> Image.Image:
    font = _font(16)
    headed = Image.new("RGB", (max(panel.width, int(font.getlength(text)) + 2), panel.height + HEADING), PAPER)
    ImageDraw.Draw(headed).text((0, 4), text, fill=INK, font=font)
    headed.paste(panel, (0, HEADING))
    return headed


def _bin(box: np.ndarray, row: int, column: int, k: int, zoom: float) -> tuple[float, float, float, float]:
    """Return the corners of bin (row, column) of k x k for PIL, whose rectangles include the last pixel."""
    x1, y1, x2, y2 = (float(value) * zoom for value in box)
    width, height = max(x2 - x1, 1.0) / k, max(y2 - y1, 1.0) / k
    left, top = x1 + column * width, y1 + row * height
    return left, top, left + max(width - 1, 0), top + max(height - 1, 0)


def _zoomed(picture: Image.Image, zoom: float) -> tuple[int, int]:
    return max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(9, size))
