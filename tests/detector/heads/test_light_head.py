"""Light-Head R-CNN's head against plain loops in float64, and against the paper's sizes."""

import math

import pytest
import torch
from torch import Tensor, nn

from detector.heads.light_head import LargeSeparableConv2d, LightHead
from detector.heads.rfcn import PSPooling
from detector.structures import RoIPredictions

STRIDE, BINS, VALUES, KERNEL = 16, 2, 3, 5
SAMPLES = 2  # of PS-RoIAlign, per bin and axis
# The first image's second box leaves the map at two sides; the second image has one box of less than a cell.
BOXES = [torch.tensor([[8.0, 8, 72, 56], [-24, 40, 60, 112]]), torch.tensor([[33.0, 20, 40, 50]])]


def small_head(**settings: object) -> LightHead:
    """Return a head in float64 with weights large enough for every layer to matter."""
    torch.manual_seed(0)
    pooling = PSPooling.aligned()
    sizes = {"num_classes": 4, "in_channels": 3, "mid_channels": 2, "channels": VALUES, "kernel": KERNEL, "k": BINS}
    more = {"fc_channels": 6, "strides": (STRIDE,), "pooling": pooling.bins, "inclusive": False}
    head = LightHead(**{**sizes, **more, "class_agnostic": True, **settings}).double()  # type: ignore[arg-type]
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    return head


def features() -> Tensor:
    return torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def convolved(planes: list[list[list[float]]], layer: nn.Conv2d) -> list[list[list[float]]]:
    """Return a convolution of [C][H][W] with zeros around the map, cell by cell."""
    weight, bias = layer.weight.tolist(), layer.bias.tolist()  # type: ignore[union-attr]
    tall, wide = len(weight[0][0]), len(weight[0][0][0])
    height, width = len(planes[0]), len(planes[0][0])
    found = []
    for kernels, shift in zip(weight, bias, strict=True):
        plane = [[shift] * width for _ in range(height)]
        for y in range(height):
            for x in range(width):
                for c, kernel in enumerate(kernels):
                    for i in range(tall):
                        for j in range(wide):
                            row, column = y + i - tall // 2, x + j - wide // 2
                            if 0 <= row < height and 0 <= column < width:
                                plane[y][x] += kernel[i][j] * planes[c][row][column]
        found.append(plane)
    return found


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    """Return the value at a point in cells; 0 more than one cell outside, the border's value up to one cell outside."""
    height, width = len(plane), len(plane[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    above = plane[top][left] * (1 - across) + plane[top][right] * across
    below = plane[bottom][left] * (1 - across) + plane[bottom][right] * across
    return above * (1 - down) + below * down


def bins_of(thin: list[list[list[float]]], box: list[float]) -> list[float]:
    """Return the values [VALUES x BINS x BINS] of a box. Each bin reads its own map."""
    x1, y1, x2, y2 = (side / STRIDE - 0.5 for side in box)
    tall, wide = (y2 - y1) / BINS, (x2 - x1) / BINS
    found = []
    for value in range(VALUES):
        for i in range(BINS):
            for j in range(BINS):
                plane = thin[(value * BINS + i) * BINS + j]
                total = 0.0
                for a in range(SAMPLES):
                    for b in range(SAMPLES):
                        y = y1 + (i + (a + 0.5) / SAMPLES) * tall
                        x = x1 + (j + (b + 0.5) / SAMPLES) * wide
                        total += bilinear(plane, y, x)
                found.append(total / SAMPLES**2)
    return found


def multiplied(values: list[float], layer: nn.Linear) -> list[float]:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, values, strict=True)) + shift for row, shift in rows]


def oracle(head: LightHead, image: Tensor, box: list[float]) -> tuple[list[float], list[float]]:
    """Return the logits and the deltas of a box of an image, layer by layer as in figures 2 and 3 of the paper."""
    planes = image.tolist()
    pairs = (head.thin.columns_first, head.thin.rows_first)
    first, second = (convolved(convolved(planes, pair[0]), pair[1]) for pair in pairs)  # type: ignore[arg-type]
    thin = [
        [[max(0.0, a + b) for a, b in zip(*rows, strict=True)] for rows in zip(*both, strict=True)]
        for both in zip(first, second, strict=True)
    ]
    hidden = [max(0.0, value) for value in multiplied(bins_of(thin, box), head.fc)]
    return multiplied(hidden, head.scores), multiplied(hidden, head.deltas)


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_the_head_equals_plain_loops(class_agnostic: bool) -> None:
    head = small_head(class_agnostic=class_agnostic)
    logits, deltas = head(head.maps([features()]), BOXES)
    rows = [(image, box) for image, boxes in zip(features(), BOXES, strict=True) for box in boxes.tolist()]
    for (image, box), found_logits, found_deltas in zip(rows, logits, deltas, strict=True):
        expected_logits, expected_deltas = oracle(head, image, box)
        torch.testing.assert_close(found_logits, found_logits.new_tensor(expected_logits))
        torch.testing.assert_close(found_deltas.flatten(), found_deltas.new_tensor(expected_deltas))


