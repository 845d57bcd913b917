"""A drawing surface on Pillow. It draws at twice the size of the picture, so that lines, points and text are smooth."""

from __future__ import annotations

import colorsys

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

OVERSAMPLING = 2  # pixels drawn per pixel of the finished picture
COLORS = 96  # colors in the palette of the finished picture, to keep files small


class Canvas:
    """All arguments are in pixels of the finished picture. A dark canvas draws each color as `darkened` returns it."""

    def __init__(self, width: float, height: float, background: Color, *, dark: bool = False) -> None:
        self.dark = dark
        self.image = Image.new(
            "RGB", (round(width) * OVERSAMPLING, round(height) * OVERSAMPLING), self._shade(background)
        )
        self.draw = ImageDraw.Draw(self.image)

    def fill(self, box: Box, color: Color) -> None:
        """Fill a rectangle. A rectangle without area is not drawn."""
        left, top, right, bottom = _scaled(box)
        if right > left and bottom > top:
            self.draw.rectangle((left, top, right - 1, bottom - 1), fill=self._shade(color))

    def outline(self, box: Box, color: Color, width: float = 1) -> None:
        """Draw a rectangle."""
        left, top, right, bottom = _scaled(box)
        if right > left and bottom > top:
            self.draw.rectangle(
                (left, top, right - 1, bottom - 1), outline=self._shade(color), width=round(width * OVERSAMPLING)
            )

    def dashed(self, box: Box, color: Color, width: float = 2, dash: float = 7) -> None:
        """Draw a dashed rectangle. Its sides may coincide."""
        left, top, right, bottom = box
        for x1, y1, x2, y2 in (
            (left, top, right, top),
            (right, top, right, bottom),
            (left, bottom, right, bottom),
            (left, top, left, bottom),
        ):
            length = abs(x2 - x1) + abs(y2 - y1)
            steps = max(1, round(length / dash / 2))
            for step in range(steps):
                start, end = step / steps, (step + 0.55) / steps
                self.line((x1 + (x2 - x1) * start, y1 + (y2 - y1) * start),
                          (x1 + (x2 - x1) * end, y1 + (y2 - y1) * end), color, width)  # fmt: skip

    def line(self, start: tuple[float, float], end: tuple[float, float], color: Color, width: float = 1) -> None:
        """Draw a line."""
        points = (start[0] * OVERSAMPLING, start[1] * OVERSAMPLING, end[0] * OVERSAMPLING, end[1] * OVERSAMPLING)
        self.draw.line(points, fill=self._shade(color), width=round(width * OVERSAMPLING))

    def dot(self, center: tuple[float, float], radius: float, color: Color, ring: Color | None = None) -> None:
        """Draw a filled circle, with a border in the color `ring`."""
        x, y, r = center[0] * OVERSAMPLING, center[1] * OVERSAMPLING, radius * OVERSAMPLING
        self.draw.ellipse(
            (x - r, y - r, x + r, y + r),
            fill=self._shade(color),
            outline=self._shade(ring) if ring else None,
            width=2 * OVERSAMPLING if ring else 0,
        )

    def circle(self, center: tuple[float, float], radius: float, color: Color, width: float = 2) -> None:
        """Draw a circle."""
        x, y, r = center[0] * OVERSAMPLING, center[1] * OVERSAMPLING, radius * OVERSAMPLING
        self.draw.ellipse((x - r, y - r, x + r, y + r), outline=self._shade(color), width=round(width * OVERSAMPLING))

    def text(self, place: tuple[float, float], text: str, size: float, color: Color, anchor: str = "la") -> None:
        """Write text. `anchor` is Pillow's: the point of the text that lies at `place`."""
        font = ImageFont.load_default(size=size * OVERSAMPLING)
        self.draw.text(
            (place[0] * OVERSAMPLING, place[1] * OVERSAMPLING), text, fill=self._shade(color), font=font, anchor=anchor
        )

    def _shade(self, color: Color) -> Color:
        return darkened(color) if self.dark else color

    def finished(self) -> Image.Image:
        """Return the picture at its final size, with few colors."""
        size = self.image.width // OVERSAMPLING, self.image.height // OVERSAMPLING
        small = self.image.resize(size, Image.Resampling.BOX)
        return small.quantize(COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def darkened(color: Color) -> Color:
    """The color for a dark page: the same hue with inverted lightness; white becomes a dark grey."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in color))
    red, green, blue = colorsys.hls_to_rgb(hue, 0.13 + 0.82 * (1 - lightness), saturation * 0.6)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_width(text: str, size: float) -> float:
    """Return the width of text in pixels."""
    return float(ImageFont.load_default(size=size).getlength(text))


def _scaled(box: Box) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(value * OVERSAMPLING) for value in box)
    return left, top, right, bottom
