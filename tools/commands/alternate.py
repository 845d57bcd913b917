"""`detector alternate`: train RPN and head in four steps that end in one network (Faster R-CNN 3.2; R-FCN 3).

1_rpn       the RPN alone, from the classifier's weights
2_detector  backbone and head, from the classifier's weights again, on the proposals of step 1
3_rpn       a new RPN on the frozen backbone of step 2
4_head      the layers that only the head uses, on the proposals of step 3; layers shared with the RPN are frozen

Each step is a run in a separate folder, with the steps and the schedule of the config. Step 4 writes the detector.
To resume, repeat the command: it skips finished steps and continues an interrupted one.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from detector.build import build_detector
from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.augment import EvaluationView
from detector.datasets.build import readable_dataset
from detector.engine.checkpoint import load_checkpoint, save_checkpoint
from detector.engine.ema import evaluated_weights
from detector.engine.learning import modules_of_the_head
from detector.engine.seed import seed_step
from detector.engine.trainer import Outcome
from detector.pipeline.learned_proposals import write_learned_proposals
from detector.pipeline.models import load_model
from detector.pipeline.run_folder import RunFolder, logged_run, pick_device
from detector.pipeline.training import run_training
from detector.tools.settings.application import Task
from detector.tools.settings.exit_codes import DONE, INTERRUPTED

log = logging.getLogger("detector")


def run_alternation(config: schema.Config, folder: Path) -> Outcome:
    """Run the steps that are not finished. Raises ConfigError for a config that does not allow the four steps."""
    if not isinstance(config.proposals, schema.RPNConfig):
        raise ConfigError(f"proposals.kind is {config.proposals.kind}, but alternate trains an RPN; set proposals=rpn")
    if getattr(config.backbone, "norm", None) is schema.Norm.bn:
        raise ConfigError("backbone.norm is bn, whose statistics change even in a frozen layer; set frozen_bn or gn")
    if config.input.mosaic > 0:
        raise ConfigError(
            f"input.mosaic={config.input.mosaic}: step 2 trains on stored proposals, which are boxes of one image; set "
            "input.mosaic=0, or use detector train"
        )
    steps = [folder / name for name in ("1_rpn", "2_detector", "3_rpn", "4_head")]
    for number, (step, path) in enumerate(zip((_first, _second, _third, _fourth), steps, strict=True), start=1):
        log.info("step %d of 4: %s", number, path.name)
        resume = load_checkpoint(path) if last(path).exists() else None
        if resume is not None and resume["step"] >= config.trainer.max_steps:
            log.info("%s is finished", path)
            continue
        path.mkdir(parents=True, exist_ok=True)
        settings = replace(step(config, steps), output_dir=str(path), resume=None if resume is None else str(path))
        if run_training(settings, RunFolder(path), resume) is Outcome.interrupted:
            return Outcome.interrupted
    return Outcome.done


def alternate(task: Task) -> int:
    """Run the four steps and return the exit code."""
    with logged_run(str(task.folder), "alternate") as folder:
        outcome = run_alternation(task.config, folder.path)
    return INTERRUPTED if outcome is Outcome.interrupted else DONE


def last(path: Path) -> Path:
    """Return the path of a run's newest checkpoint."""
    return path / "checkpoints" / "last.pt"


def _first(config: schema.Config, steps: list[Path]) -> schema.Config:
    return _training(config, ["backbone", "proposals"])


def _second(config: schema.Config, steps: list[Path]) -> schema.Config:
    """Write the proposals of step 1 for both splits, as many as the head uses. Return the config of step 2."""
    rpn = config.proposals
    assert isinstance(rpn, schema.RPNConfig)
    files = {}
    for role, pre_nms, top_k in (
        ("train", rpn.pre_nms_train, rpn.top_k_train),
        ("test", rpn.pre_nms_test, rpn.top_k_test),
    ):
        path = steps[0] / f"proposals_{role}.npz"
        files[role] = str(path)
        if not path.exists():
            device = pick_device(config.trainer.device)
            testing = replace(config, proposals=replace(rpn, pre_nms_test=pre_nms, top_k_test=top_k))
            model = load_model(last(steps[0]), testing, device)
            view = EvaluationView(readable_dataset(config.dataset, role), None, short_side=config.input.test_short_side)
            write_learned_proposals(path, model.detector, view, device, config.trainer.precision)
    from_files = schema.FileProposalsConfig(
        top_k_train=rpn.top_k_train, top_k_test=rpn.top_k_test, min_size=rpn.min_size, **files
    )
    return _training(replace(config, proposals=from_files), None)


def _third(config: schema.Config, steps: list[Path]) -> schema.Config:
    """Write start.pt: step 2's backbone, head and target statistics, with a new RPN. Return the config of step 3."""
    start, found = steps[2] / "start.pt", load_checkpoint(last(steps[1]))
    seed_step(config.trainer.seed, -1, 0)
    fresh = build_detector(config, len(found["classes"])).state_dict()
    save_checkpoint(start, {**found, "model": {**fresh, **evaluated_weights(found)}, "average": None})
    return _training(replace(config, weights=str(start)), ["proposals"])


def _fourth(config: schema.Config, steps: list[Path]) -> schema.Config:
    found = load_checkpoint(last(steps[2]))
    detector = build_detector(config, len(found["classes"]))
    own = [f"backbone.{name}" for name in modules_of_the_head(detector.get_submodule("backbone"))]
    return _training(replace(config, weights=str(last(steps[2]))), ["head", *own])


def _training(config: schema.Config, trained: list[str] | None) -> schema.Config:
    return replace(config, trainer=replace(config.trainer, trained=trained))