def test_the_two_pairs_are_k_x_1_then_1_x_k_and_the_reverse() -> None:
    """The response to a single cell is a full k x k square, of both pairs."""
    layer = LargeSeparableConv2d(in_channels=1, mid_channels=1, out_channels=1, kernel=5)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, float(parameter.ndim == 4))
    impulse = torch.zeros(1, 1, 9, 11)
    impulse[..., 4, 5] = 1
    expected = torch.zeros_like(impulse)
    expected[..., 2:7, 3:8] = 2
    assert torch.equal(layer(impulse), expected)
    assert [tuple(conv.weight.shape[2:]) for conv in layer.columns_first] == [(5, 1), (1, 5)]  # type: ignore[union-attr]
    assert [tuple(conv.weight.shape[2:]) for conv in layer.rows_first] == [(1, 5), (5, 1)]  # type: ignore[union-attr]


def published(mid_channels: int = 256) -> LightHead:
    torch.manual_seed(0)
    return LightHead(
        num_classes=20, in_channels=2048, mid_channels=mid_channels, channels=10, kernel=15, fc_channels=2048,
        strides=(16,), k=7, pooling=PSPooling.aligned().bins, inclusive=False, class_agnostic=True,
    )  # fmt: skip


def test_the_published_sizes() -> None:
    head = published(mid_channels=64)
    ((thin,),) = head.maps([torch.randn(1, 2048, 5, 6)])
    assert thin.shape == (1, 490, 5, 6)
    logits, deltas = head([(thin,)], [torch.tensor([[0.0, 0, 64, 64]])])
    assert (logits.shape, deltas.shape) == ((1, 21), (1, 1, 4))
    shapes = {name: tuple(value.shape) for name, value in head.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "thin.columns_first.0.weight": (64, 2048, 15, 1),
        "thin.columns_first.1.weight": (490, 64, 1, 15),
        "thin.rows_first.0.weight": (64, 2048, 1, 15),
        "thin.rows_first.1.weight": (490, 64, 15, 1),
        "fc.weight": (2048, 490),
        "scores.weight": (21, 2048),
        "deltas.weight": (4, 2048),
    }


def test_initial_weights_are_published_in_the_last_layers_and_keep_the_variance_in_the_others() -> None:
    head = published(mid_channels=64)
    assert all((value == 0).all() for name, value in head.named_parameters() if name.endswith("bias"))
    assert head.scores.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert head.deltas.weight.std().item() == pytest.approx(0.001, rel=0.03)
    torch.manual_seed(1)
    features = torch.randn(1, 2048, 16, 16)
    for pair in (head.thin.columns_first, head.thin.rows_first):
        middle = pair(features)[..., 7:9, 7:9]  # type: ignore[operator]  # where no kernel leaves the map
        assert middle.std().item() == pytest.approx(1, rel=0.1)
    pooled = torch.randn(200, 490).relu()
    assert head.fc(pooled).relu().square().mean().item() == pytest.approx(0.5, rel=0.1)


def test_gradients_reach_every_layer() -> None:
    head, maps = small_head(), features().requires_grad_()
    logits, deltas = head(head.maps([maps]), BOXES)
    for output in (logits, deltas):
        found = torch.autograd.grad(
            output.square().sum(), [maps, *head.parameters()], retain_graph=True, allow_unused=True
        )
        names = ["features", *(name for name, _ in head.named_parameters())]
        reached = {name for name, grad in zip(names, found, strict=True) if grad is not None and grad.abs().sum() > 0}
        other = "deltas." if output is logits else "scores."
        assert reached == {name for name in names if not name.startswith(other)}


def test_the_gradient_of_the_whole_head_is_exact() -> None:
    head = small_head()

    def predictions(maps: Tensor) -> RoIPredictions:
        found: RoIPredictions = head(head.maps([maps]), BOXES)
        return found

    assert torch.autograd.gradcheck(predictions, (features().requires_grad_(),))


def test_a_bin_reads_only_its_own_maps() -> None:
    """A change of the maps of bin (1, 0) changes only the rows of that bin."""
    head = small_head()
    ((thin,),) = head.maps([features()])
    seen: list[Tensor] = []
    head.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].unflatten(1, (VALUES, BINS, BINS))))
    changed = thin.clone()
    changed[:, 2::4] += 1  # channel (value * 2 + 1) * 2 + 0
    for maps in (thin, changed):
        head([(maps,)], [box[:1] for box in BOXES])  # boxes inside the map
    difference = seen[1] - seen[0]
    expected = torch.zeros_like(difference)
    expected[:, :, 1, 0] = 1
    torch.testing.assert_close(difference, expected)


def test_the_maps_do_not_depend_on_the_number_of_classes() -> None:
    few, many = (sum(value.numel() for value in small_head(num_classes=count).thin.parameters()) for count in (1, 80))
    assert few == many


def test_rescaled_deltas() -> None:
    head = small_head(class_agnostic=False)
    maps = head.maps([features()])
    before = head(maps, BOXES)
    scale, shift = torch.rand(2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    head.rescale_deltas(scale, shift)
    after = head(maps, BOXES)
    torch.testing.assert_close(after.deltas, before.deltas * scale + shift)
    assert torch.equal(after.logits, before.logits)
