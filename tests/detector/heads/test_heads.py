"""The heads against their papers: shapes, initial weights, and the dependence of outputs on inputs."""

import pytest
import torch
from torch import Tensor, nn

from detector.heads.deformable_rfcn import DeformableRFCNHead
from detector.heads.fast_rcnn import FastRCNNHead, reduction
from detector.heads.light_head import LightHead
from detector.heads.rfcn import PSPooling, RFCNHead
from detector.ops import boxes as box_ops
from detector.ops import deform_ps_roi_pool, roi_pool
from detector.ops.distinct import distinct_rois

BOXES = [torch.tensor([[0.0, 0, 64, 48], [16, 16, 80, 64]]), torch.zeros(0, 4), torch.tensor([[8.0, 8, 40, 40]])]


def fast_rcnn(class_agnostic: bool = False, channels: int | None = None) -> FastRCNNHead:
    torch.manual_seed(0)
    tail = nn.Sequential(nn.Flatten(), nn.Linear((channels or 5) * 9, 20), nn.ReLU())
    return FastRCNNHead(
        num_classes=4,
        reduce=None if channels is None else reduction(5, channels),
        tail=tail,
        tail_channels=20,
        strides=(16,),
        pooling=roi_pool,
        distinct=distinct_rois,
        output_size=3,
        inclusive=True,
        class_agnostic=class_agnostic,
    )


def rfcn(class_agnostic: bool = True, k: int = 3) -> RFCNHead:
    torch.manual_seed(0)
    return RFCNHead(
        num_classes=4,
        in_channels=5,
        channels=8,
        strides=(16,),
        k=k,
        pooling=PSPooling.published(),
        class_agnostic=class_agnostic,
    )


def light_head(class_agnostic: bool = True) -> LightHead:
    torch.manual_seed(0)
    head = LightHead(
        num_classes=4, in_channels=5, mid_channels=4, channels=2, kernel=3, fc_channels=20, strides=(16,), k=3,
        pooling=PSPooling.aligned().bins, inclusive=False, class_agnostic=class_agnostic,
    )  # fmt: skip
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return head


def deformable(class_agnostic: bool = True, k: int = 3, num_classes: int = 4) -> DeformableRFCNHead:
    torch.manual_seed(0)
    return DeformableRFCNHead(
        num_classes=num_classes,
        in_channels=5,
        channels=8,
        strides=(16,),
        k=k,
        offset_scale=0.1,
        sampling_ratio=4,
        class_agnostic=class_agnostic,
    )


