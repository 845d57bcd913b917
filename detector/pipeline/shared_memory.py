"""Moves a worker's batches to shared memory before they are sent to the trainer.

`multiprocessing` would move them in a separate thread, whose errors are lost. If the memory is full, as in a container
with 64 MiB, the batch would be lost and the trainer would wait for it forever.
"""

from __future__ import annotations

from torch import Tensor

from detector.structures import Batch


def share(batch: Batch) -> None:
    """Move every tensor of the batch. Raises OSError if the shared memory is full."""
    try:
        for tensor in _tensors(batch):
            tensor.share_memory_()
    except RuntimeError as error:  # torch raises this for an error of the operating system
        raise OSError(
            f"a loader worker cannot share its batch: {str(error).splitlines()[0]}: give the machine more shared "
            "memory (docker run --shm-size=8g) or open files (ulimit -n), or lower trainer.workers or trainer.prefetch"
        ) from error


def _tensors(batch: Batch) -> list[Tensor]:
    ground_truth = [part for item in batch.instances for part in (item.boxes, item.labels, item.difficult)]
    proposals = [part for item in batch.proposals or [] for part in (item.boxes, item.scores)]
    return [*batch.images, *ground_truth, *proposals]
