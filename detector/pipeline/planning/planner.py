"""Plan of `detector train data=FOLDER`: first the settings, then, after a real step is timed, the number of steps.

The plan never changes a setting of the command line. All planned values are ordinary settings.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detector.backbones.recognise import recognise
from detector.backbones.weights import read_classifier, require_source
from detector.build import build_backbone, known_nodes
from detector.configs import schema
from detector.configs.compose import load_config, override_config
from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.configs.paths import plain_text
from detector.datasets.build import build_dataset, open_folder
from detector.datasets.sample import Dataset
from detector.datasets.splits import Split
from detector.model import Detector
from detector.pipeline.data import Data
from detector.pipeline.learned_proposals import RECALL_IMAGES
from detector.pipeline.planning.fingerprint import Fingerprint, take_fingerprint
from detector.pipeline.planning.machine import Machine, inspect_machine
from detector.pipeline.planning.rules import Choice, Given, Parts, mosaic_rules, plan_settings
from detector.pipeline.planning.timetable import Timetable, make_timetable, time_rules
from detector.pipeline.planning.trial import Trial, measure
from detector.pipeline.run_folder import pick_device

log = logging.getLogger("detector")

# Settings that choose the output of a network from torchvision or timm.
OUTPUTS = {f"backbone.{key}" for key in ("node", "proposals_node", "deeper_nodes", "max_stride")}
GROUPS = {"head": "fast_rcnn_align", "proposals": "rpn", "sampling": "random", "optimizer": "adamw"}
# Choices with a value of their own, as (group, choice): its key, which the plan then leaves alone.
OWN_VALUES = {("head", "fast_rcnn"): "head.pooling"}  # RoI pooling; RoIAlign is head=fast_rcnn_align


@dataclass(frozen=True, slots=True)
class Plan:
    """Planned settings, and the measurements that they follow from."""

    data: Fingerprint
    machine: Machine
    parts: Parts
    choices: tuple[Choice, ...]  # the planned settings
    set_by_user: tuple[str, ...]  # keys of rules that the command line overrides
    parts_by_user: tuple[str, ...] = ()  # parts that the command line chooses, as "head=rfcn"
    words: tuple[str, ...] = ()  # the settings of the command line
    split: Split | None = None  # of a folder of photographs; None for a data set whose splits have names
    trial: Trial | None = None
    timetable: Timetable | None = None

    def table(self) -> str:
        """Return one line for each setting: key, value, reason."""
        lines = [table_of(self.choices)]
        if self.parts_by_user:
            lines.append(f"  parts chosen by you: {', '.join(self.parts_by_user)}")
        if self.set_by_user:
            lines.append(f"  set by you, not planned: {', '.join(self.set_by_user)}")
        return "\n".join(lines)

    def with_steps(self, steps: int) -> Plan:
        """Return the plan with a new number of steps, changed during training."""
        choices = tuple(
            replace(choice, value=steps, reason=f"{choice.reason}; changed during training")
            if choice.key == "trainer.max_steps"
            else choice
            for choice in self.choices
        )
        return replace(self, choices=choices)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values, for plan.json."""
        data = self.data
        return {
            "data": {
                "images": data.num_images,
                "objects": data.objects,
                "smallest_class": data.smallest_class,
                "smallest_side": round(data.smallest_side, 4),
                "overlap": round(data.overlap, 4),
                "most_objects": data.most_objects,
                "short_side": data.short_side,
                "elongation": round(data.elongation, 4),
            },
            "machine": asdict(self.machine),
            "choices": [asdict(choice) for choice in self.choices],
            "set_by_user": list(self.set_by_user),
            "words": list(self.words),
            "trial": None if self.trial is None else asdict(self.trial),
            "timetable": None if self.timetable is None else asdict(self.timetable),
        }


def table_of(choices: Sequence[Choice]) -> str:
    """Return one line for each choice: key, value, reason."""
    width = max((len(choice.override) for choice in choices), default=0)
    return "\n".join(f"  {choice.override:<{width}}  {choice.reason}" for choice in choices)


def plan_run(folder: str, words: Sequence[str]) -> tuple[schema.Config, Plan]:
    """Return the config of a training on the photographs in `folder`, and its plan. `words` are key=value.

    `fit_steps` sets the number of steps later. Raises ConfigError for invalid words, ValueError for a folder that
    cannot be read.
    """
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    source = [*([] if "dataset" in given else ["dataset=auto"]), f"dataset.root={folder}"]
    chosen = [f"{group}={name}" for group, name in GROUPS.items() if group not in given]
    chosen += _backbone(given)
    base = [*source, *chosen, *words]
    config = load_config(base)
    train_set, split = _training_set(config.dataset)
    data = take_fingerprint(train_set.annotations, train_set.classes)
    machine = inspect_machine(pick_device(config.trainer.device), config.trainer.threads)
    parts = Parts(
        head=config.head.kind,
        proposals=config.proposals.kind,
        optimizer=config.optimizer.kind,
        weights=config.backbone.weights is not None,
        nodes=known_nodes(config.backbone),
        pyramid=config.neck.kind == "fpn",
    )
    planned = plan_settings(data, machine, parts, _given(config, given))
    kept = tuple(choice for choice in planned if not _set_by(choice.key, given))
    set_by_user = tuple(choice.key for choice in planned if _set_by(choice.key, given))
    config = override_config(to_plain(config), [choice.override for choice in kept])
    parts_by_user = tuple(f"{group}={given[group]}" for group in (*GROUPS, "backbone", "neck") if group in given)
    return config, Plan(data, machine, parts, kept, set_by_user, parts_by_user, tuple(words), split)


