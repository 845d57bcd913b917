"""Each rule of the plan, on a small data set that triggers it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from detector.configs.compose import load_config
from detector.datasets.sample import Annotation
from detector.pipeline.planning import rules
from detector.pipeline.planning.anchors import AnchorShapes, fit_anchors
from detector.pipeline.planning.fingerprint import Fingerprint, take_fingerprint
from detector.pipeline.planning.machine import Machine
from detector.pipeline.planning.rules import Given, Parts, mosaic_rules, plan_settings

CPU = Machine("cpu", cores=2, threads=2, fast_bf16=True, memory_gib=0.0)
OLD_CPU = Machine("cpu", cores=2, threads=2, fast_bf16=False, memory_gib=0.0)
SERVER = Machine("cpu", cores=16, threads=16, fast_bf16=True, memory_gib=0.0)
ONE_CORE = Machine("cpu", cores=1, threads=1, fast_bf16=True, memory_gib=0.0)
GPU = Machine("cuda", cores=16, threads=16, fast_bf16=True, memory_gib=80.0)
MOBILENET = {2: "features.1", 4: "features.3", 8: "features.6", 16: "features.13", 32: "features.18"}
NOTHING = Given()
BOX = (100.0, 100.0, 300.0, 300.0)


def data_of(
    *images: list[tuple[float, float, float, float]], size: tuple[int, int] = (800, 600), label: int = 1
) -> Fingerprint:
    """Return the fingerprint of images of one size, with boxes of one class."""
    width, height = size
    annotations = []
    for number, boxes in enumerate(images):
        flags = torch.zeros(len(boxes), dtype=torch.bool)
        annotations.append(
            Annotation(
                image_id=str(number),
                width=width,
                height=height,
                boxes=torch.tensor(boxes).reshape(-1, 4),
                labels=torch.full((len(boxes),), label),
                difficult=flags,
                truncated=flags,
                occluded=flags,
            )
        )
    return take_fingerprint(annotations, ("a", "b"))


def plan(data: Fingerprint, machine: Machine = CPU, given: Given = NOTHING, **parts: Any) -> dict[str, Any]:
    usual = {"head": "fast_rcnn", "proposals": "rpn", "optimizer": "adamw", "weights": True, "nodes": MOBILENET}
    chosen = {**usual, **parts}
    return {choice.key: choice.value for choice in plan_settings(data, machine, Parts(**chosen), given)}


def squares(side: float, *, count: int = 1) -> list[tuple[float, float, float, float]]:
    return [(20.0 * k, 10.0, 20.0 * k + side, 10.0 + side) for k in range(count)]


def test_anchors_of_a_large_data_set_are_fitted_to_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, fitted = np.random.default_rng(0), []

    def spy(widths: np.ndarray, heights: np.ndarray, stride: int) -> AnchorShapes:
        fitted.append(len(widths))
        return fit_anchors(widths, heights, stride)

    monkeypatch.setattr(rules, "fit_anchors", spy)
    sides = rng.choice([0.2, 0.4], 100_000)
    scales = plan(replace(data_of(squares(300)), widths=sides, heights=sides))["proposals.scales"]
    assert fitted == [5 * rules.SAMPLED], "five training sizes"
    assert len(scales) == 2


def test_large_objects_need_small_images_and_a_coarse_map() -> None:
    values = plan(data_of(squares(300), squares(350)))
    assert values["input.test_short_side"] == 320
    assert values["backbone.node"] == "features.13"
    assert "backbone.deeper_nodes" not in values
    assert "proposals.separable" not in values


def test_small_objects_need_a_fine_map_joined_with_the_coarse_map() -> None:
    values = plan(data_of(squares(40), squares(45)))  # 0.07 of the shorter side: 34 pixels at 480
    assert values["backbone.node"] == "features.6"
    assert values["backbone.deeper_nodes"] == ["features.13"]
    assert 400 <= values["input.test_short_side"] <= 480


def test_tiny_objects_get_the_largest_images() -> None:
    assert plan(data_of(squares(8)))["input.test_short_side"] == 480
    assert plan(data_of(squares(8)), GPU)["input.test_short_side"] == 800


def test_objects_below_one_cell_are_called_too_small() -> None:
    def reason(side: float) -> str:
        parts = Parts(head="fast_rcnn", proposals="rpn", optimizer="adamw", weights=True, nodes=MOBILENET)
        choices = plan_settings(data_of(squares(side)), CPU, parts, NOTHING)
        return next(choice.reason for choice in choices if choice.key == "input.test_short_side")

    assert "too small to detect" in reason(8)  # 6.4 pixels at 480
    assert "too small" not in reason(12)


def test_proposals_may_be_as_thin_as_the_objects() -> None:
    assert plan(data_of(squares(4)))["proposals.min_size"] == 2.0
    assert plan(data_of(*[[(0.0, 0.0, 200.0, 1.0)]] * 12))["proposals.min_size"] == 0.5


def test_training_sizes_lie_around_the_test_size() -> None:
    values = plan(data_of(squares(300)))
    sides = values["input.short_sides"]
    assert min(sides) < values["input.test_short_side"] < max(sides)
    assert all(side % 16 == 0 for side in sides)


def test_large_photographs_are_downscaled_with_antialiasing() -> None:
    assert plan(data_of(squares(300)))["input.antialias"] is True


@pytest.mark.parametrize(
    ("epochs", "size", "proposals", "mosaic"),
    [
        (12.0, (800, 600), "rpn", 0.5),
        (11.9, (800, 600), "rpn", None),
        (40.0, (4000, 3000), "rpn", None),
        (40.0, (800, 600), "file", None),
    ],
)
def test_images_seen_often_are_joined_to_mosaics_if_that_costs_little(
    epochs: float, size: tuple[int, int], proposals: str, mosaic: float | None
) -> None:
    def chosen(head: str) -> dict[str, Any]:
        parts = Parts(head, proposals, "adamw", weights=True, nodes=MOBILENET)
        return {choice.key: choice.value for choice in mosaic_rules(data_of(squares(300), size=size), parts, epochs)}

    assert chosen("fast_rcnn") == ({} if mosaic is None else {"input.mosaic": mosaic, "loss.box": "giou"})
    assert "loss.box" not in chosen("rfcn")


def test_similar_boxes_vote() -> None:
    assert plan(data_of(squares(300)))["postprocess.box_voting"] == 0.75


@pytest.mark.parametrize(
    ("size", "machine", "workers"),
    [
        ((800, 600), CPU, 0),
        ((4000, 3000), CPU, 1),
        ((4000, 3000), ONE_CORE, 0),
        ((4000, 3000), SERVER, 8),
    ],
)
def test_large_photographs_are_decoded_by_another_process(
    size: tuple[int, int], machine: Machine, workers: int
) -> None:
    assert plan(data_of(squares(300), size=size), machine)["trainer.workers"] == workers


def test_the_longer_side_is_not_cut_for_panoramas() -> None:
    values = plan(data_of(squares(300), size=(2400, 600)))
    assert values["input.max_side"] >= 4 * max(values["input.short_sides"])


@pytest.mark.parametrize("size", [(5000, 20), (20, 5000), (1000, 1)])
def test_the_longer_side_of_very_long_images_is_limited(size: tuple[int, int]) -> None:
    width, height = size
    values = plan(data_of(*[[(0.0, 0.0, min(40.0, width), min(40.0, height))]] * 12, size=size))
    assert values["input.max_side"] <= 8.5 * max(values["input.short_sides"])
    # The network sees the object at this size, whatever the short side: the longer side decides.
    side = (min(40, width) * min(40, height)) ** 0.5 * values["input.max_side"] / max(size)
    stride = 8 if values["backbone.node"] == "features.6" else 16
    nearest = min(abs(stride * scale / side - 1) for scale in values["proposals.scales"])
    assert nearest < 0.3


def test_anchors_have_the_shapes_of_the_objects() -> None:
    tall = plan(data_of(*[[(100.0, 100.0, 200.0, 400.0)]] * 12))
    assert min(tall["proposals.aspects"]) > 2
    both = plan(data_of(*[squares(60), squares(500)] * 6))
    assert max(both["proposals.scales"]) > 4 * min(both["proposals.scales"])


def test_images_with_many_objects_get_more_proposals_and_detections() -> None:
    few, many = plan(data_of(squares(60))), plan(data_of(squares(15, count=90), size=(1900, 600)))
    assert (few["proposals.top_k_test"], few["postprocess.max_per_image"]) == (300, 100)
    assert (many["proposals.top_k_test"], many["postprocess.max_per_image"]) == (900, 180)
    crowd = plan(data_of(squares(15, count=900), size=(18100, 4000)))
    assert (crowd["proposals.top_k_test"], crowd["postprocess.max_per_image"]) == (1800, 1800)


@pytest.mark.parametrize(("shift", "expected"), [(600.0, 0.4), (67.0, 0.6)])
def test_the_nms_threshold_follows_the_overlap_of_objects(shift: float, expected: float) -> None:
    """Two squares of side 200: far apart, or shifted by a third, which gives an IoU of 0.5."""
    x1, y1, x2, y2 = BOX
    pair = [BOX, (x1 + shift, y1, x2 + shift, y2)]
    assert plan(data_of(*[pair] * 5, size=(1200, 600)))["postprocess.nms_iou"] == expected


def test_without_weights_everything_learns_under_group_norm() -> None:
    values = plan(data_of(squares(300)), weights=False)
    assert values["backbone.norm"] == "gn"
    assert values["backbone.frozen_nodes"] is None
    assert plan(data_of(squares(300)))["backbone.frozen_nodes"] == "features.3"


def test_a_backbone_without_nodes_gets_no_node_settings() -> None:
    assert not [key for key in plan(data_of(squares(300)), nodes={}) if key.startswith("backbone.node")]


@pytest.mark.parametrize(
    ("machine", "node", "channels", "deeper"),
    [
        (CPU, "features.6", 128, ["features.13", "features.18"]),
        (GPU, "features.3", 256, ["features.6", "features.13", "features.18"]),
    ],
)
def test_a_pyramid_reads_a_map_of_each_stride(machine: Machine, node: str, channels: int, deeper: list[str]) -> None:
    values = plan(data_of(squares(60), squares(500)), machine, pyramid=True)
    assert (values["backbone.node"], values["backbone.deeper_nodes"]) == (node, deeper)
    assert values["neck.channels"] == values["proposals.channels"] == channels
    assert values["backbone.frozen_nodes"] == "features.3"
    assert max(values["proposals.scales"]) <= 8, "coarser levels have the larger anchors"
    assert values["proposals.pre_nms_train"] == 2000
    assert "backbone.joined_separable" not in values
    assert "proposals.separable" not in values


def test_a_pyramid_over_a_backbone_without_nodes_starts_at_stride_4() -> None:
    """Squares of 16 pixels fit anchors of 4 cells of stride 4, and no anchor of a coarser level."""
    small = data_of(*[squares(16)] * 9, size=(480, 480))
    values = plan(small, pyramid=True, nodes={})
    assert values["proposals.scales"] == [4.0]
    assert values["neck.channels"] == values["proposals.channels"]
    assert "backbone.node" not in values


def test_each_head_has_its_own_values() -> None:
    fast, rfcn = plan(data_of(squares(300))), plan(data_of(squares(300)), head="rfcn")
    assert (fast["head.pooling"], rfcn["head.pooling"]) == ("roi_align", "align")
    assert rfcn["head.k"] == 3
    assert "backbone.tail" not in rfcn
    deformable = plan(data_of(squares(300)), head="deformable_rfcn")
    assert deformable == {key: value for key, value in rfcn.items() if key != "head.pooling"}
    light = plan(data_of(squares(300)), head="light_head")
    assert (light["head.mid_channels"], light["head.fc_channels"]) == (64, 512)
    assert "head.kernel" not in light
    assert plan(data_of(squares(40)), head="light_head")["head.kernel"] == 7, "the map has a stride of 8"
    assert plan(data_of(squares(300)), head="light_head", pyramid=True)["head.kernel"] == 7, "so has the finest level"
    assert "backbone.tail" not in light


def test_a_head_without_rules_keeps_its_defaults() -> None:
    assert not [key for key in plan(data_of(squares(300)), head="mean") if key.startswith(("head.", "backbone.tail"))]


def test_settings_of_other_parts_are_not_planned() -> None:
    assert not [key for key in plan(data_of(squares(300)), proposals="grid") if key.startswith("proposals.")]
    assert "optimizer.lr_factors" not in plan(data_of(squares(300)), proposals="grid")
    assert "optimizer.lr_factors" not in plan(data_of(squares(300)), optimizer="sgd")


def test_the_learning_rate_follows_the_images_per_step() -> None:
    data = data_of(*[squares(300)] * 10)
    cpu, gpu = plan(data), plan(data, GPU)
    assert (cpu["trainer.images_per_step"], gpu["trainer.images_per_step"]) == (2, 8)
    assert gpu["optimizer.lr"] == 2 * cpu["optimizer.lr"], "AdamW: the square root of the ratio"
    cpu, gpu = plan(data, optimizer="sgd"), plan(data, GPU, optimizer="sgd")
    assert gpu["optimizer.lr"] == 4 * cpu["optimizer.lr"]
    assert plan(data_of(squares(300)))["trainer.images_per_step"] == 1, "there is only one image"


def test_new_convolutions_learn_faster() -> None:
    data = data_of(squares(300))
    assert plan(data)["optimizer.lr_factors"].keys() == {"proposals"}
    for head in ("light_head", "rfcn"):
        assert plan(data, head=head)["optimizer.lr_factors"] == {"proposals": 4.0, "head": 4.0}
    assert plan(data, head="rfcn", proposals="grid")["optimizer.lr_factors"].keys() == {"head"}


def test_the_machine_decides_precision_workers_and_batch() -> None:
    data = data_of(*[squares(300)] * 10)
    keys = ("trainer.precision", "trainer.workers", "trainer.images_per_step")
    assert [plan(data, CPU)[key] for key in keys] == ["bf16", 0, 2]
    assert plan(data, OLD_CPU)["trainer.precision"] == "fp32"
    assert plan(data, SERVER)["trainer.workers"] == 8
    assert [plan(data, GPU)[key] for key in keys] == ["bf16", 8, 8]


@pytest.mark.parametrize("machine", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    ("head", "optimizer"),
    [
        ("fast_rcnn", "adamw"),
        ("light_head", "adamw"),
        ("rfcn", "adamw"),
        ("rfcn", "sgd"),
        ("deformable_rfcn", "adamw"),
    ],
)
@pytest.mark.parametrize("side", [10, 45, 300])
@pytest.mark.parametrize("neck", ["none", "fpn"])
def test_every_planned_setting_exists(machine: Machine, head: str, optimizer: str, side: int, neck: str) -> None:
    parts = Parts(head, "rpn", optimizer, weights=True, nodes=MOBILENET, pyramid=neck == "fpn")
    groups = ["dataset=auto", "backbone=mobilenet_v2", f"head={head}", "proposals=rpn", "sampling=random"]
    groups += [f"optimizer={optimizer}", f"neck={neck}"]
    choices = plan_settings(data_of(squares(side)), machine, parts, NOTHING)
    config = load_config([*groups, *(choice.override for choice in choices)])
    for choice in choices:
        group, _, key = choice.key.partition(".")
        value = getattr(getattr(config, group), key)
        assert getattr(value, "name", value) == choice.value
        assert choice.reason.strip()


def test_a_given_size_decides_the_training_sizes_and_the_anchors() -> None:
    data = data_of(squares(300), squares(350))
    free, large = plan(data), plan(data, given=Given(test_side=640))
    assert large["input.short_sides"] == [2 * side for side in free["input.short_sides"]]
    assert large["input.max_side"] >= max(large["input.short_sides"]) * 4 / 3
    assert large["proposals.scales"] == pytest.approx([2 * scale for scale in free["proposals.scales"]], abs=0.02)
    trained = plan(data, given=Given(train_sides=(630,)))
    assert (trained["input.test_short_side"], trained["input.short_sides"]) == (630, [630])
    assert len(trained["proposals.scales"]) == 1


def test_anchors_fit_the_stride_that_the_backbone_has() -> None:
    """Small objects want a map of stride 8. A ResNet's map has stride 16."""
    data = data_of(squares(40), squares(45))
    free, fixed = plan(data), plan(data, nodes={}, given=Given(stride=16))
    assert [8 * scale for scale in free["proposals.scales"]] == pytest.approx(
        [16 * s for s in fixed["proposals.scales"]], rel=0.01
    )
    assert "proposals.separable" not in fixed


def test_a_given_output_of_the_backbone_stays_alone() -> None:
    values = plan(data_of(squares(40), squares(45)), given=Given(stride=16))
    assert not {"backbone.node", "backbone.deeper_nodes", "backbone.joined_separable"} & values.keys()
    assert values["backbone.frozen_nodes"] == "features.3"


def test_the_learning_rate_follows_given_images_per_step() -> None:
    data = data_of(*[squares(300)] * 10)
    assert plan(data, given=Given(images_per_step=8))["optimizer.lr"] == 2 * plan(data)["optimizer.lr"]
