"""The region proposal network: assignment rules, sampling, losses and proposals, against plain loops."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from detector.box_losses import OverlapLoss, ciou_loss, giou_loss
from detector.ops import boxes as box_ops
from detector.preprocess import Frame, Inputs
from detector.proposals.anchors import anchor_grid, corner_anchors
from detector.proposals.given import GivenProposals
from detector.proposals.rpn import RPN, KeepCounts
from detector.structures import Instances, Mean, Proposals
from tests.peak_memory import peak_growth_kb

PUBLISHED: dict[str, Any] = {
    "in_channels": 8,
    "channels": 16,
    "separable": False,
    "strides": (16,),
    "scales": (2.0, 4.0),
    "aspects": (0.5, 1.0, 2.0),
    "as_torchvision": False,
    "train_keep": KeepCounts(200, 50),
    "test_keep": KeepCounts(100, 20),
    "nms_iou": 0.7,
    "min_size": 16.0,
    "positive_iou": 0.7,
    "negative_iou": 0.3,
    "anchors_per_image": 256,
    "positive_fraction": 0.5,
    "overlap_loss": None,
    "sigma": 3.0,
    "use_difficult": True,
}
FRAME = Frame(128, 160, 1.0, 1.0)


def make_rpn(**changes: Any) -> RPN:
    torch.manual_seed(0)
    return RPN(**{**PUBLISHED, **changes})


def objects(*boxes: list[float], difficult: list[bool] | None = None) -> Instances:
    flags = [False] * len(boxes) if difficult is None else difficult
    return Instances(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.ones(len(boxes), dtype=torch.int64),
        torch.tensor(flags, dtype=torch.bool),
    )


def inputs_of(*instances: Instances, frame: Frame = FRAME) -> Inputs:
    count = len(instances)
    return Inputs(torch.zeros(count, 3, 128, 160), [frame] * count, list(instances), None, list(range(count)))


def loop_assign(anchors: Tensor, truths: Tensor, frame: Frame) -> list[int]:
    """Assign as anchor_target_layer.py: negatives, then the best anchors of each object, then the high overlaps."""
    inside = [
        i
        for i, (x1, y1, x2, y2) in enumerate(anchors.tolist())
        if x1 >= 0 and y1 >= 0 and x2 <= frame.width and y2 <= frame.height
    ]
    labels = [-1] * len(anchors)
    if not len(truths):
        for i in inside:
            labels[i] = 0
        return labels
    overlaps = box_ops.iou(anchors, truths)
    for i in inside:
        if overlaps[i].max() < 0.3:
            labels[i] = 0
    for column in overlaps.T:
        best = max((float(column[i]) for i in inside), default=0.0)
        for i in inside:
            if best > 0 and float(column[i]) == best:
                labels[i] = 1
    for i in inside:
        if overlaps[i].max() >= 0.7:
            labels[i] = 1
    return labels


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 6))
def test_assignment_equals_a_loop(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 90
    truths = torch.cat((low, low + 8 + 60 * torch.rand(count, 2, generator=generator)), dim=1).round()
    rpn = make_rpn()
    anchors = anchor_grid(rpn.bases[0], 8, 10, (16, 16))
    labels, matched = rpn.assign(anchors, objects(*truths.tolist()), FRAME)
    assert labels.tolist() == loop_assign(anchors, truths, FRAME)
    if count:
        best = box_ops.iou(anchors, truths).argmax(dim=1)
        assert torch.equal(matched[labels > 0], truths[best][labels > 0])


def anchors_of(*boxes: list[float]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32)


def test_all_anchors_with_the_best_overlap_of_an_object_are_positive_even_if_it_is_small() -> None:
    anchors = anchors_of([0, 0, 40, 40], [40, 0, 80, 40], [0, 80, 40, 120])
    labels, _ = make_rpn().assign(anchors, objects([35, 0, 45, 40]), FRAME)
    assert labels.tolist() == [1, 1, 0]  # the overlap of each is only 0.11


def test_the_best_anchor_of_an_object_is_positive_even_below_the_background_threshold() -> None:
    labels, _ = make_rpn().assign(anchors_of([0, 0, 100, 100]), objects([0, 0, 10, 10]), FRAME)
    assert labels.tolist() == [1]


def test_overlaps_between_the_thresholds_are_ignored() -> None:
    anchors = anchors_of([0, 0, 40, 40], [0, 0, 40, 20], [0, 0, 40, 11])
    labels, _ = make_rpn().assign(anchors, objects([0, 0, 40, 40]), FRAME)
    assert labels.tolist() == [1, -1, 0]


def test_anchors_that_cross_the_border_are_ignored() -> None:
    anchors = anchors_of([-1, 0, 40, 40], [0, 0, 40, 40], [100, 0, 161, 40], [100, 88, 160, 128])
    labels, _ = make_rpn().assign(anchors, objects([0, 0, 40, 40]), FRAME)
    assert labels.tolist() == [-1, 1, -1, 0]


def test_an_object_that_overlaps_no_anchor_makes_no_anchor_positive() -> None:
    """Here py-faster-rcnn compares with a best overlap of 0, and makes every anchor positive."""
    labels, _ = make_rpn().assign(anchors_of([0, 0, 40, 40], [50, 50, 90, 90]), objects([120, 100, 130, 110]), FRAME)
    assert labels.tolist() == [0, 0]


def test_an_image_without_objects_is_all_background() -> None:
    labels, _ = make_rpn().assign(anchors_of([0, 0, 40, 40], [-5, 0, 40, 40]), objects(), FRAME)
    assert labels.tolist() == [0, -1]


def test_difficult_objects_are_used_only_if_use_difficult_is_set() -> None:
    anchors, difficult = anchors_of([0, 0, 40, 40]), objects([0, 0, 40, 40], difficult=[True])
    assert make_rpn().assign(anchors, difficult, FRAME)[0].tolist() == [1]
    assert make_rpn(use_difficult=False).assign(anchors, difficult, FRAME)[0].tolist() == [0]


@pytest.mark.parametrize("tile_bytes", [1, 1 << 12, 64 << 20])
def test_tiles_do_not_change_the_assignment(tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rpn = make_rpn()
    anchors = anchor_grid(rpn.bases[0], 8, 10, (16, 16))
    truths = objects(*[[7.0 * i, 5.0 * i, 7.0 * i + 40, 5.0 * i + 30] for i in range(12)])
    expected, matched = rpn.assign(anchors, truths, FRAME)
    monkeypatch.setattr(box_ops, "TILE_BYTES", tile_bytes)
    found, again = rpn.assign(anchors, truths, FRAME)
    assert torch.equal(found, expected)
    assert torch.equal(again, matched)


@pytest.mark.slow
def test_assigning_2000_boxes_to_250000_anchors_takes_under_500_megabytes() -> None:
    rpn = make_rpn(scales=(8.0, 16.0, 32.0))
    anchors = anchor_grid(rpn.bases[0], 160, 174, (16, 16))
    assert len(anchors) > 250_000
    low = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) * 2000
    truths = torch.cat((low, low + 100), dim=1)
    instances, frame = objects(*truths.tolist()), Frame(2560, 2784, 1.0, 1.0)
    assert peak_growth_kb(lambda: rpn.assign(anchors, instances, frame)) < 500_000


def test_256_anchors_are_sampled_at_most_half_of_them_positive() -> None:
    rpn = make_rpn()
    labels = torch.tensor([1] * 300 + [0] * 2000 + [-1] * 500)
    chosen = labels[rpn.sampling.priority(labels, 0) > 0]
    assert ((chosen > 0).sum(), (chosen == 0).sum()) == (128, 128)
    few = torch.tensor([1] * 3 + [0] * 2000)
    chosen = few[rpn.sampling.priority(few, 0) > 0]
    assert ((chosen > 0).sum(), (chosen == 0).sum()) == (3, 253)


def loop_rpn_losses(
    scores: Tensor, deltas: Tensor, labels: list[int], targets: Tensor, sigma: float
) -> tuple[float, float]:
    """Return both losses, averaged over the sampled anchors."""
    classification = box = 0.0
    count = 0
    for (background, foreground), delta, label, target in zip(
        scores.tolist(), deltas.tolist(), labels, targets.tolist(), strict=True
    ):
        if label < 0:
            continue
        count += 1
        classification += math.log(math.exp(background) + math.exp(foreground)) - (foreground if label else background)
        for found, wanted in zip(delta, target, strict=True):
            error = abs(found - wanted)
            quadratic = error < 1 / sigma**2
            box += label * (0.5 * (sigma * error) ** 2 if quadratic else error - 0.5 / sigma**2)
    return classification / max(1, count), box / max(1, count)


def values(losses: dict[str, Mean]) -> dict[str, Tensor]:
    return {name: mean.value() for name, mean in losses.items()}


def test_losses_equal_a_loop_over_the_anchors() -> None:
    rpn = make_rpn()
    torch.nn.init.normal_(rpn.deltas.weight, std=0.3)
    torch.nn.init.normal_(rpn.scores.weight, std=0.3)
    instances = [objects([10, 10, 60, 60], [70, 30, 150, 100]), objects([40, 20, 90, 90])]
    features = torch.randn(2, 8, 8, 10)
    found = values(rpn([features], inputs_of(*instances)).losses)
    with torch.no_grad():
        hidden = rpn.conv(features).relu()
        scores = rpn.scores(hidden).reshape(2, 6, 2, 8, 10).permute(0, 3, 4, 1, 2).reshape(2, -1, 2)
        deltas = rpn.deltas(hidden).reshape(2, 6, 4, 8, 10).permute(0, 3, 4, 1, 2).reshape(2, -1, 4)
    anchors = anchor_grid(rpn.bases[0], 8, 10, (16, 16))
    labels: list[int] = []
    targets = []
    for seed, item in enumerate(instances):
        label, truth = rpn.assign(anchors, item, FRAME)
        sampled = rpn.sampling.priority(label, seed + 1) > 0
        labels += torch.where(sampled, label, -1).tolist()
        targets.append(box_ops.encode(truth, anchors))
    expected = loop_rpn_losses(scores.flatten(0, 1), deltas.flatten(0, 1), labels, torch.cat(targets), 3.0)
    assert found["loss_rpn_cls"].item() == pytest.approx(expected[0], rel=1e-4)
    assert found["loss_rpn_box"].item() == pytest.approx(expected[1], rel=1e-4)
    assert expected[1] > 0


@pytest.mark.parametrize(
    ("overlap_loss", "torchvision"), [(giou_loss, generalized_box_iou_loss), (ciou_loss, complete_box_iou_loss)]
)
def test_overlap_losses_are_those_of_the_decoded_anchors(overlap_loss: OverlapLoss, torchvision: OverlapLoss) -> None:
    rpn = make_rpn(overlap_loss=overlap_loss)
    torch.nn.init.normal_(rpn.deltas.weight, std=0.3)
    instances = [objects([10, 10, 60, 60], [70, 30, 150, 100]), objects([40, 20, 90, 90])]
    features = torch.randn(2, 8, 8, 10)
    found = values(rpn([features], inputs_of(*instances)).losses)
    with torch.no_grad():
        hidden = rpn.conv(features).relu()
        deltas = rpn.deltas(hidden).reshape(2, 6, 4, 8, 10).permute(0, 3, 4, 1, 2).reshape(2, -1, 4).double()
    anchors = anchor_grid(rpn.bases[0], 8, 10, (16, 16))
    total, count = 0.0, 0
    for index, item in enumerate(instances):
        label, truth = rpn.assign(anchors, item, FRAME)
        label = torch.where(rpn.sampling.priority(label, index + 1) > 0, label, -1)
        count += int((label >= 0).sum())
        decoded = box_ops.decode(deltas[index], anchors.double())
        total += float(torchvision(decoded, truth.double())[label > 0].sum())
    assert total > 0
    assert found["loss_rpn_box"].item() == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("overlap_loss", [None, giou_loss, ciou_loss])
def test_without_objects_the_box_loss_is_an_exact_zero_and_gradients_exist(overlap_loss: OverlapLoss | None) -> None:
    rpn = make_rpn(overlap_loss=overlap_loss)
    losses = values(rpn([torch.randn(1, 8, 8, 10)], inputs_of(objects())).losses)
    assert losses["loss_rpn_box"].item() == 0
    (losses["loss_rpn_cls"] + losses["loss_rpn_box"]).backward()
    for name, parameter in rpn.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all()
    assert rpn.deltas.weight.grad is not None
    assert (rpn.deltas.weight.grad == 0).all()


def test_an_image_smaller_than_every_anchor_gives_zeros_and_gradients() -> None:
    rpn = make_rpn(scales=(8.0, 16.0))
    frame = Frame(32, 32, 1.0, 1.0)
    losses = values(rpn([torch.randn(1, 8, 2, 2)], inputs_of(objects([2, 2, 20, 20]), frame=frame)).losses)
    total = losses["loss_rpn_cls"] + losses["loss_rpn_box"]
    assert total.item() == 0
    total.backward()
    assert all(parameter.grad is not None for parameter in rpn.parameters())


def test_proposals_have_no_gradient_and_are_inside_sorted_and_suppressed() -> None:
    rpn = make_rpn()
    torch.nn.init.normal_(rpn.scores.weight, std=0.5)
    torch.nn.init.normal_(rpn.deltas.weight, std=0.1)
    output = rpn([torch.randn(2, 8, 8, 10)], inputs_of(objects([10, 10, 60, 60]), objects()))
    for item in output.proposals:
        assert not item.boxes.requires_grad
        assert 0 < len(item) <= 50
        assert (item.boxes >= 0).all()
        assert (item.boxes[:, 2] <= 160).all()
        assert (item.boxes[:, 3] <= 128).all()
        sides = torch.minimum(item.boxes[:, 2] - item.boxes[:, 0], item.boxes[:, 3] - item.boxes[:, 1])
        assert (sides >= 16).all()
        assert (item.scores.diff() <= 0).all()
        overlaps = box_ops.iou(item.boxes, item.boxes).fill_diagonal_(0)
        assert overlaps.max() <= 0.7 + 1e-6


def test_training_and_evaluation_keep_different_numbers_of_proposals() -> None:
    rpn = make_rpn(nms_iou=0.99)
    features = torch.randn(1, 8, 8, 10)
    assert len(rpn([features], inputs_of(objects())).proposals[0]) == 50
    output = rpn.eval()([features], inputs_of(objects()))
    assert len(output.proposals[0]) == 20
    assert output.losses == {}


def test_the_minimum_size_follows_the_scale_of_the_image() -> None:
    rpn = make_rpn(nms_iou=1.0, test_keep=KeepCounts(1000, 1000)).eval()
    features = torch.zeros(1, 8, 8, 10)
    large = rpn([features], inputs_of(objects(), frame=Frame(128, 160, 2.0, 2.0))).proposals[0]
    small = rpn([features], inputs_of(objects(), frame=Frame(128, 160, 0.5, 0.5))).proposals[0]
    for item, smallest in ((large, 32), (small, 8)):
        sides = torch.minimum(item.boxes[:, 2] - item.boxes[:, 0], item.boxes[:, 3] - item.boxes[:, 1])
        assert sides.min() >= smallest
    assert len(large) < len(small)


def test_each_image_is_processed_independently() -> None:
    rpn = make_rpn()
    torch.nn.init.normal_(rpn.scores.weight, std=0.5)
    features = torch.randn(2, 8, 8, 10)
    instances = [objects([10, 10, 60, 60]), objects([40, 20, 90, 90])]
    together = rpn([features], inputs_of(*instances))
    for index in range(2):
        alone = rpn([features[index : index + 1]], inputs_of(instances[index])._replace(seeds=[index]))
        torch.testing.assert_close(together.proposals[index].boxes, alone.proposals[0].boxes)


def test_given_proposals_are_clipped_to_the_image() -> None:
    boxes = torch.tensor([[-5.0, -5, 20, 20], [100, 100, 200, 200]])
    inputs = inputs_of(objects())._replace(proposals=[Proposals(boxes, torch.zeros(2))])
    (clipped,) = GivenProposals()(torch.zeros(1, 8, 8, 10), inputs).proposals
    assert clipped.boxes.tolist() == [[0, 0, 20, 20], [100, 100, 160, 128]]


def test_missing_proposals_are_an_error_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="pass proposals in Batch.proposals or build the detector with proposals=rpn"):
        GivenProposals()(torch.zeros(1, 8, 8, 10), inputs_of(objects()))


def test_levels_share_weights_and_the_best_proposals_of_all_levels_are_kept() -> None:
    rpn = make_rpn(strides=(8, 16), test_keep=KeepCounts(100, 20)).eval()
    features = [torch.randn(1, 8, 16, 20), torch.randn(1, 8, 8, 10)]
    (found,) = rpn(features, inputs_of(objects())).proposals
    single = [make_rpn(strides=(stride,)).eval() for stride in (8, 16)]
    each = [one([level], inputs_of(objects())).proposals[0] for one, level in zip(single, features, strict=True)]
    scores = torch.cat([item.scores for item in each]).sort(descending=True).values
    assert torch.equal(found.scores, scores[:20])
    for box in found.boxes:
        assert any((item.boxes == box).all(dim=1).any() for item in each)


def test_losses_sample_from_the_anchors_of_all_levels() -> None:
    rpn = make_rpn(strides=(8, 16), anchors_per_image=64)
    losses = rpn([torch.randn(2, 8, 16, 20), torch.randn(2, 8, 8, 10)], inputs_of(objects([20, 20, 60, 60]), objects()))
    assert losses.losses["loss_rpn_cls"].normalizer == 128
    losses.losses["loss_rpn_cls"].sum.backward()
    assert rpn.scores.weight.grad is not None


def test_corner_anchors_equal_those_of_torchvision() -> None:
    theirs = AnchorGenerator(tuple((8 * s,) for s in (4, 8, 16)), ((0.5, 1.0, 2.0),) * 3)
    for stride, cell in zip((4, 8, 16), theirs.cell_anchors, strict=True):
        assert torch.equal(corner_anchors(stride, (8.0,), (0.5, 1.0, 2.0)), cell)
