"""A worker's batches lie in shared memory before they are handed over.

`multiprocessing` would move them there in a thread of its own. What fails in it reaches nobody: where the memory is
full, as in a container of 64 MiB, the batch would be lost and the trainer would wait for it for ever.
"""

from __future__ import annotations

from torch import Tensor

from detector.structures import Batch


def share(batch: Batch) -> None:
    """Moves every tensor of the batch. Raises OSError where there is no room for it."""
    try:
        for tensor in _tensors(batch):
            tensor.share_memory_()
    except RuntimeError as error:  # torch's word for what the system refuses
        raise OSError(
            f"a loader worker cannot hand over its batch: {str(error).splitlines()[0]}: give the machine more shared "
            "memory (docker run --shm-size=8g) or open files (ulimit -n), or lower trainer.workers or trainer.prefetch"
        ) from error


def _tensors(batch: Batch) -> list[Tensor]:
    of_truths = [part for item in batch.instances for part in (item.boxes, item.labels, item.difficult)]
    of_proposals = [part for item in batch.proposals or [] for part in (item.boxes, item.scores)]
    return [*batch.images, *of_truths, *of_proposals]
