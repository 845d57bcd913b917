"""Compiled parts and gradient checkpointing give the plain results. Compiled parts recompile rarely."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.autograd.graph import saved_tensors_hooks

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.engine.compile import compile_parts
from detector.model import Detector
from detector.structures import Batch, Instances, Proposals

SMALL = ["experiment=demo", "backbone.width=0.125", "backbone.tail_channels=32", "loss.targets=fixed"]


def make_detector(*words: str) -> Detector:
    torch.manual_seed(0)
    return build_detector(load_config([*SMALL, "input.max_side=160", *words]), num_classes=3).train()


def make_batch(height: int, width: int, num_proposals: int = 30) -> Batch:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(num_proposals, 2, generator=generator) * 30
    boxes = torch.cat((low, low + 20), dim=1)
    ground_truth = Instances(boxes[:2], torch.tensor([1, 2]), torch.zeros(2, dtype=torch.bool))
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
    return Batch([image], [ground_truth], [Proposals(boxes, torch.zeros(num_proposals))], ["a"], [1], [height])


def gradients(detector: Detector, batch: Batch) -> dict[str, Tensor]:
    detector.zero_grad(set_to_none=True)
    detector(batch).total().backward()
    return {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler reads every tensor
@pytest.mark.parametrize(("sampling", "most"), [("random", 2), ("ohem", 4)])
def test_many_sizes_share_few_compilations(sampling: str, most: int) -> None:
    """Ten sizes on one canvas. With hard example mining the tail also runs without gradient, for any number of RoIs."""
    torch._dynamo.reset()
    counter = CompileCounter()
    detector = make_detector("input.canvas_multiple=64", f"sampling={sampling}", "sampling.rois_per_image=16")
    expected = gradients(detector, make_batch(64, 96))
    compile_parts(detector, backend=counter)
    for index in range(10):
        detector(make_batch(64 - index, 96 + 3 * index, 30 + index)).total().backward()
    assert counter.frame_count <= most
    found = gradients(detector, make_batch(64, 96))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    detector(make_batch(64, 140)).total().backward()  # one more canvas
    assert counter.frame_count <= most + 1
    torch._dynamo.reset()


def test_the_canvas_is_rounded_up_to_the_multiple() -> None:
    for multiple, size in ((None, (64, 96)), (64, (64, 128)), (24, (96, 96))):
        detector = make_detector(f"input.canvas_multiple={'null' if multiple is None else multiple}")
        assert detector.preprocess(make_batch(60, 90)).images.shape[2:] == size


@pytest.mark.parametrize(
    "backbone", ["resnet18_narrow", "vgg16 backbone.weights=null backbone.dropout=0.0 backbone.frozen_stages=2"]
)
def test_gradient_checkpointing_gives_the_same_bits_with_less_memory(backbone: str) -> None:
    detector = make_detector(*f"backbone={backbone}".split())
    batch = make_batch(64, 96)
    weights = {parameter.untyped_storage().data_ptr() for parameter in detector.parameters()}
    kept: list[int] = []

    def remember(value: Tensor) -> Tensor:
        if value.untyped_storage().data_ptr() not in weights:
            kept.append(value.numel() * value.element_size())
        return value

    with saved_tensors_hooks(remember, lambda value: value):
        expected = gradients(detector, batch)
    plain = sum(kept)
    detector.backbone.checkpointing = True  # type: ignore[attr-defined]
    kept.clear()
    with saved_tensors_hooks(remember, lambda value: value):
        found = gradients(detector, batch)
    assert sum(kept) < 0.9 * plain
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