def fit_steps(
    plan: Plan,
    config: schema.Config,
    words: Sequence[str],
    data: Data,
    detector: Detector,
    device: torch.device,
    elapsed: float,
) -> tuple[schema.Config, Plan]:
    """Time a real step. Return the config with the number of steps that fits into the minutes, and the full plan.

    A copy of the initial `detector` is timed. The number of epochs follows, and with it how images are augmented.

    `elapsed` is the time since the start of the command, in seconds.
    """
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    settings = config.trainer
    budget = None if settings.max_minutes is None else 60 * settings.max_minutes
    trial = measure(config, data, detector, device, most_seconds=30 if budget is None else min(30, 0.05 * budget))
    timetable = make_timetable(
        trial,
        budget=budget,
        elapsed=elapsed + trial.spent,
        train_images=len(data.train_view),
        test_images=len(data.test_view),
        recall_images=min(RECALL_IMAGES, len(data.test_view)) if plan.parts.proposals == "rpn" else 0,
        images_per_step=settings.images_per_step,
        steps=settings.max_steps if "trainer.max_steps" in given else None,
    )
    epochs = timetable.steps * settings.images_per_step / len(data.train_view)
    planned = time_rules(timetable, epochs)
    if "input.mosaic" not in given or config.input.mosaic > 0:
        planned += mosaic_rules(plan.data, plan.parts, epochs)
    kept = tuple(choice for choice in planned if not _set_by(choice.key, given))
    set_by_user = tuple(choice.key for choice in planned if _set_by(choice.key, given))
    config = override_config(to_plain(config), [choice.override for choice in kept])
    return config, replace(
        plan,
        choices=plan.choices + kept,
        set_by_user=plan.set_by_user + set_by_user,
        trial=trial,
        timetable=timetable,
    )


def _training_set(config: schema.DatasetConfig) -> tuple[Dataset, Split | None]:
    """Return the training split, and both splits of a folder. Nothing is logged, because training logs it again."""
    if isinstance(config, schema.AutoDatasetConfig):
        folder = open_folder(config, quiet=True)
        return folder.train, folder.split
    return build_dataset(config, "train"), None


def _given(config: schema.Config, given: dict[str, str]) -> Given:
    """Return the values that the words `given` fix in `config`, or that its backbone fixes."""
    settings = config.input
    return Given(
        test_side=settings.test_short_side if "input.test_short_side" in given else None,
        train_sides=tuple(settings.short_sides) if "input.short_sides" in given else None,
        stride=_fixed_stride(config, given),
        images_per_step=config.trainer.images_per_step if "trainer.images_per_step" in given else None,
    )


def _fixed_stride(config: schema.Config, given: dict[str, str]) -> int | None:
    """Return the stride of the RPN's map if the rules cannot choose it. With a pyramid, None."""
    can_choose = (
        isinstance(config.backbone, (schema.TorchvisionConfig, schema.TimmConfig)) and not OUTPUTS & given.keys()
    )
    if can_choose or isinstance(config.neck, schema.FPNConfig):
        return None
    return build_backbone(config).proposal_strides[0]


def _backbone(given: dict[str, str]) -> list[str]:
    """Return words for the backbone and its weights, if the command line does not set them."""
    weights = given.get("backbone.weights")
    if weights not in (None, "null"):
        require_source(plain_text(weights))
    if "backbone" in given:
        return [] if weights is not None else ["backbone.weights=imagenet"]
    if weights is not None and weights != "null" and Path(plain_text(weights)).is_file():
        if "backbone.name" in given:
            return ["backbone=torchvision"]
        name = recognise(read_classifier(Path(plain_text(weights))))
        if name is None:
            raise ConfigError(
                f"backbone.weights={weights}: expected the tensors of a torchvision classifier, got others; name the "
                "network with backbone=NAME, or with backbone=torchvision backbone.name=NAME"
            )
        return ["backbone=torchvision", f"backbone.name={name}"]
    name = given.get("backbone.name") or _default_backbone(given, scratch=weights == "null")
    return ["backbone=torchvision", f"backbone.name={name}", *([] if weights else ["backbone.weights=imagenet"])]


def _default_backbone(given: dict[str, str], *, scratch: bool) -> str:
    """Return the backbone to use if none is named: one that this machine can train in minutes."""
    if scratch:
        return "resnet18"
    return "resnet50" if pick_device(given.get("trainer.device", "auto")).type == "cuda" else "mobilenet_v2"


def _set_by(key: str, given: dict[str, str]) -> bool:
    """Return True if the command line sets the key, or a group that contains it, or a choice with a value for it."""
    words = [word for word in given if word not in {*GROUPS, "backbone", "neck"}]
    words += [own for (group, choice), own in OWN_VALUES.items() if given.get(group) == choice]
    return any(key == word or key.startswith(f"{word}.") for word in words)
