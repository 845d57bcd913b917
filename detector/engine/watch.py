"""Warns, once each, about figures that no healthy run has, and names a remedy. Reads only the means of the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping

log = logging.getLogger("detector")

PATIENCE_STEPS = 200  # steps with a bad figure before the warning
LR_FACTOR = 3.0  # warn if the learning rate differs from the recipe's by more than this factor


class Watch:
    """Warns once about averages that stay bad: no foreground RoIs, a box loss of 0, a tiny loss scale."""

    def __init__(self) -> None:
        self._since: dict[str, int] = {}  # figure -> first step of the current series of bad means
        self._warned: set[str] = set()

    def look(self, step: int, means: Mapping[str, float]) -> None:
        """Check the means over the steps from the last call to `step`."""
        foreground = means.get("rois_foreground", 1.0)
        self._judge(
            step,
            "foreground",
            foreground == 0,
            "no RoI was foreground for %d steps, so the head sees background only; causes: proposals that miss "
            "every object (`detector proposals` prints their recall), boxes of another scale, or a too high "
            "sampling.foreground_iou",
        )
        self._judge(
            step,
            "box",
            foreground > 0 and means.get("loss_box", 1.0) == 0,
            "loss_box was exactly 0 for %d steps despite foreground RoIs, so the head does not learn boxes; "
            "check loss.box_weight, trainer.trained and the standard deviation of the box targets",
        )
        self._judge(
            step,
            "scale",
            means.get("loss_scale", 1.0) < 1,
            "the loss scale of trainer.precision=fp16 was below 1 for %d steps: gradients are too large for 16 bits, "
            "and steps in which they overflow are skipped; lower optimizer.lr or set trainer.precision=bf16",
        )

    def _judge(self, step: int, name: str, bad: bool, message: str) -> None:
        if not bad:
            self._since.pop(name, None)
            return
        steps = step - self._since.setdefault(name, step)
        if steps >= PATIENCE_STEPS and name not in self._warned:
            self._warned.add(name)
            log.warning(message, steps)


def warn_of_learning_rate(lr: float, images: int, *, recipe_lr: float, recipe_images: int) -> None:
    """Warn if `lr` at `images` per step is far from the recipe's rate, scaled by the ratio of images per step.

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", 2.1 (linear scaling rule).
    """
    expected = recipe_lr * images / recipe_images
    if not expected / LR_FACTOR <= lr <= expected * LR_FACTOR:
        log.warning(
            "optimizer.lr is %.3g with %d images per step; the recipe has %.3g with %d, which scales to %.3g here: "
            "set optimizer.lr=%.3g, or expect training to %s",
            lr,
            images,
            recipe_lr,
            recipe_images,
            expected,
            expected,
            "diverge" if lr > expected else "learn slowly",
        )
