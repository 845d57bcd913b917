"""`nms` and `batched_nms` against greedy suppression in plain loops, torchvision and their properties."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detector.ops import batched_nms, nms


def greedy(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None) -> list[int]:
    """Visit boxes by falling score and drop those that overlap a kept box, in float32 (64) as torchvision does."""
    corners = boxes.numpy() if boxes.dtype == torch.float64 else boxes.float().numpy()
    x1, y1, x2, y2 = corners.T
    kept: list[int] = []
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        area = (x2 - x1) * (y2 - y1)
        for i in torch.sort(scores, descending=True, stable=True).indices.tolist():
            rivals = [j for j in kept if labels is None or labels[i] == labels[j]]
            width = np.maximum(np.minimum(x2[i], x2[rivals]) - np.maximum(x1[i], x1[rivals]), 0)
            height = np.maximum(np.minimum(y2[i], y2[rivals]) - np.maximum(y1[i], y1[rivals]), 0)
            inter = width * height
            ratio = np.divide(inter, area[i] + area[rivals] - inter)
            if not (ratio.astype(np.float64) > threshold).any():
                kept.append(i)
    return kept


def random_boxes(count: int, seed: int = 0, side: float = 100.0) -> Tensor:
    """Return clustered boxes of mixed size. A threshold of 0.5 removes about half."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(max(count // 6, 1), 2, generator=generator) * side
    centres = centres[torch.randint(len(centres), (count,), generator=generator)]
    sizes = torch.exp(torch.rand(count, 2, generator=generator) * 2 + 1)
    centres = centres + torch.randn(count, 2, generator=generator) * 2
    return torch.cat((centres - sizes / 2, centres + sizes / 2), dim=1)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 90), st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0]), st.booleans())
