"""Scores of one table of detections by every chosen protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.metrics import coco, voc
from detector.metrics.tables import DetectionTable, TruthTable

COCO = "coco"


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one table of detections, by VOC's protocols and COCO's."""

    voc: voc.VOCResult | None
    coco: coco.COCOResult | None

    def to_json(self) -> dict[str, Any]:
        """{"voc07_11point": {...}, "voc_area": {...}, "coco": {...}}."""
        content: dict[str, Any] = {}
        for part in (self.voc, self.coco):
            content |= part.to_json() if part is not None else {}
        return content

    def table(self) -> str:
        """Return plain text: VOC's protocols side by side, then COCO's statistics."""
        return "\n\n".join(part.table() for part in (self.voc, self.coco) if part is not None)


def check_settings(settings: schema.EvaluationConfig) -> None:
    """Raise ConfigError for an unknown protocol, before a model runs."""
    for key, names, known in (
        ("protocols", settings.protocols, [*voc.PROTOCOLS, COCO]),
        ("protocol", [settings.protocol], list(voc.PROTOCOLS)),
    ):
        for name in names:
            if name not in known:
                raise ConfigError(f"evaluation.{key}: expected a protocol of {', '.join(known)}, got {name!r}")


def score(detections: DetectionTable, truths: TruthTable, settings: schema.EvaluationConfig) -> Scores:
    """Return the scores by the protocols of `settings`, with the names of the classes without a score.

    Raises ValueError if the tables differ in images or classes.
    """
    of_voc = [name for name in settings.protocols if name != COCO]
    return Scores(
        voc=voc.evaluate(detections, truths, of_voc, settings.iou_threshold) if of_voc else None,
        coco=coco.evaluate(detections, truths, difficult=settings.coco_difficult.value)
        if COCO in settings.protocols
        else None,
    )
