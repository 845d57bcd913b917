"""The report on a step whose loss is not finite: the batch, statistics of every layer, and the probable cause.

The step runs once more with a hook on each module, so a healthy run has no extra cost.

FOLDER/report.json   losses, images and boxes, statistics of weights, activations and gradients
FOLDER/batch.pt      the batch itself, if it is small
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detector.engine.checkpoint import write_atomically
from detector.engine.precision import autocast
from detector.model import Detector
from detector.structures import Batch

SMALL_BYTES = 64 * 2**20  # a batch with larger images is not written


def write_postmortem(
    folder: Path, detector: Detector, batch: Batch, *, precision: str, about: Mapping[str, Any]
) -> str:
    """Write the report. Return the probable cause and its remedy as one phrase."""
    weights = {name: _statistics(p) for name, p in detector.named_parameters()}
    activations, gradients, failure = _run_again(detector, batch, precision)
    cause = probable_cause(batch, weights, activations, gradients, precision=precision)
    report = {
        **about,
        "cause": cause,
        "failure": failure,
        "images": [
            {
                "id": image_id,
                "size": [image.shape[2], image.shape[1]],
                "short_side": side,
                "seed": seed,
                "boxes": instances.boxes.tolist(),
                "labels": instances.labels.tolist(),
                "difficult": instances.difficult.tolist(),
                "num_proposals": None if batch.proposals is None else len(batch.proposals[index]),
            }
            for index, (image_id, image, side, seed, instances) in enumerate(
                zip(batch.image_ids, batch.images, batch.short_sides, batch.seeds, batch.instances, strict=True)
            )
        ],
        "weights": weights,
        "activations": activations,
        "gradients": gradients,
    }
    text = json.dumps(report, indent=1) + "\n"
    write_atomically(folder / "report.json", lambda file: file.write(text.encode()))
    if sum(image.numel() for image in batch.images) <= SMALL_BYTES:
        content = _plain(batch.to("cpu"))
        write_atomically(folder / "batch.pt", lambda file: torch.save(content, file))
    return cause


def probable_cause(
    batch: Batch,
    weights: Mapping[str, Mapping[str, float]],
    activations: Mapping[str, Mapping[str, float]],
    gradients: Mapping[str, Mapping[str, float]],
    *,
    precision: str,
) -> str:
    """The first non-finite value in the order boxes, proposals, weights, activations, gradients."""
    for image_id, instances in zip(batch.image_ids, batch.instances, strict=True):
        if not _sound(instances.boxes):
            return f"image {image_id} has boxes that are not finite or have no area; correct its annotation"
    for image_id, proposals in zip(batch.image_ids, batch.proposals or [], strict=False):
        if not torch.isfinite(proposals.boxes).all():
            return f"image {image_id} has proposals that are not finite; compute them again"
    remedy = "lower optimizer.lr, lengthen schedule.warmup_steps or set optimizer.clip_norm"
    if (name := _first_bad(weights)) is not None:
        return f"the weights of {name} are already not finite, so an earlier update was too large; {remedy}"
    if (name := _first_bad(activations)) is not None:
        if precision == "fp16":
            return f"{name} gives values beyond float16's 65504; set trainer.precision=bf16 or fp32"
        return f"{name} is the first layer with values that are not finite: it has diverged; {remedy}"
    if (name := _first_bad(gradients)) is not None:
        return f"all activations are finite, but the gradient of {name} is not; {remedy}"
    largest = max(activations, key=lambda name: activations[name]["largest"], default="nothing")
    return f"the loss itself overflows; {largest} has the largest activations; {remedy}"


def _run_again(
    detector: Detector, batch: Batch, precision: str
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]], str | None]:
    """Statistics of every layer's output in forward order, statistics of every gradient, and the error, if any."""
    activations: dict[str, dict[str, float]] = {}

    def watch(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            activations.setdefault(name, _statistics(output))

    leaves = [(name, module) for name, module in detector.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(partial(watch, name)) for name, module in leaves]
    kept = [parameter.grad for parameter in detector.parameters()]
    detector.zero_grad(set_to_none=True)
    failure = None
    try:
        with autocast(batch.images[0].device, precision):
            total = detector(batch).total()
        total.backward()
    except (RuntimeError, ValueError) as error:  # write the report with what is known so far
        failure = str(error)
    finally:
        for handle in handles:
            handle.remove()
    gradients = {name: _statistics(p.grad) for name, p in detector.named_parameters() if p.grad is not None}
    for parameter, gradient in zip(detector.parameters(), kept, strict=True):
        parameter.grad = gradient
    return activations, gradients, failure


def _statistics(values: Tensor) -> dict[str, float]:
    values = values.detach().float()
    finite = values[torch.isfinite(values)]
    empty = finite.numel() == 0
    return {
        "mean": 0.0 if empty else finite.mean().item(),
        "deviation": 0.0 if empty else finite.std(correction=0).item(),
        "largest": 0.0 if empty else finite.abs().max().item(),
        "not_finite": values.numel() - finite.numel(),
    }


def _first_bad(statistics: Mapping[str, Mapping[str, float]]) -> str | None:
    return next((name for name, item in statistics.items() if item["not_finite"]), None)


def _sound(boxes: Tensor) -> bool:
    return bool((torch.isfinite(boxes).all() & (boxes[:, 2:] > boxes[:, :2]).all()).item())


def _plain(batch: Batch) -> dict[str, Any]:
    """The batch as tensors and plain values, which `torch.load` reads with `weights_only`."""
    return {
        "images": batch.images,
        "boxes": [item.boxes for item in batch.instances],
        "labels": [item.labels for item in batch.instances],
        "difficult": [item.difficult for item in batch.instances],
        "proposals": None if batch.proposals is None else [item.boxes for item in batch.proposals],
        "image_ids": batch.image_ids,
        "seeds": batch.seeds,
        "short_sides": batch.short_sides,
    }
