"""`detector compress`: truncated SVD of the fully connected layers in a Fast R-CNN tail, for given ranks or a budget.

A table compares the model before and after: parameters, time of the tail for 2,000 RoIs, and mAP if it is measured.
The result is a portable model whose config contains the ranks.
"""

from __future__ import annotations

import copy
import logging
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from detector.build import build_detector
from detector.compress import SVD, linear_layers
from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.augment import EvaluationView
from detector.datasets.build import build_proposals, readable_dataset
from detector.engine.checkpoint import load_weights
from detector.export.portable import write_portable
from detector.metrics import voc
from detector.model import Detector
from detector.pipeline.evaluation import detection_table, evaluate_detector, mean_ap, truth_table
from detector.pipeline.models import read_model
from detector.pipeline.run_folder import pick_device
from detector.tools.commands.export import portable_model

log = logging.getLogger("detector")

NUM_ROIS = 2000
ROUNDS = 9
HALVINGS = 7  # a search tries 1/2 to 1/128 of each layer's width


@dataclass(frozen=True, slots=True)
class Candidate:
    """A compressed tail, with its cost and score."""

    name: str
    ranks: tuple[int, ...]  # empty: the original tail
    parameters: int
    milliseconds: float  # of the tail for NUM_ROIS RoIs, median
    mean_ap: float | None  # None if it is not measured


def run_compression(config: schema.Config) -> None:
    """Write the compressed model of `config.weights` to `config.compress.output`.

    Raises ConfigError for wrong settings, ValueError for a model without such a tail or a budget that no ranks meet.
    """
    settings = config.compress
    if config.weights is None or settings.output is None:
        raise ConfigError("compress needs weights=MODEL and output=FILE")
    if sum(value is not None for value in (settings.ranks, settings.max_drop, settings.max_ms)) != 1:
        raise ConfigError("compress needs one of ranks=[1024,256], max_drop=0.003 (mAP) and max_ms=40")
    saved = read_model(Path(config.weights))
    detector = build_detector(config, len(saved.classes))
    load_weights(detector, saved.weights, config.weights)
    detector.to(pick_device(config.trainer.device)).eval()
    tail = _tail(detector)
    scored = settings.evaluate or settings.max_drop is not None
    before = _candidate("before", detector, (), config, scored)
    log.info("%s", _row(before, before))
    svd = SVD(tail)
    found = None
    for number, ranks in enumerate(_proposed(settings, tail)):
        trial = _with_ranks(detector, svd, ranks)
        candidate = _candidate(f"candidate {number + 1}", trial, ranks, config, scored)
        log.info("%s", _row(candidate, before))
        fits = settings.max_drop is None or (before.mean_ap or 0) - (candidate.mean_ap or 0) <= settings.max_drop
        if not fits:
            break  # later ranks are smaller
        if settings.max_ms is None or candidate.milliseconds <= settings.max_ms:
            found = (trial, ranks)
            if settings.max_drop is None:
                break  # the largest ranks within the time
    if found is None:
        raise ValueError("no candidate is within the budget; raise compress.max_drop or compress.max_ms")
    trial, ranks = found
    config = replace(config, backbone=replace(config.backbone, tail_ranks=list(ranks)))
    write_portable(Path(settings.output), portable_model(trial, config, saved))
    log.info("ranks %s written to %s", list(ranks), settings.output)


def _tail(detector: Detector) -> nn.Module:
    tail = getattr(detector.head, "tail", None)
    if not isinstance(tail, nn.Module) or not linear_layers(tail):
        raise ValueError("compress needs the fully connected tail of a Fast R-CNN head; this model has none")
    return tail


def _proposed(settings: schema.CompressConfig, tail: nn.Module) -> list[tuple[int, ...]]:
    """Return the ranks to try, from large to small."""
    if settings.ranks is not None:
        return [tuple(settings.ranks)]
    widths = [min(layer.in_features, layer.out_features) for layer in linear_layers(tail).values()]
    return [tuple(max(1, width >> halving) for width in widths) for halving in range(1, HALVINGS + 1)]


def _with_ranks(detector: Detector, svd: SVD, ranks: tuple[int, ...]) -> Detector:
    trial = copy.deepcopy(detector)
    svd.truncate(_tail(trial), ranks)
    return trial.eval()


def _candidate(name: str, detector: Detector, ranks: tuple[int, ...], config: schema.Config, scored: bool) -> Candidate:
    tail = getattr(detector.head, "tail")  # noqa: B009  # _tail refused heads without one
    parameters = sum(value.numel() for value in tail.parameters())
    score = _mean_ap(detector, config) if scored else None
    return Candidate(name, ranks, parameters, _milliseconds(detector, tail), score)


def _milliseconds(detector: Detector, tail: nn.Module) -> float:
    """Return the median time of the tail on random pooled RoIs."""
    size = int(getattr(detector.head, "output_size"))  # noqa: B009
    device = detector.preprocess.mean.device
    with torch.no_grad():
        ((feature_map,),) = detector.head.maps([torch.zeros(1, detector.backbone.head_channels, 1, 1, device=device)])
    pooled = torch.rand(NUM_ROIS, feature_map.shape[1], size, size, device=device)
    times = []
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            tail(pooled)
            if pooled.is_cuda:
                torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def _mean_ap(detector: Detector, config: schema.Config) -> float:
    """Return the mAP by the 11-point protocol on the test split."""
    dataset = readable_dataset(config.dataset, "test")
    proposals = build_proposals(config.proposals, dataset, "test")
    found = evaluate_detector(
        detector,
        EvaluationView(dataset, proposals, short_side=config.input.test_short_side),
        device=detector.preprocess.mean.device,
        precision=config.trainer.precision,
        batch_size=config.trainer.images_per_step,
        workers=config.trainer.workers,
    )
    assert found is not None
    return mean_ap(voc.evaluate(detection_table(found, dataset), truth_table(dataset)))


def _row(candidate: Candidate, before: Candidate) -> str:
    ranks = ", ".join(map(str, candidate.ranks)) or "full"
    share = candidate.milliseconds / before.milliseconds
    line = f"{candidate.name:<14}ranks {ranks:<14}{candidate.parameters / 1e6:9.2f} M parameters"
    line += f"{candidate.milliseconds:10.1f} ms for {NUM_ROIS} RoIs ({share:.0%})"
    return line + ("" if candidate.mean_ap is None else f"   mAP07 {candidate.mean_ap:.4f}")
