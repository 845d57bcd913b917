"""`detector compare`: compare two detectors on the same images, or two protocols on the same detections."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.build import build_dataset
from detector.metrics import voc
from detector.metrics.compare import compare
from detector.metrics.differences import ProtocolDifference, compare_protocols
from detector.metrics.matching import matches
from detector.metrics.tables import DetectionTable, TruthTable
from detector.pipeline.detections import read_detections
from detector.pipeline.evaluation import truth_table
from detector.pipeline.run_folder import RunFolder
from detector.pipeline.scores import check_settings

log = logging.getLogger("detector")

SHOWN = 20  # detections printed; compare.json holds all of them


def compare_detectors(config: schema.Config, a: Path, b: Path, run: RunFolder) -> None:
    """Print AP by class of both and the bootstrap interval of the difference, and write compare.json."""
    settings = config.evaluation
    check_settings(settings)
    truths = truth_table(build_dataset(config.dataset, "test", need_images=False))
    first, second = (read_detections(path, truths, config).detections for path in (a, b))
    found = compare(
        first, second, truths, settings.protocol, settings.iou_threshold, settings.resamples, config.trainer.seed
    )
    low, high = found.interval()
    better = "B is better" if low > 0 else "A is better" if high < 0 else "no clear difference: the interval contains 0"
    log.info("A %s\nB %s\n%s\n%s", a, b, found.table(), better)
    run.write_json("compare.json", {"a": str(a), "b": str(b), **found.to_json()})
    log.info("results in %s", run.path / "compare.json")


def compare_two_protocols(config: schema.Config, path: Path, protocols: list[str], run: RunFolder) -> None:
    """Print how two protocols differ on one set of detections, and write compare.json."""
    if len(protocols) != 2 or not set(protocols) <= set(voc.PROTOCOLS):
        raise ConfigError(f"protocols={','.join(protocols)}: expected two of {', '.join(voc.PROTOCOLS)}")
    truths = truth_table(build_dataset(config.dataset, "test", need_images=False))
    table = read_detections(path, truths, config).detections
    found = compare_protocols(table, truths, (protocols[0], protocols[1]), config.evaluation.iou_threshold)
    rows = differing_rows(found, table, truths)
    log.info("%s", found.table())
    for row in rows[:SHOWN]:
        log.info(
            "image %(image)s: %(class)s %(score).6f at %(detection)s, IoU %(iou).6f with the object at %(object)s", row
        )
    if len(rows) > SHOWN:
        log.info("and %d more", len(rows) - SHOWN)
    pairs = {name: list(pair) for name, pair in found.average_precision.items()}
    points = [{"class": p.name, "recall": p.recall, "detection": p.detection} for p in found.turning_points]
    run.write_json(
        "compare.json",
        {"detections": str(path), "protocols": protocols, "AP": pairs, "judged_differently": rows, "turning": points},
    )
    log.info("results in %s", run.path / "compare.json")


def differing_rows(found: ProtocolDifference, table: DetectionTable, truths: TruthTable) -> list[dict[str, Any]]:
    """Return the detections whose outcome differs between two protocols, each with the object that it overlaps most."""
    chosen = table.select(found.detections)
    overlap, _ = matches(chosen, truths)
    return [
        {
            "image": truths.image_ids[chosen.image_index[number]],
            "class": truths.classes[chosen.labels[number] - 1],
            "score": float(chosen.scores[number]),
            "detection": chosen.boxes[number].tolist(),
            "iou": float(overlap[number]),
            "object": truths.boxes[row].tolist(),
            "difficult": bool(truths.difficult[row]),
        }
        for number, row in enumerate(found.objects.tolist())
    ]
