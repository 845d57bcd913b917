"""From predictions to detections by py-faster-rcnn's protocol, against a plain loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.ops import boxes as box_ops
from detector.ops import nms
from detector.postprocess import Postprocess, empty_detections, vote_boxes
from detector.preprocess import Frame
from detector.structures import Detections, RoIPredictions
from detector.targets import BoxCoder

PROTOCOL = Postprocess(score_threshold=0.05, nms_iou=0.3, max_per_image=100)
FRAME = Frame(200, 300, 1.0, 1.0)
UNIT = {"mean": (0.0, 0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0, 1.0)}


def logits_of(*scores: list[float]) -> torch.Tensor:
    """Return logits whose softmax gives these foreground probabilities. The background gets the rest."""
    foreground = torch.tensor(scores)
    return torch.cat((1 - foreground.sum(dim=1, keepdim=True), foreground), dim=1).log()


def loop_detections(
    predictions: RoIPredictions, boxes: torch.Tensor, coder: BoxCoder, protocol: Postprocess
) -> list[tuple[float, int, list[float]]]:
    """For each class: score threshold, decode, clip, NMS. Then the best of the image."""
    scores = predictions.logits.softmax(dim=1)
    found = []
    for label in range(1, scores.shape[1]):
        column = 0 if predictions.deltas.shape[1] == 1 else label - 1
        labels = torch.full((len(boxes),), label)
        decoded = box_ops.clip(coder.decode(predictions.deltas[:, column], boxes, labels), FRAME.height, FRAME.width)
        confident = (scores[:, label] > protocol.score_threshold) & (box_ops.area(decoded) > 0)
        kept = nms(decoded[confident], scores[confident, label], protocol.nms_iou)
        found += [
            (score, label, box)
            for score, box in zip(
                scores[confident, label][kept].tolist(), decoded[confident][kept].tolist(), strict=True
            )
        ]
    return sorted(found, key=lambda item: -item[0])[: protocol.max_per_image]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([3, 100]))
def test_detections_equal_a_loop_over_the_classes(seed: int, agnostic: bool, most: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    classes, count = 3, 30
    low = torch.rand(count, 2, generator=generator) * 150
    boxes = torch.cat((low, low + 20 + 60 * torch.rand(count, 2, generator=generator)), dim=1)
    predictions = RoIPredictions(
        torch.randn(count, classes + 1, generator=generator) * 2,
        torch.randn(count, 1 if agnostic else classes, 4, generator=generator),
    )
    coder = BoxCoder(rows=1 if agnostic else classes, mean=(0.0, 0.0, 0.1, 0.0), std=(0.1, 0.1, 0.2, 0.2))
    protocol = Postprocess(score_threshold=0.05, nms_iou=0.3, max_per_image=most)
    found = protocol(predictions, boxes, coder, FRAME)
    expected = loop_detections(predictions, boxes, coder, protocol)
    assert len(found) == len(expected) <= most
    torch.testing.assert_close(found.scores, torch.tensor([item[0] for item in expected]).reshape(-1))
    assert found.labels.tolist() == [item[1] for item in expected]
    torch.testing.assert_close(found.boxes, torch.tensor([item[2] for item in expected]).reshape(-1, 4))


def detect(scores: list[list[float]], boxes: list[list[float]], protocol: Postprocess = PROTOCOL) -> Detections:
    classes = len(scores[0])
    predictions = RoIPredictions(logits_of(*scores), torch.zeros(len(boxes), classes, 4))
    return protocol(predictions, torch.tensor(boxes), BoxCoder(rows=classes, **UNIT), FRAME)


def test_one_roi_can_give_several_classes_and_nms_is_per_class() -> None:
    found = detect([[0.5, 0.4], [0.3, 0.1]], [[10, 10, 50, 50], [11, 10, 50, 50]])
    assert found.labels.tolist() == [1, 2]
    torch.testing.assert_close(found.scores, torch.tensor([0.5, 0.4]))


def test_scores_below_the_threshold_are_dropped() -> None:
    found = detect([[0.049], [0.06]], [[10, 10, 50, 50], [100, 100, 150, 150]])
    torch.testing.assert_close(found.scores, torch.tensor([0.06]))


def test_boxes_are_clipped_to_the_image_and_boxes_outside_are_dropped() -> None:
    found = detect([[0.9], [0.8], [0.7]], [[-20, -20, 50, 50], [250, 150, 400, 400], [310, 10, 350, 50]])
    assert found.boxes.tolist() == [[0, 0, 50, 50], [250, 150, 300, 200]]


def test_background_is_never_detected() -> None:
    assert len(detect([[0.01, 0.02]], [[10, 10, 50, 50]])) == 0


@pytest.mark.parametrize("most", [1, 2, 100])
def test_the_best_detections_of_all_classes_are_kept(most: int) -> None:
    scores = [[0.9, 0.05], [0.1, 0.7], [0.3, 0.2]]
    boxes = [[0.0, 0, 50, 50], [60, 60, 120, 120], [130, 130, 190, 190]]
    protocol = Postprocess(score_threshold=0.15, nms_iou=0.3, max_per_image=most)
    expected = [0.9, 0.7, 0.3, 0.2][:most]
    torch.testing.assert_close(detect(scores, boxes, protocol).scores, torch.tensor(expected))


def test_no_rois_give_no_detections() -> None:
    predictions = RoIPredictions(torch.zeros(0, 4), torch.zeros(0, 3, 4))
    found = PROTOCOL(predictions, torch.zeros(0, 4), BoxCoder(rows=3, **UNIT), FRAME)
    empty = empty_detections(torch.device("cpu"))
    for item in (found, empty):
        assert len(item) == 0
        assert (item.boxes.shape, item.scores.shape, item.labels.dtype) == ((0, 4), (0,), torch.int64)


def test_a_box_becomes_the_weighted_mean_of_those_that_agree_with_it() -> None:
    """Three boxes of one object, one with an IoU below 0.75; a box of another class in the same place."""
    boxes = [[0.0, 0, 100, 100], [0, 0, 90, 100], [0, 0, 70, 100], [0, 0, 95, 100]]
    protocol = Postprocess(score_threshold=0.05, nms_iou=0.3, max_per_image=100, box_voting=0.75)
    found = detect([[0.6, 0.01], [0.2, 0.01], [0.1, 0.01], [0.01, 0.5]], boxes, protocol)
    assert found.labels.tolist() == [1, 2]
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.5]))
    right = (0.6 * 100 + 0.2 * 90) / 0.8
    torch.testing.assert_close(found.boxes, torch.tensor([[0, 0, right, 100], [0, 0, 95, 100]]))


@pytest.mark.parametrize("tile_bytes", [1, 64 << 20])
@pytest.mark.parametrize("autocast", [False, True])
def test_voting_equals_a_loop(autocast: bool, tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_ops, "TILE_BYTES", tile_bytes)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(80, 2, generator=generator) * 900
    corner[40:] = corner[:40] + 3 * torch.rand(40, 2, generator=generator)
    boxes = torch.cat((corner, corner + 60 + 5 * torch.rand(80, 2, generator=generator)), dim=1)
    scores, labels = torch.rand(80, generator=generator), torch.randint(1, 3, (80,), generator=generator)
    keep = nms(boxes, scores, 0.5)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = vote_boxes(boxes, scores, labels, keep, 0.7)
    expected = []
    for index in keep.tolist():
        overlaps = box_ops.iou(boxes[[index]].double(), boxes.double())[0]
        voters = [i for i in range(80) if overlaps[i] >= 0.7 and labels[i] == labels[index]]
        expected.append((scores[voters, None].double() * boxes[voters].double()).sum(0) / scores[voters].double().sum())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.stack(expected).float(), rtol=1e-6, atol=1e-4)
    assert (found != boxes[keep]).any()


def test_voting_on_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert vote_boxes(torch.zeros(0, 4), torch.zeros(0), none, none, 0.5).shape == (0, 4)
