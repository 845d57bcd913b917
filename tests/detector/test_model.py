"""The whole detector on small networks: losses against its parts joined by hand, and images without objects."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.model import Detector
from detector.structures import Batch, FeatureMaps, Instances, Losses, Proposals

SMALL = [
    "experiment=demo",
    "backbone.width=0.125",
    "backbone.tail_channels=32",
    "loss.targets=fixed",
    "input.max_side=200",
]
HEADS = {
    "fast_rcnn": ["head=fast_rcnn"],
    "reduced": ["head=fast_rcnn", "backbone.tail=fc", "head.channels=16"],
    "light_head": ["head=light_head", "head.k=3", "head.mid_channels=8", "head.fc_channels=32"],
    "rfcn": ["head=rfcn", "head.k=3", "head.channels=32"],
    "deformable_rfcn": ["head=deformable_rfcn", "head.k=3", "head.channels=32"],
}
SOURCES = {
    "given": ["proposals=grid"],
    "rpn": ["proposals=rpn", "proposals.scales=[1,2,4]", "proposals.channels=16", "proposals.top_k_train=100"],
}
SAMPLERS = {"random": ["sampling=random"], "ohem": ["sampling=ohem", "sampling.rois_per_image=32"]}


def make_detector(head: str = "fast_rcnn", source: str = "given", sampler: str = "random", *more: str) -> Detector:
    torch.manual_seed(0)
    overrides = [*SMALL, *HEADS[head], *SOURCES[source], *SAMPLERS[sampler], *more]
    return build_detector(load_config(overrides), num_classes=3)


def image_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 40
    return torch.cat((low, low + 12 + 30 * torch.rand(count, 2, generator=generator)), dim=1)


def make_batch(objects: list[int], proposals: list[int], seed: int = 0) -> Batch:
    """Return images of 64 x 96 with the given numbers of objects and proposals. Half the proposals are near objects."""
    generator = torch.Generator().manual_seed(seed)
    count = len(objects)
    instances, given = [], []
    for index in range(count):
        boxes = image_boxes(objects[index], seed + index)
        labels = torch.randint(1, 4, (objects[index],), generator=generator)
        instances.append(Instances(boxes, labels, torch.zeros(objects[index], dtype=torch.bool)))
        candidates = image_boxes(proposals[index], seed + 50 + index)
        if objects[index]:
            near = proposals[index] // 2
            candidates[:near] = boxes[torch.randint(objects[index], (near,), generator=generator)] + 2
        given.append(Proposals(candidates, torch.zeros(proposals[index])))
    pictures = [torch.randint(256, (3, 64, 96), dtype=torch.uint8, generator=generator) for _ in range(count)]
    return Batch(pictures, instances, given, [str(i) for i in range(count)], list(range(count)), [64] * count)


COMBINATIONS = list(itertools.product(HEADS, SOURCES, SAMPLERS))


@pytest.mark.parametrize(("head", "source", "sampler"), COMBINATIONS)
@pytest.mark.parametrize(
    ("objects", "proposals"), [([2, 3], [40, 30]), ([0, 2], [40, 0]), ([0, 0], [20, 20]), ([0, 0], [0, 0])]
)
def test_losses_are_finite_and_every_parameter_has_a_gradient(
    head: str, source: str, sampler: str, objects: list[int], proposals: list[int]
) -> None:
    """Also without objects or proposals: a process whose parameters get no gradient would block all others."""
    detector = make_detector(head, source, sampler).train()
    losses = detector(make_batch(objects, proposals))
    assert isinstance(losses, Losses)
    assert torch.isfinite(losses.total())
    losses.total().backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    if sum(objects) == 0:
        assert losses.parts["loss_box"].item() == 0
        if source == "given" and sampler == "random":  # an overlap of 0 is not background for Fast R-CNN
            assert losses.total().item() == 0


@pytest.mark.parametrize("box", ["smooth_l1", "giou", "ciou"])
def test_the_losses_equal_those_of_the_parts(box: str) -> None:
    """Both losses are divided by the number of sampled RoIs, foreground and background."""
    detector = make_detector("fast_rcnn", "given", "random", f"loss.box={box}").train()
    batch = make_batch([2, 3], [60, 50])
    losses = detector(batch)
    with torch.no_grad():
        inputs = detector.preprocess(batch)
        features = detector.backbone(inputs.images)
        proposed = detector.proposals(features.proposals, inputs).proposals
        candidates = [detector.matcher(*pair) for pair in zip(proposed, inputs.instances, strict=True)]
        sampled = detector.sampler(candidates, inputs.seeds, lambda _: [])
        labels = torch.cat(sampled.labels)
        boxes = torch.cat(sampled.boxes)
        targets = detector.coder.targets(boxes, labels, torch.cat(sampled.gt_boxes))
        predictions = detector.head(detector.head.maps(features.head), sampled.boxes)
        by_roi = detector.loss(predictions, targets, detector.coder)
    count = int((labels >= 0).sum())
    assert 0 < count <= 128
    torch.testing.assert_close(losses.parts["loss_cls"].detach(), by_roi.classification.sum() / count)
    torch.testing.assert_close(losses.parts["loss_box"].detach(), by_roi.box.sum() / count)
    assert losses.parts["loss_box"] > 0
    assert losses.counts["rois_foreground"] == (labels > 0).sum()
    assert losses.counts["rois_background"] == (labels == 0).sum()


MODERN = ["loss.label_smoothing=0.1", "loss.focal_gamma=1", "proposals.box_loss=giou"]


@pytest.mark.parametrize("box", ["giou", "ciou"])
@pytest.mark.parametrize(("head", "source", "sampler"), [("fast_rcnn", "rpn", "random"), ("rfcn", "rpn", "ohem")])
@pytest.mark.parametrize("objects", [[2, 3], [0, 0]])
def test_the_other_losses_are_finite_and_every_parameter_has_a_gradient(
    box: str, head: str, source: str, sampler: str, objects: list[int]
) -> None:
    detector = make_detector(head, source, sampler, f"loss.box={box}", "loss.box_weight=10", *MODERN).train()
    losses = detector(make_batch(objects, [40, 30]))
    losses.total().backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    for name in ("loss_box", "loss_rpn_box"):
        assert (losses.parts[name] > 0) == (sum(objects) > 0)


@pytest.mark.parametrize("box", ["smooth_l1", "giou", "ciou"])
def test_the_box_loss_falls_on_one_batch(box: str) -> None:
    """After some steps on the same images, the boxes of foreground RoIs agree with the objects."""
    detector = make_detector("fast_rcnn", "given", "random", f"loss.box={box}", "loss.targets=fixed").train()
    batch = make_batch([2, 3], [60, 50])
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        found = detector(batch)
        found.total().backward()
        optimizer.step()
        losses.append(found.parts["loss_box"].item())
    assert sum(losses[-3:]) < 0.4 * sum(losses[:3])


def test_class_weights_multiply_the_losses_of_their_class() -> None:
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    batch = make_batch([2, 3], [60, 50])
    config = load_config([*SMALL, *HEADS["fast_rcnn"], *SOURCES["given"], *SAMPLERS["random"]])
    torch.manual_seed(0)
    weighted = build_detector(config, 3, weights).train()(batch)
    plain = make_detector().train()(batch)
    assert 0 < weighted.parts["loss_cls"] < plain.parts["loss_cls"]
    assert weighted.parts["loss_box"] == plain.parts["loss_box"]


def test_the_box_loss_is_multiplied_by_its_weight() -> None:
    batch = make_batch([2, 3], [60, 50])
    once, twice = (
        make_detector("fast_rcnn", "given", "random", f"loss.box_weight={weight}")(batch) for weight in (1, 2)
    )
    torch.testing.assert_close(twice.parts["loss_box"], 2 * once.parts["loss_box"])
    torch.testing.assert_close(twice.parts["loss_cls"], once.parts["loss_cls"])


@pytest.mark.parametrize("more", [[], ["loss.box=giou", "loss.box_weight=10", "loss.focal_gamma=2"]])
def test_mining_trains_on_the_largest_losses_and_divides_the_box_loss_by_a_constant(more: list[str]) -> None:
    detector = make_detector("rfcn", "given", "ohem", "sampling.rois_per_image=16", *more).train()
    batch = make_batch([2, 1], [60, 50])
    losses = detector(batch)
    with torch.no_grad():
        inputs = detector.preprocess(batch)
        (maps,) = detector.head.maps(detector.backbone(inputs.images).head)
        assert inputs.proposals is not None
        classification, box = [], []
        for index, pair in enumerate(zip(inputs.proposals, inputs.instances, strict=True)):
            item = detector.matcher(*pair)
            of_image = tuple(part[index : index + 1] for part in maps)
            targets = detector.coder.targets(item.boxes, item.labels, item.gt_boxes)
            by_roi = detector.loss(detector.head([of_image], [item.boxes]), targets, detector.coder)
            hardest = (by_roi.classification + by_roi.box).argsort(descending=True)[:16]
            classification.append(by_roi.classification[hardest])
            box.append(by_roi.box[hardest])
    torch.testing.assert_close(losses.parts["loss_cls"].detach(), torch.cat(classification).mean())
    torch.testing.assert_close(losses.parts["loss_box"].detach(), torch.cat(box).sum() / 32)
    assert losses.means["loss_all_rois"].value() < losses.parts["loss_cls"] + losses.parts["loss_box"] + 1e-6


@pytest.mark.parametrize(("head", "source"), list(itertools.product(HEADS, SOURCES)))
def test_detections_are_inside_their_images_and_best_first(head: str, source: str) -> None:
    detector = make_detector(head, source, "random", "postprocess.score_threshold=0.0").eval()
    found = detector.detect(make_batch([0, 0], [30, 20]))
    assert len(found) == 2
    for item in found:
        assert 0 < len(item) <= 100
        assert (item.scores.diff() <= 0).all()
        assert ((item.labels >= 1) & (item.labels <= 3)).all()
        assert (item.boxes >= 0).all()
        assert (item.boxes[:, 2] <= 96 + 1e-3).all()
        assert (item.boxes[:, 3] <= 64 + 1e-3).all()


def test_an_image_without_proposals_has_no_detections_in_a_mixed_batch() -> None:
    detector = make_detector("fast_rcnn", "given", "random", "postprocess.score_threshold=0.0").eval()
    first, second = detector.detect(make_batch([0, 0], [0, 20]))
    assert len(first) == 0
    assert len(second) > 0
    assert [len(item) for item in detector.detect(make_batch([0, 0], [0, 0]))] == [0, 0]


def test_detections_do_not_depend_on_the_other_images_of_the_batch() -> None:
    detector = make_detector("fast_rcnn", "given", "random", "postprocess.score_threshold=0.0").eval()
    batch = make_batch([0, 0], [20, 25])
    assert batch.proposals is not None
    together = detector.detect(batch)
    for index in range(2):
        cut = slice(index, index + 1)
        alone = Batch(batch.images[cut], batch.instances[cut], batch.proposals[cut], batch.image_ids[cut], [0], [64])
        (found,) = detector.detect(alone)
        torch.testing.assert_close(found.boxes, together[index].boxes, rtol=1e-4, atol=1e-2)


class _FlatBackbone(nn.Module):
    """A backbone that averages each 16 x 16 cell."""

    def forward(self, images: Tensor) -> FeatureMaps:
        maps = nn.functional.avg_pool2d(images, 16)
        return FeatureMaps([maps], [maps])


def test_custom_parts_that_follow_the_protocols_can_be_joined() -> None:
    ready = make_detector()
    parts = {
        name: getattr(ready, name)
        for name in ("preprocess", "proposals", "matcher", "sampler", "coder", "loss", "postprocess")
    }
    head = type(ready.head)(
        num_classes=3, reduce=None, tail=nn.Flatten(), tail_channels=3 * 49, strides=(16,), pooling=ready.head.pooling,
        distinct=None, output_size=7, inclusive=True, class_agnostic=False,
    )  # fmt: skip
    detector = Detector(**parts, backbone=_FlatBackbone(), head=head)
    assert torch.isfinite(detector(make_batch([1, 1], [20, 20])).total())


def test_the_number_of_classes_changes_only_the_last_layers() -> None:
    config = load_config([*SMALL, *HEADS["fast_rcnn"]])
    three, five = (build_detector(config, count).state_dict() for count in (3, 5))
    changed = {key for key in three if three[key].shape != five[key].shape}
    assert changed == {
        "head.scores.weight", "head.scores.bias", "head.deltas.weight", "head.deltas.bias", "coder.mean", "coder.std",
    }  # fmt: skip
