"""Batches of a worker, moved to shared memory."""

import pytest
import torch
from torch import Tensor

from detector.datasets.augment import EvaluationView
from detector.datasets.proposal_grid import GridProposals
from detector.datasets.synthetic import SyntheticDataset
from detector.pipeline.loaders import collate
from detector.pipeline.shared_memory import share
from detector.structures import Batch


@pytest.fixture
def batch() -> Batch:
    dataset = SyntheticDataset("train", num_images=2, height=40, width=50, seed=0)
    view = EvaluationView(dataset, GridProposals(dataset, (0.3,), (1.0,), 0.5), short_side=40)
    return collate([view[0], view[1]])


def test_every_tensor_is_moved(batch: Batch) -> None:
    tensors = [
        *batch.images,
        *(item.boxes for item in batch.instances),
        *(item.scores for item in batch.proposals or []),
    ]
    assert not any(tensor.is_shared() for tensor in tensors)
    share(batch)
    shared: list[Tensor] = []

    def reach(value: object) -> None:
        if isinstance(value, Tensor):
            shared.append(value)
        elif isinstance(value, list):
            for item in value:
                reach(item)
        elif hasattr(value, "__dataclass_fields__"):
            for name in value.__dataclass_fields__:
                reach(getattr(value, name))

    reach(batch)
    assert len(shared) == 2 + 2 * 3 + 2 * 2
    assert all(tensor.is_shared() for tensor in shared)


def test_a_full_shared_memory_gives_one_line_with_the_remedy(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)\nx")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(
        OSError, match=r"No space left on device \(28\): give the machine more .*--shm-size=8g.*prefetch$"
    ):
        share(batch)