def features(seed: int = 0) -> Tensor:
    return torch.randn(3, 5, 5, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("make", [fast_rcnn, light_head, rfcn, deformable])
def test_predictions_have_one_row_per_roi(make: type, class_agnostic: bool) -> None:
    head = make(class_agnostic)
    logits, deltas = head(head.maps([features()]), BOXES)
    assert logits.shape == (3, 5)
    assert deltas.shape == (3, 1 if class_agnostic else 4, 4)


@pytest.mark.parametrize("make", [fast_rcnn, light_head, rfcn, deformable])
def test_no_rois_give_no_predictions_and_zero_gradients(make: type) -> None:
    head = make()
    logits, deltas = head(head.maps([features()]), [torch.zeros(0, 4)] * 3)
    assert logits.shape[0] == deltas.shape[0] == 0
    (logits.sum() + deltas.sum()).backward()
    assert all(parameter.grad is not None and (parameter.grad == 0).all() for parameter in head.parameters())


@pytest.mark.parametrize("make", [fast_rcnn, light_head, rfcn, deformable])
def test_a_roi_reads_only_its_own_image(make: type) -> None:
    head = make()
    before = head(head.maps([features()]), BOXES).logits
    changed = features()
    changed[2] += 1
    after = head(head.maps([changed]), BOXES).logits
    torch.testing.assert_close(after[:2], before[:2])
    assert not torch.allclose(after[2], before[2])


def test_fast_rcnn_is_pooling_then_tail_then_two_linear_layers() -> None:
    head = fast_rcnn()
    logits, deltas = head(head.maps([features()]), BOXES)
    rois = box_ops.to_rois(BOXES, inclusive=True)
    hidden = head.tail(roi_pool(features(), rois, 3, 1 / 16))
    torch.testing.assert_close(logits, hidden @ head.scores.weight.T + head.scores.bias)
    torch.testing.assert_close(deltas.flatten(1), hidden @ head.deltas.weight.T + head.deltas.bias)


def test_fast_rcnn_pools_from_the_reduced_map() -> None:
    head = fast_rcnn(channels=2)
    ((thin,),) = head.maps([features()])
    kernel, bias = (value for _, value in head.get_submodule("reduce.0").named_parameters())
    expected = (torch.einsum("oc,nchw->nohw", kernel[:, :, 0, 0], features()) + bias[:, None, None]).relu()
    torch.testing.assert_close(thin, expected)
    hidden = head.tail(roi_pool(expected, box_ops.to_rois(BOXES, inclusive=True), 3, 1 / 16))
    torch.testing.assert_close(head([(thin,)], BOXES).logits, hidden @ head.scores.weight.T + head.scores.bias)


def tail_calls(head: FastRCNNHead) -> list[int]:
    """Return a list that collects the number of RoIs of each call of the head's tail."""
    calls: list[int] = []
    head.tail.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    return calls


def repeated_boxes(per_image: int = 30) -> list[Tensor]:
    """Return boxes of three images, none in the second. Each occurs three times, shifted within its cells."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 5, (2, per_image, 2, 2), generator=generator).sort(dim=2).values.flatten(2) * 16.0
    first, last = (
        torch.cat([item + shift + item.new_tensor((0, 0, 1, 1)) for shift in (0.0, 3.0, -2.0)]) for item in corners
    )
    return [first, torch.zeros(0, 4), last]


def test_in_evaluation_rois_of_the_same_cells_are_computed_once() -> None:
    head, boxes = fast_rcnn().eval(), repeated_boxes()
    calls = tail_calls(head)
    once = head(head.maps([features()]), boxes)
    head.distinct = None
    each = head(head.maps([features()]), boxes)
    assert calls[0] <= calls[1] // 3
    assert calls[1] == 180
    torch.testing.assert_close(once.logits, each.logits, rtol=0, atol=1e-6)  # sums of products in another order
    torch.testing.assert_close(once.deltas, each.deltas, rtol=0, atol=1e-6)
    assert not torch.equal(once.logits[0], once.logits[-1])


def test_training_and_exported_graphs_compute_every_roi() -> None:
    head, boxes = fast_rcnn(), repeated_boxes()
    calls = tail_calls(head)
    head.train()(head.maps([features()]), boxes)
    exported = torch.export.export(head.eval(), ([(features(),)], boxes), strict=False)
    expected = head(head.maps([features()]), boxes)
    assert calls[0] == len(torch.cat(boxes))
    assert not [node for node in exported.graph.nodes if "unique" in str(node.target)]
    torch.testing.assert_close(exported.module()([(features(),)], boxes)[0], expected.logits, rtol=0, atol=1e-6)


def test_fast_rcnn_has_the_published_initial_standard_deviations() -> None:
    head = FastRCNNHead(
        num_classes=20,
        reduce=None,
        tail=nn.Identity(),
        tail_channels=4096,
        strides=(16,),
        pooling=roi_pool,
        distinct=distinct_rois,
        output_size=7,
        inclusive=True,
        class_agnostic=False,
    )
    assert head.scores.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.deltas.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert (head.scores.bias == 0).all()
    assert (head.deltas.bias == 0).all()


def test_rfcn_has_the_published_number_of_score_maps() -> None:
    head = RFCNHead(
        num_classes=20,
        in_channels=2048,
        channels=1024,
        strides=(16,),
        k=7,
        pooling=PSPooling.published(),
        class_agnostic=True,
    )
    assert head.reduce.weight.shape == (1024, 2048, 1, 1)
    assert head.score_maps.weight.shape == (1029, 1024, 1, 1)  # 7 * 7 * 21
    assert head.box_maps.weight.shape == (196, 1024, 1, 1)  # the paper's 4 k^2
    assert head.score_maps.weight.std().item() == pytest.approx(0.01, rel=0.02)


def test_rfcn_maps_are_ordered_by_class_row_and_column() -> None:
    """Adding 9 to the map of class 2 and the bin of row 0, column 2 raises only that class, by 9 / 9."""
    head = rfcn()
    ((scores, boxes),) = head.maps([features()])
    before = head([(scores, boxes)], BOXES).logits
    raised = scores.clone()
    raised[:, (2 * 3 + 0) * 3 + 2] += 9
    change = head([(raised, boxes)], BOXES).logits - before
    expected = torch.zeros_like(change)
    expected[:, 2] = 1
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-4)


def test_rfcn_has_no_weights_per_roi() -> None:
    """All parameters act on the maps: a RoI costs only pooling."""
    head = rfcn()
    maps = tuple(part.detach().requires_grad_() for part in head.maps([features()])[0])
    logits, _ = head([maps], BOXES)
    logits.sum().backward()
    assert all(parameter.grad is None for parameter in head.parameters())
    assert maps[0].grad is not None


@pytest.mark.parametrize("pooling", [PSPooling.published(), PSPooling.published("max"), PSPooling.aligned()])
def test_the_score_is_the_mean_of_the_votes(pooling: PSPooling) -> None:
    head = rfcn()
    head.pooling = pooling
    maps = head.maps([features()])
    bins, score_maps, stride = head.votes(maps, BOXES)
    assert bins.shape == (3, 5, 3, 3)
    assert score_maps.shape == (3, 5, 9, 5, 6)
    assert stride == 16
    torch.testing.assert_close(bins.mean(dim=(2, 3)), head(maps, BOXES).logits)


def test_the_aligned_vote_on_constant_maps_is_the_constant() -> None:
    maps = torch.arange(5.0).repeat_interleave(9)[None, :, None, None].expand(1, 45, 6, 8)
    rois = torch.tensor([[0.0, 20, 20, 70, 60]])
    torch.testing.assert_close(PSPooling.aligned().vote(maps, rois, 3, 1 / 16), torch.arange(5.0)[None])


def test_deformable_rfcn_has_the_published_number_of_maps() -> None:
    head = deformable(k=7, num_classes=20)
    assert head.score_maps.weight.shape == (1029, 8, 1, 1)  # 7 * 7 * 21
    assert head.score_offsets.weight.shape == (2058, 8, 1, 1)  # the paper's 2 k^2 (C + 1)
    assert head.box_maps.weight.shape == (196, 8, 1, 1)
    assert head.box_offsets.weight.shape == (98, 8, 1, 1)  # the released code's 2 k^2
    assert deformable(class_agnostic=False).box_offsets.weight.shape == (72, 8, 1, 1)  # 2 k^2 for each class


def test_deformable_rfcn_starts_with_bins_at_their_places() -> None:
    head = deformable()
    rois = box_ops.to_rois(BOXES, inclusive=True)
    maps = head.maps([features()])
    scores, score_offsets, boxes, box_offsets = maps[0]
    assert not score_offsets.any()
    assert not box_offsets.any()
    logits, deltas = head(maps, BOXES)
    for votes, source in ((logits, scores), (deltas.flatten(1), boxes)):
        torch.testing.assert_close(votes, deform_ps_roi_pool(source, rois, None, 3, 1 / 16).mean(dim=(2, 3)))


def test_offset_maps_move_the_bins_of_their_class_only() -> None:
    """Offset maps of 1 to the right for class 2 move its bins by a tenth of the RoI's width."""
    head = deformable()
    scores, _, boxes, box_offsets = head.maps([features()])[0]
    ramp = torch.arange(6.0).expand_as(scores)  # the value of a cell is its column
    offsets = torch.zeros(3, 2 * 5 * 9, 5, 6)
    offsets[:, 2 * 2 * 9 : 2 * 2 * 9 + 9] = 1
    inside = [torch.tensor([[16.0, 16, 64, 48]]), torch.zeros(0, 4), torch.zeros(0, 4)]
    before = head([(ramp, torch.zeros_like(offsets), boxes, box_offsets)], inside).logits
    change = head([(ramp, offsets, boxes, box_offsets)], inside).logits - before
    expected = torch.zeros(1, 5)
    expected[0, 2] = 0.1 * 48 / 16
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-5)


def test_deformable_rfcn_learns_offsets_from_zero() -> None:
    head = deformable(class_agnostic=False)
    logits, deltas = head(head.maps([features()]), BOXES)
    (logits.square().sum() + deltas.square().sum()).backward()
    for layer in (head.score_offsets, head.box_offsets):
        assert layer.weight.grad is not None
        assert layer.weight.grad.any()


def test_deformable_deltas_are_rescaled() -> None:
    head = deformable(class_agnostic=False)
    before = head(head.maps([features()]), BOXES).deltas
    scale = torch.rand(4, 4, generator=torch.Generator().manual_seed(3)) + 0.5
    shift = torch.rand(4, 4, generator=torch.Generator().manual_seed(4))
    head.rescale_deltas(scale, shift)
    torch.testing.assert_close(head(head.maps([features()]), BOXES).deltas, before * scale + shift)
