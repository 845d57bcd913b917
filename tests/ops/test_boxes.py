"""Box arithmetic against its properties, plain loops and hand-computed values."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from detector.ops import boxes as box_ops
from tests.peak_memory import peak_growth_kb

# float32 has 24 bits: coordinates up to 2000 are good to about 1e-4, and encode divides by sides of at least 1 pixel.
ROUNDING = {"rtol": 1e-4, "atol": 2e-2}


@st.composite
def box_lists(draw: st.DrawFn, smallest: int = 0, side: float = 1.0) -> Tensor:
    """Draw boxes [N, 4] float32 with sides of at least `side` and N of at least `smallest`."""
    count = draw(st.integers(smallest, 12))
    corners = arrays("float32", (count, 2), elements=st.floats(-500, 1500, width=32))
    sizes = arrays("float32", (count, 2), elements=st.floats(side, 900, width=32))
    low, size = torch.from_numpy(draw(corners)), torch.from_numpy(draw(sizes))
    return torch.cat((low, low + size), dim=1)


def loop_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def test_area_counts_half_open_pixels_and_is_0_for_inverted_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 5], [3, 3, 3, 9], [8, 8, 2, 2], [8, 2, 2, 8]])
    assert box_ops.area(boxes).tolist() == [50, 0, 0, 0]


def test_iou_equals_hand_computed_values() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])
    others = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 7, 7], [4, 4, 4, 4]])
    torch.testing.assert_close(box_ops.iou(box, others), torch.tensor([[1, 1 / 3, 0, 0.25, 0]]))


def test_iou_of_empty_boxes_is_zero() -> None:
    point = torch.tensor([[4.0, 4, 4, 4]])
    assert box_ops.iou(point, point).item() == 0
    assert box_ops.iou(torch.zeros(0, 4), point).shape == (0, 1)
    assert box_ops.iou(point, torch.zeros(0, 4)).shape == (1, 0)


@given(box_lists(), box_lists())
def test_iou_equals_a_loop_and_is_symmetric(boxes: Tensor, others: Tensor) -> None:
    found = box_ops.iou(boxes, others)
    expected = [[loop_iou(a, b) for b in others.double().tolist()] for a in boxes.double().tolist()]
    torch.testing.assert_close(found.double(), torch.tensor(expected).double().reshape(found.shape), rtol=0, atol=2e-3)
    torch.testing.assert_close(found, box_ops.iou(others, boxes).T, rtol=1e-5, atol=1e-6)
    assert ((found >= 0) & (found <= 1 + 1e-5)).all()


@given(box_lists(smallest=1))
def test_iou_with_itself_is_one(boxes: Tensor) -> None:
    torch.testing.assert_close(box_ops.iou(boxes, boxes).diagonal(), torch.ones(len(boxes)))


@given(box_lists(smallest=1), st.data())
def test_decode_inverts_encode(boxes: Tensor, data: st.DataObject) -> None:
    others = data.draw(box_lists(smallest=len(boxes)))[: len(boxes)]
    decoded = box_ops.decode(box_ops.encode(boxes, others), others, clamp=math.inf)
    torch.testing.assert_close(decoded, boxes, **ROUNDING)


def test_encode_follows_the_published_parametrisation() -> None:
    reference, box = torch.tensor([10.0, 20, 30, 60]), torch.tensor([20.0, 10, 60, 30])
    # centres (20, 40) -> (40, 20), sizes (20, 40) -> (40, 20)
    expected = torch.tensor([20 / 20, -20 / 40, math.log(2), -math.log(2)])
    torch.testing.assert_close(box_ops.encode(box, reference), expected)


def test_decode_limits_growth() -> None:
    reference = torch.tensor([[0.0, 0, 16, 16]])
    decoded = box_ops.decode(torch.tensor([[0.0, 0, 50, 50]]), reference)
    torch.testing.assert_close(decoded[0, 2] - decoded[0, 0], torch.tensor(1000.0))
    assert torch.isfinite(decoded).all()


def test_encode_of_degenerate_boxes_is_finite() -> None:
    degenerate = torch.tensor([[5.0, 5, 5, 5], [9, 9, 3, 3], [0, 0, 10, 10]])
    assert torch.isfinite(box_ops.encode(degenerate[:, None], degenerate[None])).all()


@given(box_lists(), st.integers(1, 1000), st.integers(1, 1000))
def test_clipped_boxes_are_inside_and_clipping_is_idempotent(boxes: Tensor, height: int, width: int) -> None:
    clipped = box_ops.clip(boxes, height, width)
    assert ((clipped >= 0) & (clipped <= torch.tensor([width, height, width, height]))).all()
    assert torch.equal(box_ops.clip(clipped, height, width), clipped)


@given(box_lists(), st.integers(1, 1000))
def test_flipping_twice_is_the_identity(boxes: Tensor, width: int) -> None:
    boxes = boxes.round()  # whole pixels: float32 subtraction is exact
    flipped = box_ops.flip(boxes, width)
    assert torch.equal(box_ops.flip(flipped, width), boxes)
    assert torch.equal(box_ops.area(flipped), box_ops.area(boxes))


def test_flip_mirrors_pixels() -> None:
    image = torch.zeros(4, 10)
    image[1:3, 2:5] = 1
    x1, y1, x2, y2 = (int(v) for v in box_ops.flip(torch.tensor([2.0, 1, 5, 3]), 10).tolist())
    assert image.flip(1)[y1:y2, x1:x2].sum() == image.sum()


@given(box_lists(), box_lists(), st.sampled_from([1, 64, 1 << 20]))
def test_best_match_equals_the_full_matrix_for_any_tile_size(
    boxes: Tensor, ground_truth: Tensor, tile_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box_ops, "TILE_BYTES", tile_bytes)
        overlaps, best = box_ops.best_match(boxes, ground_truth)
    if len(boxes) and len(ground_truth):
        matrix = box_ops.iou(boxes, ground_truth)
        assert torch.equal(overlaps, matrix.max(dim=1).values)
        assert torch.equal(best, matrix.argmax(dim=1))
    else:
        assert overlaps.tolist() == [0] * len(boxes)
        assert best.tolist() == [0] * len(boxes)


def test_best_match_takes_the_first_of_equal_boxes() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10]])
    assert box_ops.best_match(truth, truth.repeat(3, 1))[1].item() == 0


def test_best_match_never_makes_a_matrix_larger_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    original = box_ops.iou

    def counted(boxes: Tensor, others: Tensor) -> Tensor:
        found.append(4 * boxes.element_size() * len(boxes) * len(others))
        return original(boxes, others)

    monkeypatch.setattr(box_ops, "iou", counted)
    monkeypatch.setattr(box_ops, "TILE_BYTES", 1 << 16)
    box_ops.best_match(torch.rand(1000, 4), torch.rand(50, 4))
    assert max(found) <= 1 << 16
    assert len(found) > 1


def test_matching_2000_to_20000_boxes_takes_under_300_megabytes() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(22_000, 2, generator=generator) * 1000
    boxes = torch.cat((low, low + 20 + 100 * torch.rand(22_000, 2, generator=generator)), dim=1)
    assert peak_growth_kb(lambda: box_ops.best_match(boxes[:20_000], boxes[20_000:])) < 300_000
    whole = peak_growth_kb(lambda: box_ops.iou(boxes[:20_000], boxes[20_000:]))
    assert whole > 150_000, "the matrix of all pairs has 160 MB: the peak is seen"


@pytest.mark.parametrize("inclusive", [False, True])
def test_to_rois_adds_image_indices(inclusive: bool) -> None:
    boxes = [torch.tensor([[1.0, 2, 11, 12], [3, 4, 5, 6]]), torch.zeros(0, 4), torch.tensor([[7.0, 8, 9, 10]])]
    end = 1 if inclusive else 0
    expected = [[0, 1, 2, 11 - end, 12 - end], [0, 3, 4, 5 - end, 6 - end], [2, 7, 8, 9 - end, 10 - end]]
    assert box_ops.to_rois(boxes, inclusive=inclusive).tolist() == expected
    assert box_ops.to_rois([], inclusive=inclusive).shape == (0, 5)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4)])
def test_functions_accept_empty_inputs(shape: tuple[int, ...]) -> None:
    empty = torch.zeros(shape)
    for found in (box_ops.clip(empty, 9, 9), box_ops.flip(empty, 9), box_ops.encode(empty, empty)):
        assert found.shape == shape
    assert box_ops.decode(empty, empty).shape == shape
    assert box_ops.area(empty).shape == shape[:-1]


@settings(max_examples=20)
@given(box_lists(smallest=2))
def test_no_function_changes_its_input(boxes: Tensor) -> None:
    before = boxes.clone()
    calls: list[Any] = [
        box_ops.area(boxes),
        box_ops.iou(boxes, boxes),
        box_ops.best_match(boxes, boxes),
        box_ops.clip(boxes, 50, 50),
        box_ops.flip(boxes, 50),
        box_ops.encode(boxes, boxes),
        box_ops.decode(boxes, boxes),
        box_ops.to_rois([boxes], inclusive=True),
    ]
    assert len(calls) == 8
    assert torch.equal(boxes, before)


def test_boxes_stay_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        boxes = torch.rand(5, 4) + torch.tensor([0.0, 0, 1, 1])
        for found in (box_ops.iou(boxes, boxes), box_ops.encode(boxes, boxes), box_ops.decode(boxes, boxes)):
            assert found.dtype == torch.float32
        assert box_ops.decode(torch.zeros(5, 4, dtype=torch.bfloat16), boxes).dtype == torch.float32
