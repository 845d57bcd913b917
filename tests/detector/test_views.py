"""Test-time augmentation: views of an image are undone exactly and joined by NMS."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.ops import boxes as box_ops
from detector.structures import Batch, Detections
from detector.views import Views, join, mirrored
from tests.detector.test_model import HEADS, SOURCES, make_batch, make_detector

VIEWS = ["input.test_flip=true", "input.test_scales=[1,1.5]"]


def test_without_views_the_image_is_detected_as_it_is() -> None:
    assert make_detector().views is None
    assert make_detector("fast_rcnn", "given", "random", *VIEWS).views == Views(scales=(1.0, 1.5), flip=True)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("head", HEADS)
def test_a_mirrored_image_has_the_mirrored_detections(head: str, source: str) -> None:
    detector = make_detector(head, source, "random", *VIEWS, "postprocess.score_threshold=0.2").eval()
    batch = make_batch([1, 2], [30, 40])
    found, of_mirrored = detector.detect(batch), detector.detect(mirrored(batch))
    for one, other, image in zip(found, of_mirrored, batch.images, strict=True):
        assert len(one) == len(other) > 0
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        back = box_ops.flip(other.boxes, image.shape[2])
        # Detections with almost the same score may change places.
        assert (box_ops.iou(one.boxes, back).amax(dim=1) > 0.999).all()


def test_the_same_view_twice_adds_nothing() -> None:
    detector = make_detector("rfcn", "rpn").eval()
    batch = make_batch([1, 2], [30, 40])
    expected = detector.detect(batch)
    detector.views = Views(scales=(1.0, 1.0), flip=False)
    for one, other in zip(detector.detect(batch), expected, strict=True):
        assert torch.equal(one.scores, other.scores)
        torch.testing.assert_close(one.boxes, other.boxes)


def test_every_scale_is_another_size_of_the_input() -> None:
    """An image of 16:9, whose longer side is at its limit at scale 1. The limit is multiplied by the scale too."""
    detector = make_detector("fast_rcnn", "given", "random", "input.test_scales=[0.5,1,1.5,2]", "input.max_side=160")
    sizes: list[tuple[int, int]] = []
    detector.preprocess.register_forward_hook(
        lambda module, batch, inputs: sizes.append((inputs.frames[0].height, inputs.frames[0].width))
    )
    batch = make_batch([1], [5])
    wide = replace(batch, images=[torch.zeros(3, 90, 160, dtype=torch.uint8)], short_sides=[100])
    detector.eval().detect(wide)
    assert sizes == [(45, 80), (90, 160), (135, 240), (180, 320)]


def test_every_view_is_resized_mirrored_and_undone() -> None:
    batch = make_batch([0, 0], [5, 5])
    seen: list[Batch] = []
    scales: list[float] = []

    def candidates(view: Batch, scale: float) -> list[Detections]:
        seen.append(view)
        scales.append(scale)
        boxes = torch.tensor([[10.0, 20, 30, 40]])
        return [Detections(boxes, torch.tensor([0.5]), torch.tensor([1])) for _ in view.images]

    found = Views(scales=(1.0, 0.5), flip=True).detect(batch, candidates, lambda item: item)
    assert scales == [1.0, 1.0, 0.5, 0.5]
    assert torch.equal(seen[1].images[0], batch.images[0].flip(2))
    assert seen[0].proposals is not None
    assert seen[1].proposals is not None
    assert torch.equal(seen[1].proposals[0].boxes, box_ops.flip(seen[0].proposals[0].boxes, 96))
    for item in found:
        assert item.boxes.tolist() == [[10, 20, 30, 40], [66, 20, 86, 40]] * 2


def test_parts_are_joined_in_order() -> None:
    parts = [Detections(torch.full((n, 4), float(n)), torch.ones(n), torch.full((n,), n)) for n in (2, 0, 1)]
    assert join(parts).labels.tolist() == [2, 2, 1]


@pytest.mark.parametrize("scales", ["[]", "[1,0]", "[-1]"])
def test_wrong_scales_are_refused(scales: str) -> None:
    with pytest.raises(ConfigError, match=r"input\.test_scales is .*; expected (one or more numbers|above 0)$"):
        load_config([f"input.test_scales={scales}"])
