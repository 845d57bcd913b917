"""The range of every number among the settings. A number outside it cannot work: it is refused before a run starts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from detector.configs.errors import require

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Range(NamedTuple):
    """The numbers from `least` to `most`. A list has `length` of them; None: one or more."""

    least: float
    most: float = math.inf
    above: bool = False  # `least` itself is refused
    below: bool = False  # `most` itself is refused
    length: int | None = None

    def holds(self, value: float) -> bool:
        """Return True if the value is finite and in the range."""
        return math.isfinite(value) and (
            (self.least < value if self.above else self.least <= value)
            and (value < self.most if self.below else value <= self.most)
        )

    def __str__(self) -> str:
        """The range in words."""
        if self.least == -math.inf:
            return "a finite number"
        low = f"above {self.least:g}" if self.above else f"at least {self.least:g}"
        if self.most == math.inf:
            return low
        return f"{low}, {'below' if self.below else 'at most'} {self.most:g}"


ANY = Range(-math.inf)
POSITIVE = Range(0, above=True)
ZERO_OR_MORE = Range(0)
ONE_OR_MORE = Range(1)
SHARE = Range(0, 1)
SHARE_ABOVE_0 = Range(0, 1, above=True)
SHARE_BELOW_1 = Range(0, 1, below=True)

# setting -> range. None among the values of a setting has a meaning of its own and is always accepted.
RANGES: dict[str, Range] = {
    "dataset.bit_depth": ONE_OR_MORE,
    "dataset.val_fraction": Range(0, 1, above=True, below=True),
    "dataset.height": ONE_OR_MORE,
    "dataset.width": ONE_OR_MORE,
    "dataset.seed": ZERO_OR_MORE,
    "backbone.depth": ONE_OR_MORE,
    "backbone.dropout": SHARE_BELOW_1,
    "backbone.frozen_stages": ZERO_OR_MORE,
    "backbone.joined_channels": ONE_OR_MORE,
    "backbone.max_stride": ONE_OR_MORE,
    "backbone.tail_channels": ONE_OR_MORE,
    "backbone.tail_ranks": ZERO_OR_MORE,
    "backbone.width": POSITIVE,
    "neck.channels": ONE_OR_MORE,
    "head.channels": ONE_OR_MORE,
    "head.fc_channels": ONE_OR_MORE,
    "head.k": ONE_OR_MORE,
    "head.kernel": ONE_OR_MORE,
    "head.mid_channels": ONE_OR_MORE,
    "head.offset_scale": POSITIVE,
    "head.output_size": ONE_OR_MORE,
    "head.sampling_ratio": ONE_OR_MORE,
    "proposals.anchors_per_image": ONE_OR_MORE,
    "proposals.aspects": POSITIVE,
    "proposals.channels": ONE_OR_MORE,
    "proposals.min_size": ZERO_OR_MORE,
    "proposals.negative_iou": SHARE,
    "proposals.nms_iou": SHARE,
    "proposals.overlap": SHARE_BELOW_1,
    "proposals.positive_fraction": SHARE,
    "proposals.positive_iou": SHARE_ABOVE_0,
    "proposals.pre_nms_test": ONE_OR_MORE,
    "proposals.pre_nms_train": ONE_OR_MORE,
    "proposals.resize_height": ONE_OR_MORE,
    "proposals.scales": POSITIVE,
    "proposals.sigma": POSITIVE,
    "proposals.top_k_test": ONE_OR_MORE,
    "proposals.top_k_train": ONE_OR_MORE,
    "proposals.workers": ONE_OR_MORE,
    "sampling.background_iou_high": SHARE,
    "sampling.background_iou_low": SHARE,
    "sampling.foreground_fraction": SHARE,
    "sampling.foreground_iou": SHARE_ABOVE_0,
    "sampling.rois_per_image": ONE_OR_MORE,
    "loss.box_weight": ZERO_OR_MORE,
    "loss.class_balance_beta": SHARE_BELOW_1,
    "loss.deltas_mean": ANY._replace(length=4),
    "loss.deltas_std": POSITIVE._replace(length=4),
    "loss.focal_gamma": ZERO_OR_MORE,
    "loss.label_smoothing": SHARE_BELOW_1,
    "loss.sigma": POSITIVE,
    "input.canvas_multiple": ONE_OR_MORE,
    "input.color_jitter": SHARE_BELOW_1,
    "input.crop": SHARE_ABOVE_0,
    "input.max_side": ONE_OR_MORE,
    "input.mean": ANY._replace(length=3),
    "input.mosaic": SHARE,
    "input.scale_jitter": POSITIVE._replace(length=2),
    "input.short_sides": ONE_OR_MORE,
    "input.std": POSITIVE._replace(length=3),
    "input.test_scales": POSITIVE,
    "input.test_short_side": ONE_OR_MORE,
    "postprocess.box_voting": SHARE_ABOVE_0,
    "postprocess.max_per_image": ONE_OR_MORE,
    "postprocess.nms_iou": SHARE,
    "postprocess.score_threshold": SHARE,
    "optimizer.betas": SHARE_BELOW_1._replace(length=2),
    "optimizer.bias_lr_factor": ZERO_OR_MORE,
    "optimizer.clip_norm": POSITIVE,
    "optimizer.lr": ZERO_OR_MORE,
    "optimizer.lr_factors": ZERO_OR_MORE,
    "optimizer.momentum": SHARE_BELOW_1,
    "optimizer.weight_decay": ZERO_OR_MORE,
    "schedule.gamma": ZERO_OR_MORE,
    "schedule.milestones": SHARE,
    "schedule.warmup_factor": ZERO_OR_MORE,
    "schedule.warmup_steps": ZERO_OR_MORE,
    "trainer.checkpoint_every": ZERO_OR_MORE,
    "trainer.ema_decay": SHARE_BELOW_1,
    "trainer.eval_every": ZERO_OR_MORE,
    "trainer.eval_images": ZERO_OR_MORE,
    "trainer.images_per_step": ONE_OR_MORE,
    "trainer.keep_every": ZERO_OR_MORE,
    "trainer.keep_newest": ZERO_OR_MORE,
    "trainer.log_every": ONE_OR_MORE,
    "trainer.max_minutes": POSITIVE,
    "trainer.max_steps": ONE_OR_MORE,
    "trainer.micro_batches": ONE_OR_MORE,
    "trainer.patience": ONE_OR_MORE,
    "trainer.prefetch": ONE_OR_MORE,
    "trainer.profile_steps": ZERO_OR_MORE,
    "trainer.seed": ZERO_OR_MORE,
    "trainer.threads": ONE_OR_MORE,
    "trainer.timeout_minutes": POSITIVE,
    "trainer.workers": ZERO_OR_MORE,
    "evaluation.iou_threshold": SHARE_ABOVE_0,
    "evaluation.pictures": ZERO_OR_MORE,
    "evaluation.resamples": ONE_OR_MORE,
    "evaluation.score_threshold": ANY,  # scores in a result file may have any range
    "benchmark.batch_size": ONE_OR_MORE,
    "benchmark.height": ONE_OR_MORE,
    "benchmark.num_classes": ONE_OR_MORE,
    "benchmark.num_proposals": ONE_OR_MORE,
    "benchmark.repeats": ONE_OR_MORE,
    "benchmark.warmup": ZERO_OR_MORE,
    "benchmark.width": ONE_OR_MORE,
    "predict.batch_size": ONE_OR_MORE,
    "predict.draw_threshold": SHARE,
    "predict.max_frames": ONE_OR_MORE,
    "predict.score_threshold": SHARE,
    "predict.tile": Range(32),
    "predict.tile_overlap": Range(0, 0.9, below=True),
    "compress.max_drop": SHARE,
    "compress.max_ms": POSITIVE,
    "compress.ranks": ZERO_OR_MORE,
}
MAY_BE_EMPTY = {"schedule.milestones"}


def check_ranges(config: DictConfig) -> None:
    """Raise ConfigError for the first number of a config that is outside its range."""
    from omegaconf import DictConfig, ListConfig, OmegaConf

    for key, allowed in RANGES.items():
        value = OmegaConf.select(config, key)  # None if the chosen kind has no such setting
        items = [value]
        if isinstance(value, DictConfig):
            items = list(value.values())
        elif isinstance(value, ListConfig):
            items = list(value)
            counts = (len(items) == allowed.length) if allowed.length else (items or key in MAY_BE_EMPTY)
            require(bool(counts), f"{key} is {value}; expected {allowed.length or 'one or more'} numbers")
        for item in items:
            require(item is None or allowed.holds(item), f"{key} is {value}; expected {allowed}")
