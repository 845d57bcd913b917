"""The level of a RoI: against torchvision's mapper, against one RoI at a time, and with each head."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.poolers import LevelMapper

from detector.heads.fast_rcnn import FastRCNNHead
from detector.heads.levels import levels_of, pool_levels
from detector.heads.light_head import LightHead
from detector.heads.rfcn import PSPooling, RFCNHead
from detector.ops import boxes as box_ops
from detector.ops import roi_align, roi_pool

STRIDES = (4, 8, 16, 32)


def boxes_of_all_sizes(count: int = 200) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sides = 2 ** (12 * torch.rand(count, 2, generator=generator))
    corner = 100 * torch.rand(count, 2, generator=generator)
    return torch.cat((corner, corner + sides), dim=1)


def test_levels_equal_those_of_torchvision() -> None:
    edges = torch.tensor([[0.0, 0, side, side] for side in (0, 1, 111.99, 112, 223.99, 224, 447.99, 448, 5000)])
    boxes = [boxes_of_all_sizes(), edges]
    mapper = LevelMapper(2, 5)
    found = levels_of(boxes, STRIDES)
    assert found is not None
    assert torch.equal(found, mapper(boxes))
    assert set(found.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(("side", "stride"), [(60, 8), (112, 8), (224, 16), (448, 32), (1000, 32)])
def test_a_roi_of_the_canonical_size_reads_stride_16(side: float, stride: int) -> None:
    found = levels_of([torch.tensor([[5.0, 5, 5 + side, 5 + side]])], (8, 16, 32))
    assert found is not None
    assert (8, 16, 32)[int(found)] == stride


def test_one_map_has_no_levels() -> None:
    assert levels_of([boxes_of_all_sizes()], (16,)) is None


def pyramid(channels: int, images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(images, channels, 256 // s, 320 // s, generator=generator) for s in STRIDES]


def test_pooling_from_levels_equals_pooling_each_roi_from_its_map() -> None:
    maps = [level.requires_grad_() for level in pyramid(3)]
    boxes = [boxes_of_all_sizes(20), boxes_of_all_sizes(7)]
    rois, levels = box_ops.to_rois(boxes), levels_of(boxes, STRIDES)
    assert levels is not None

    def pool(features: Tensor, some: Tensor, scale: float) -> Tensor:
        return roi_align(features, some, 2, scale, sampling_ratio=2)

    pooled = pool_levels(maps, rois, levels, STRIDES, pool)
    alone = torch.cat([pool(maps[k], roi[None], 1 / STRIDES[k]) for k, roi in zip(levels.tolist(), rois, strict=True)])
    torch.testing.assert_close(pooled, alone)
    weights = torch.randn_like(pooled)
    found = torch.autograd.grad((pooled * weights).sum(), maps)
    for one, other in zip(found, torch.autograd.grad((alone * weights).sum(), maps), strict=True):
        torch.testing.assert_close(one, other)


def fast_rcnn(strides: tuple[int, ...]) -> FastRCNNHead:
    torch.manual_seed(0)
    tail = nn.Sequential(nn.Flatten(), nn.Linear(5 * 9, 20), nn.ReLU())
    return FastRCNNHead(
        num_classes=4, reduce=None, tail=tail, tail_channels=20, strides=strides, pooling=roi_pool, distinct=None,
        output_size=3, inclusive=True, class_agnostic=False,
    )  # fmt: skip


def rfcn(strides: tuple[int, ...]) -> RFCNHead:
    torch.manual_seed(0)
    return RFCNHead(
        num_classes=4, in_channels=5, channels=8, strides=strides, k=3, pooling=PSPooling.published(),
        class_agnostic=True,
    )  # fmt: skip


def light_head(strides: tuple[int, ...]) -> LightHead:
    torch.manual_seed(0)
    head = LightHead(
        num_classes=4, in_channels=5, mid_channels=4, channels=2, kernel=5, fc_channels=20, strides=strides, k=3,
        pooling=PSPooling.aligned().bins, inclusive=False, class_agnostic=True,
    )  # fmt: skip
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return head


@pytest.mark.parametrize("make", [fast_rcnn, light_head, rfcn])
def test_a_head_over_levels_equals_a_head_on_the_map_of_each_roi(make: type) -> None:
    """The same weights on one map, RoI by RoI."""
    maps, boxes = pyramid(5, images=1), [boxes_of_all_sizes(12)]
    head = make(STRIDES)
    found = head(head.maps(maps), boxes)
    levels = levels_of(boxes, STRIDES)
    assert levels is not None
    for index, level in enumerate(levels.tolist()):
        single = make((STRIDES[level],))
        alone = single(single.maps([maps[level]]), [boxes[0][index : index + 1]])
        torch.testing.assert_close(alone.logits[0], found.logits[index])
        torch.testing.assert_close(alone.deltas[0], found.deltas[index])


@pytest.mark.parametrize("make", [fast_rcnn, light_head, rfcn])
def test_no_rois_over_levels_give_no_predictions_and_zero_gradients(make: type) -> None:
    head = make(STRIDES)
    logits, deltas = head(head.maps(pyramid(5)), [torch.zeros(0, 4)] * 2)
    assert logits.shape[0] == deltas.shape[0] == 0
    (logits.sum() + deltas.sum()).backward()
    assert all(parameter.grad is not None and (parameter.grad == 0).all() for parameter in head.parameters())


def test_votes_are_returned_only_for_boxes_on_one_map() -> None:
    head, small = rfcn(STRIDES), torch.tensor([[8.0, 8, 40, 40], [0, 0, 230, 230]])
    maps = head.maps(pyramid(5, images=1))
    votes = head.votes(maps, [small[1:]])
    assert votes.stride == 16
    torch.testing.assert_close(votes.bins.mean(dim=(2, 3)), head(maps, [small[1:]]).logits)
    with pytest.raises(ValueError, match="boxes that read 2 maps"):
        head.votes(maps, [small])
