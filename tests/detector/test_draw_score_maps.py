"""The picture of score maps and votes: sizes, positions of colours, and refusals."""

import numpy as np
import pytest
import torch

from detector.draw_score_maps import BIN_COLOR, draw_score_maps, heat_colors

IMAGE = torch.full((3, 60, 80), 128, dtype=torch.uint8)
BOX = torch.tensor((10.0, 10, 50, 40))


def count(picture: object, color: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == color).all(axis=-1).sum())


@pytest.mark.parametrize("k", [1, 3, 7])
def test_every_map_shows_its_bin(k: int) -> None:
    picture = draw_score_maps(IMAGE, torch.randn(k * k, 4, 5), BOX, torch.randn(k, k), cell_size=16.0, title="cat")
    assert picture.mode == "RGB"
    assert picture.width > picture.height > 100
    assert count(picture, BIN_COLOR) > 8 * k * k


def test_a_map_is_drawn_at_its_position_on_the_image() -> None:
    maps = torch.zeros(1, 4, 6)  # 64 x 96 px: the last column is padding beyond the image of 80 px
    maps[0, 0, 0] = 1
    outside = maps.clone()
    outside[0, :, 5] = 0.5
    bins = torch.zeros(1, 1)
    first, second = (np.asarray(draw_score_maps(IMAGE, m, BOX, bins, cell_size=16.0)) for m in (maps, outside))
    assert (first == second).all()  # padding is not shown
    hot = heat_colors(np.array([1.0]), 0, 1)[0] * (0.7 + 0.3 * 128 / 255)
    close = np.abs(first.astype(float) - hot).max(axis=-1) < 2
    share = close.sum() / (16 * 600 / 80) ** 2
    assert 0.8 < share < 1.3  # one cell of 16 x 16 px, in an image that is drawn 600 px wide


def test_extreme_boxes_and_nan_can_be_drawn() -> None:
    maps = torch.full((4, 3, 3), float("nan"))
    box = torch.tensor((-100.0, 70, 500, 20))
    drawn = np.asarray(draw_score_maps(IMAGE, maps, box, torch.full((2, 2), float("inf")), cell_size=20.0))
    assert drawn.ndim == 3
    assert drawn.std() > 0


@pytest.mark.parametrize(("maps", "bins"), [((9, 4, 4), (2, 2)), ((4, 4), (2, 2)), ((6, 4, 4), (2, 3))])
def test_maps_of_a_wrong_shape_are_refused(maps: tuple[int, ...], bins: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="select one class and one RoI"):
        draw_score_maps(IMAGE, torch.zeros(maps), BOX, torch.zeros(bins), cell_size=16.0)
