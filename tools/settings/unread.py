"""The settings that each command reads. A setting that it does not read gives one line of warning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from detector.configs.keys import known_keys
from detector.configs.schema import Config

ALL = tuple(field.name for field in fields(Config))
TEST_INPUT = tuple(
    f"input.{key}"
    for key in (
        "test_short_side",
        "test_flip",
        "test_scales",
        "max_side",
        "canvas_multiple",
        "antialias",
        "mean",
        "std",
        "bgr_255",
    )
)
MODEL = ("weights", "backbone", "neck", "head", "proposals", "postprocess", *TEST_INPUT)
SCORING = ("weights", "detections", "dataset", "evaluation", "output_dir")
TRAINING = tuple(key for key in ALL if key not in ("detections", "images"))
# export, convert and compress write these settings into the model's file. Later commands read them from there.
RUN = ("output_dir", "resume", "weights", "detections", "images", "export", "compress")
WRITTEN = tuple(key for key in ALL if key not in RUN)

# command -> the groups and settings that it reads. Other commands take no settings, or check them themselves.
READ: dict[str, tuple[str, ...]] = {
    "train": TRAINING,
    "plan": TRAINING,
    "alternate": TRAINING,
    "export": (*WRITTEN, "weights", "export"),
    "convert": WRITTEN,
    "compress": (*WRITTEN, "weights", "compress"),
    "eval": (
        *MODEL,
        *SCORING,
        *(f"trainer.{key}" for key in ("device", "precision", "images_per_step", "workers", "eval_images")),
        "trainer.timeout_minutes",
    ),
    "analyze": SCORING,
    "compare": (*SCORING, "trainer.seed"),
    "benchmark": (
        *MODEL,
        *(f"loss.{key}" for key in ("deltas_mean", "deltas_std")),
        *(f"trainer.{key}" for key in ("device", "threads", "seed")),
        "benchmark",
        "output_dir",
    ),
    "predict": (*MODEL, "trainer.device", "trainer.precision", "predict", "images", "output_dir"),
    "proposals": ("dataset", "proposals"),
    "inspect": (
        "dataset",
        *(f"input.{key}" for key in ("test_short_side", "max_side", "short_sides")),
        *(f"input.{key}" for key in ("flip", "flip_vertical", "color_jitter")),  # with augment=true
        *(f"input.{key}" for key in ("crop", "mosaic", "scale_jitter")),
        "trainer.seed",
    ),
    "dataset": ("dataset",),
}
# `eval detections=...` runs no model. Besides the scoring it needs only the trainer's device and time limit.
READ_WITHOUT_MODEL = (*SCORING, "trainer.device", "trainer.timeout_minutes")
JOINED = ("backbone.joined_channels", "backbone.joined_separable")  # of the map that a pyramid replaces


def unread(command: str, words: Sequence[str]) -> list[str]:
    """Return one line for each word `key=value` whose key exists, but is not read by the command or the neck."""
    if command not in READ:
        return []
    read = READ[command]
    if command == "eval" and any(word.startswith("detections=") for word in words):
        read, command = READ_WITHOUT_MODEL, "eval detections=..."
    lines = []
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and key != "experiment" and key in known_keys() and not _is_read(key, read):
            group = key.split(".")[0]
            near = [name for name in read if name.startswith(f"{group}.")]
            hint = f"; of {group} it reads {', '.join(near)}" if near else ""
            lines.append(f"{command} does not read {key}, so {word} has no effect{hint}")
        elif key in JOINED and "neck=fpn" in words:
            lines.append(f"neck=fpn does not read {key}, so {word} has no effect; set neck.channels")
    return lines


def _is_read(key: str, read: Sequence[str]) -> bool:
    """Return True if `read` has the key, a group that holds it, or a setting inside it."""
    return any(key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.") for name in read)