def test_nms_equals_greedy_suppression(seed: int, count: int, threshold: float, snapped: bool) -> None:
    boxes = random_boxes(count, seed, side=30)
    boxes = (boxes / 4).round() * 4 if snapped else boxes  # many equal, touching and empty boxes
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(10, (count,), generator=generator) / 10  # many ties
    labels = torch.randint(-2, 3, (count,), generator=generator)
    kept = nms(boxes, scores, threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == greedy(boxes, scores, threshold)
    assert batched_nms(boxes, scores, labels, threshold).tolist() == greedy(boxes, scores, threshold, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("count", [1, 17, 3000])
def test_nms_equals_torchvision(count: int, threshold: float, dtype: torch.dtype) -> None:
    boxes = random_boxes(count, side=400).to(dtype)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=dtype)
    assert torch.equal(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_boxes_are_compared_in_float32(dtype: torch.dtype) -> None:
    boxes, scores = random_boxes(300).to(dtype), torch.rand(300).to(dtype)
    assert torch.equal(nms(boxes, scores, 0.5), nms(boxes.float(), scores.float(), 0.5))
    assert torch.equal(nms(boxes, scores.float(), 0.5), nms(boxes.float(), scores.float(), 0.5))


def test_an_overlap_equal_to_the_threshold_is_kept() -> None:
    boxes = torch.tensor([(0.0, 0, 10, 10), (0, 0, 10, 5)])  # IoU exactly 1/2
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, math.nextafter(0.5, 0)).tolist() == [0]
    thirds = torch.tensor([(0.0, 0, 10, 10), (0, 0, 10, 3)])  # float32(0.3) is over 0.3, as in torchvision
    assert torch.equal(nms(thirds, scores, 0.3), torchvision.ops.nms(thirds, scores, 0.3))


def test_a_dropped_box_suppresses_no_other() -> None:
    chain = torch.tensor([(0.0, 0, 10, 10), (4, 0, 14, 10), (8, 0, 18, 10)])
    assert nms(chain, torch.tensor([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]


@pytest.mark.parametrize("count", [0, 1, 2, 40, 1000, 5000])
def test_max_output_gives_the_beginning_of_the_full_result(count: int) -> None:
    boxes, scores = random_boxes(3000, side=400), torch.rand(3000, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(3000) % 3
    assert torch.equal(nms(boxes, scores, 0.5, max_output=count), nms(boxes, scores, 0.5)[:count])
    assert torch.equal(
        batched_nms(boxes, scores, labels, 0.5, max_output=count), batched_nms(boxes, scores, labels, 0.5)[:count]
    )


def test_labels_are_exact_where_coordinate_offsets_would_round() -> None:
    # With coordinates offset per label, float32 has no digits left for these boxes at label 10000.
    boxes = random_boxes(200, side=30) / 100 + 1000
    scores = torch.rand(200, generator=torch.Generator().manual_seed(1))
    labels = torch.full((200,), 10000)
    assert torch.equal(batched_nms(boxes, scores, labels, 0.5), nms(boxes, scores, 0.5))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_labels_separate_the_boxes(dtype: torch.dtype) -> None:
    boxes, scores = random_boxes(500), torch.rand(500, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(7, (500,), generator=torch.Generator().manual_seed(2)).to(dtype)
    kept = batched_nms(boxes, scores, labels, 0.4)
    alone = [
        members[nms(boxes[members], scores[members], 0.4)]
        for label in range(7)
        if len(members := (labels == label).nonzero()[:, 0])
    ]
    expected = torch.cat(alone)
    assert torch.equal(kept, expected[scores[expected].argsort(descending=True)])


def test_labels_may_be_any_numbers() -> None:
    boxes, scores = random_boxes(600, seed=3), torch.rand(600, generator=torch.Generator().manual_seed(3))
    small = torch.randint(7, (600,), generator=torch.Generator().manual_seed(4))
    expected = batched_nms(boxes, scores, small, 0.3)
    assert expected.tolist() == greedy(boxes, scores, 0.3, small)
    for labels in (small * (1 << 60) - (1 << 62), -small, small << 57):
        assert torch.equal(batched_nms(boxes, scores, labels, 0.3), expected)
    own = torch.arange(600) * 4096
    assert torch.equal(batched_nms(boxes, scores, own, 0.3), scores.argsort(descending=True, stable=True))


def test_boxes_without_area_or_not_finite_are_kept() -> None:
    strange = torch.tensor(
        [(5.0, 5, 5, 9), (9, 9, 2, 2), (9, 0, 2, 9), (math.nan, 0, 9, 9), (0, 0, math.nan, 9), (-math.inf, 0, 9, 9)]
    )
    boxes = torch.cat((strange, strange, torch.tensor([(0.0, 0, 9, 9)])))
    scores = torch.linspace(1, 0.1, len(boxes))
    assert nms(boxes, scores, 0.0)[:10].tolist() == greedy(boxes, scores, 0.0)[:10]
    assert torch.equal(nms(boxes, scores, 0.1), torchvision.ops.nms(boxes, scores, 0.1))


def test_scores_that_are_not_finite_are_sorted() -> None:
    boxes = torch.arange(6.0)[:, None] * 10 + torch.tensor([0.0, 0, 5, 5])
    scores = torch.tensor([0.0, -0.0, math.inf, math.nan, -math.inf, -1.0])
    assert nms(boxes, scores, 0.5).tolist() == [3, 2, 0, 1, 5, 4]


def test_huge_coordinates_are_suppressed_as_in_plain_loops() -> None:
    boxes = torch.tensor([(0.0, 0, 1e30, 1e30), (0, 0, 1e30, 1e30), (1e8, 1e8, 1e8 + 64, 1e8 + 64)])
    scores = torch.tensor([0.9, 0.8, 0.7])
    assert nms(boxes, scores, 0.5).tolist() == greedy(boxes, scores, 0.5)


def test_empty_inputs_give_empty_results() -> None:
    empty = torch.zeros(0, 4), torch.zeros(0)
    assert nms(*empty, 0.5).shape == (0,)
    assert batched_nms(*empty, torch.zeros(0, dtype=torch.int64), 0.5).shape == (0,)


def test_strided_inputs_give_the_same_result() -> None:
    boxes, scores = random_boxes(300), torch.rand(600, generator=torch.Generator().manual_seed(1))[::2]
    columns = boxes.T.contiguous().T
    labels = (torch.arange(600) % 5)[::2]
    assert not columns.is_contiguous()
    assert torch.equal(nms(columns, scores, 0.5), nms(boxes, scores.clone(), 0.5))
    assert torch.equal(batched_nms(columns, scores, labels, 0.5), batched_nms(boxes, scores, labels.clone(), 0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, s: nms(b[:, :3], s, 0.5), r"expected boxes \[N, 4\].*got torch.float32 \[5, 3\]"),
        (lambda b, s: nms(b.long(), s, 0.5), r"expected boxes .* got torch.int64"),
        (lambda b, s: nms(b, s[:2], 0.5), r"expected scores \[5\]"),
        (lambda b, s: nms(b, s[:, None], 0.5), r"expected scores \[5\]"),
        (lambda b, s: nms(b, s, 1.5), r"expected iou_threshold in 0\.\.1, got 1.5"),
        (lambda b, s: nms(b, s, math.nan), r"expected iou_threshold in 0\.\.1, got nan"),
        (lambda b, s: nms(b, s, 0.5, max_output=-1), r"expected max_output as None or a count, got -1"),
        (lambda b, s: batched_nms(b, s, s, 0.5), r"expected labels \[5\] of an integer dtype"),
        (lambda b, s: batched_nms(b, s, torch.zeros(4, dtype=torch.int64), 0.5), r"expected labels \[5\]"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(random_boxes(5), torch.rand(5))


@pytest.mark.parametrize("labels", [None, torch.arange(50) % 3])
@pytest.mark.parametrize("max_output", [None, 7])
def test_the_operator_keeps_the_dispatcher_contract(labels: Tensor | None, max_output: int | None) -> None:
    arguments = (random_boxes(50), torch.rand(50), labels, 0.5, max_output)
    torch.library.opcheck(torch.ops.fast_rfcn.nms.default, arguments)


def test_nms_compiles_and_exports() -> None:
    class Model(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
            return boxes[nms(boxes, scores, 0.5, max_output=20)]

    model = Model()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    example = random_boxes(30), torch.rand(30)
    count = torch.export.Dim("count")
    exported = torch.export.export(model, example, dynamic_shapes=({0: count}, {0: count})).module()
    for size in (30, 70, 41):
        boxes, scores = random_boxes(size, seed=size), torch.rand(size)
        expected = model(boxes, scores)
        assert torch.equal(compiled(boxes, scores), expected)
        assert torch.equal(exported(boxes, scores), expected)
