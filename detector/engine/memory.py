"""The out-of-memory message: the images of the batch, their sizes, and the settings to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from detector.structures import Batch


@contextmanager
def explaining_out_of_memory(batch: Batch) -> Iterator[None]:
    """Context of one step. Raises MemoryError with the batch's images if the device or the host has no memory."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise MemoryError(f"{_what(batch)}; {str(error).splitlines()[0]}") from error


def _what(batch: Batch) -> str:
    counts = ["learned" if batch.proposals is None else str(len(boxes)) for boxes in batch.proposals or batch.images]
    images = [
        f"{name} ({image.shape[2]}x{image.shape[1]} px, shorter side to {side}, {len(instances)} objects, "
        f"{count} proposals)"
        for name, image, side, instances, count in zip(
            batch.image_ids, batch.images, batch.short_sides, batch.instances, counts, strict=True
        )
    ]
    return (
        f"out of memory on {', '.join(images)}: raise trainer.micro_batches or lower trainer.images_per_step; then "
        "lower input.short_sides and input.max_side, sampling.rois_per_image or proposals.top_k_train, or set "
        "trainer.precision=bf16 or trainer.gradient_checkpointing=true"
    )
