"""What goes wrong without an error: figures of a run that no healthy run has, each told once and with its remedy.

Only means that are read for the log anyway are looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

log = logging.getLogger("detector")

PATIENCE_STEPS = 200  # for which a figure has to be wrong
LR_FACTOR = 3.0  # beyond which a learning rate is far from the recipe's


class Watch:
    def __init__(self) -> None:
        self._since: dict[str, int] = {}  # first step of an unbroken row of bad means
        self._told: set[str] = set()

    def look(self, step: int, means: Mapping[str, float]) -> None:
        """Looks at the means per step since the last look, which `step` ends."""
        foreground = means.get("rois_foreground", 1.0)
        self._judge(
            step,
            "foreground",
            foreground == 0,
            "no RoI was foreground for %d steps: the head sees background only; proposals that miss every object "
            "(`detector proposals` prints their recall), boxes of another scale, or a sampling.foreground_iou too high",
        )
        self._judge(
            step,
            "box",
            foreground > 0 and means.get("loss_box", 1.0) == 0,
            "loss_box was exactly 0 for %d steps although foreground RoIs were present: nothing is learned about "
            "boxes; look at loss.box_weight, trainer.trained and the box targets' deviation",
        )
        self._judge(
            step,
            "scale",
            means.get("loss_scale", 1.0) < 1,
            "the loss scale of trainer.precision=fp16 was below 1 for %d steps: gradients are too large for 16 bits, "
            "and the steps in which they overflow are left out; lower optimizer.lr or set trainer.precision=bf16",
        )

    def _judge(self, step: int, name: str, bad: bool, message: str) -> None:
        if not bad:
            self._since.pop(name, None)
            return
        steps = step - self._since.setdefault(name, step)
        if steps >= PATIENCE_STEPS and name not in self._told:
            self._told.add(name)
            log.warning(message, steps)


def warn_of_learning_rate(lr: float, images: int, *, recipe_lr: float, recipe_images: int) -> None:
    """Warns where `lr` at `images` per step is far from the recipe's, scaled in proportion to the images per step.

    Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD", 2.1 (linear scaling rule).
    """
    expected = recipe_lr * images / recipe_images
    if not expected / LR_FACTOR <= lr <= expected * LR_FACTOR:
        log.warning(
            "optimizer.lr is %.3g with %d images per step; the recipe has %.3g with %d, which makes %.3g here: "
            "set optimizer.lr=%.3g, or expect it to %s",
            lr,
            images,
            recipe_lr,
            recipe_images,
            expected,
            expected,
            "diverge" if lr > expected else "learn slowly",
        )
