"""A step that does not log never reads a tensor value: on a GPU each such read would wait for the device."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.engine.ema import Average
from detector.engine.gradients import accumulate_gradients
from detector.engine.monitor import Monitor
from detector.structures import Batch, Instances, Proposals

SYNCHRONIZING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2"}


class CountReads(TorchDispatchMode):
    """Counts operators that bring a value, or a size that depends on values, to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        by_mask = name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in SYNCHRONIZING or by_mask:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(40, 2, generator=generator) * 30
    boxes = torch.cat((low, low + 20), dim=1)
    ground_truth = Instances(boxes[:2], torch.tensor([1, 2]), torch.zeros(2, dtype=torch.bool))
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8, generator=generator)
    given = Proposals(boxes, torch.zeros(40))
    return Batch([image] * 2, [ground_truth] * 2, [given] * 2, ["a", "b"], [1, 2], [64, 64])


@pytest.mark.parametrize("sampling", ["random", "ohem"])
@pytest.mark.parametrize("head", ["fast_rcnn_align", "rfcn"])
def test_a_step_between_two_logging_steps_reads_no_value(
    head: str, sampling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.ops._arguments._check_image_index", lambda *_: None)  # of CPU tensors only
    words = ["experiment=demo", "backbone.width=0.125", f"head={head}", f"sampling={sampling}"]
    detector = build_detector(load_config(words), num_classes=3).train()
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01, momentum=0.9)
    average = Average(detector, 0.9)
    monitor = Monitor(tmp_path, first_step=0, max_steps=4, log_every=2)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    reads = CountReads()
    to_list = torch.Tensor.tolist

    def counted_list(tensor: Tensor) -> Any:  # reads a CPU tensor's memory without an operator
        reads.counts["tolist"] += 1
        return to_list(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted_list)
    for step in (1, 2):
        with reads:
            losses = accumulate_gradients(
                detector, make_batch(), micro_batches=2, scaler=scaler, device=torch.device("cpu"), precision="fp32"
            )
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
            scaler.step(optimizer)
            scaler.update()
            average.update(detector, step)
            monitor.step(step, losses, 0.01, 2)
        if step == 1:
            assert not reads.counts
    monitor.close()
    assert reads.counts == {"tolist": 1}  # the logging step reads once
