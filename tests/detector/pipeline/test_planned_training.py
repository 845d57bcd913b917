"""From a folder of pictures to a finished run with a plan, from Python and from the command line."""

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector import train
from detector.build import build_backbone
from detector.configs import schema
from detector.engine.checkpoint import load_checkpoint
from detector.pipeline.data import Data
from detector.pipeline.models import RUN_SETTINGS, read_model
from detector.pipeline.planned_training import log_small_objects
from detector.pipeline.planning.planner import plan_run
from detector.pipeline.training import training_batches
from detector.tools.cli import run as run_command

# Small values: a run with the planned values would take minutes.
SMALL = {
    "dataset": "voc", "dataset.train": "trainval", "dataset.test": "test", "backbone.weights": None,
    "trainer.max_steps": 3, "trainer.device": "cpu", "input.test_short_side": 64, "input.short_sides": [64],
    "proposals.channels": 16, "backbone.joined_channels": 16, "backbone.tail_channels": 16,
}  # fmt: skip

PLANNED = ("dataset=voc", "dataset.train=trainval", "dataset.test=test", "backbone.weights=null", "trainer.device=cpu")


def words(settings: dict[str, object]) -> list[str]:
    texts = {key: "null" if value is None else str(value).replace(" ", "") for key, value in settings.items()}
    return [f"{key}={value}" for key, value in texts.items()]


def test_training_and_resuming_from_python(folder: Path, tmp_path: Path) -> None:
    run = train(folder, output_dir=tmp_path / "run", settings=SMALL)
    assert run.finished
    assert run.metrics["step"] == 3
    assert run.model(folder / "JPEGImages" / "6.jpg").boxes.shape[1] == 4
    assert_finished(run.path, steps=3)
    again = train(resume=run.path, settings={"trainer.max_steps": 4})
    assert again.finished
    assert again.metrics["step"] == 4
    assert_finished(run.path, steps=4)


def assert_finished(run: Path, *, steps: int) -> None:
    """The run has the report and the portable model of a training of so many steps, with its settings."""
    assert f"{steps} steps" in (run / "analysis.html").read_text()
    model = read_model(run / "model.safetensors")
    assert model.provenance["step"] == steps
    trained = yaml.safe_load((run / "config.yaml").read_text())
    saved, kept = (
        {key: value for key, value in config.items() if key not in (*RUN_SETTINGS, "export", "compress")}
        for config in (model.config, trained)
    )
    assert saved == kept


def test_the_plan_is_saved_and_every_planned_value_is_a_setting(folder: Path, tmp_path: Path) -> None:
    run = train(folder, output_dir=tmp_path / "run", settings=SMALL)
    plan = json.loads((run.path / "plan.json").read_text())
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    for choice in plan["choices"]:
        group, _, key = choice["key"].partition(".")
        assert config[group][key] == choice["value"], choice
        assert len(choice["reason"]) > 10
    assert set(plan["set_by_user"]) >= {"trainer.max_steps", "input.test_short_side"}
    assert not {choice["key"] for choice in plan["choices"]} & set(plan["set_by_user"])
    assert config["backbone"]["norm"] == "gn", "without weights there are no statistics to freeze"
    assert load_checkpoint(run.path)["config"]["trainer"]["ema_decay"] == config["trainer"]["ema_decay"]


def test_a_training_of_many_epochs_sees_mosaics(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 pictures, 2 a step: 30 steps are 12 epochs. The views that training builds must have the planned mosaics."""
    seen = []

    def spy(config: schema.Config, data: Data, *rest: Any, **words: Any) -> Any:
        seen.append((data.train_view.mosaic, config.loss.box.value))
        return training_batches(config, data, *rest, **words)

    monkeypatch.setattr("detector.pipeline.training.training_batches", spy)
    few = train(folder, output_dir=tmp_path / "few", settings={**SMALL, "trainer.max_steps": 29})
    many = train(folder, output_dir=tmp_path / "many", settings={**SMALL, "trainer.max_steps": 30})
    assert seen == [(0.0, "smooth_l1"), (0.5, "giou")]
    assert "input.mosaic" not in (few.path / "plan.json").read_text()
    assert "input.mosaic=0.5" in (many.path / "log.txt").read_text()
    kept = train(folder, output_dir=tmp_path / "kept", settings={**SMALL, "trainer.max_steps": 30, "input.mosaic": 0.2})
    assert seen[-1] == (0.2, "giou"), "what the user sets stays"
    assert kept.finished


def test_a_chosen_pyramid_is_planned_too(folder: Path) -> None:
    """The key of a group, such as neck, names a part; it does not set the part's values."""
    chosen = {"dataset": "voc", "dataset.train": "trainval", "dataset.test": "test", "backbone.weights": None}
    config, plan = plan_run(str(folder), words({**chosen, "neck": "fpn"}))
    assert plan.set_by_user == ()
    assert config.neck.kind == "fpn"
    assert {"neck.channels", "backbone.deeper_nodes"} <= {choice.key for choice in plan.choices}
    assert tuple(build_backbone(config).strides) == (8, 16, 32)


def test_a_plan_chooses_the_outputs_of_a_network_of_timm(folder: Path) -> None:
    pytest.importorskip("timm", reason="the extra `timm` is not installed")
    split = ["dataset=voc", "dataset.train=trainval", "dataset.test=test", "trainer.device=cpu"]
    config, _ = plan_run(str(folder), [*split, "backbone=timm", "backbone.name=resnet10t"])
    assert isinstance(config.backbone, schema.TimmConfig)
    assert config.backbone.node in ("layer2", "layer3")
    assert (config.backbone.frozen_nodes, config.backbone.weights) == ("layer1", "imagenet")


def test_the_command_writes_a_report_and_a_portable_model(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my run"
    assert run_command(["train", f"data={folder}", f"output_dir={out}", *words(SMALL)]) == 0
    assert "<html" in (out / "analysis.html").read_text()
    assert (out / "model.safetensors").stat().st_size > 1000
    assert list((out / "pictures").glob("*.jpg"))
    output = capfd.readouterr().err
    assert "about" in output
    assert f"detector predict 'weights={out / 'model.safetensors'}' images=FOLDER" in output, "a shell needs the quotes"
    assert output.count("train 5 images | test 3 images") == 1


def test_one_command_starts_and_resumes_a_planned_run(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The words of the first start, such as the head, must not undo the plan. A changed word counts."""
    chosen = {**SMALL, "head": "light_head", "trainer.max_steps": 1}
    line = ["train", f"data={folder}", f"output_dir={tmp_path / 'run'}", "resume=auto"]
    assert run_command([*line, *words(chosen)]) == 0
    assert_finished(tmp_path / "run", steps=1)
    capfd.readouterr()
    assert run_command([*line, *words({**chosen, "trainer.max_steps": 2})]) == 0
    assert "resuming from step 1" in capfd.readouterr().err
    assert_finished(tmp_path / "run", steps=2)
    again = train(folder, output_dir=tmp_path / "run", resume="auto", settings=chosen)
    assert again.metrics["step"] == 2
    assert run_command(["train", f"data={tmp_path}", *line[2:], *words(chosen)]) == 2
    assert f"was trained on {folder}" in capfd.readouterr().err


def test_a_stop_during_the_report_is_explained_and_can_be_finished(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("detector.tools.commands.train.run_export", stopped)
        assert run_command(["train", f"data={folder}", f"output_dir={tmp_path}", *words(SMALL)]) == 1
    assert f"complete, but not its report and its portable model; to write them: detector train resume={tmp_path}" in (
        capfd.readouterr().err
    )
    assert run_command(["train", f"resume={tmp_path}"]) == 0
    assert_finished(tmp_path, steps=3)


def test_a_stop_during_the_last_evaluation_can_be_finished(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("detector.pipeline.periodic_evaluation.show_learned_proposals", stopped)
        assert run_command(["train", f"data={folder}", f"output_dir={tmp_path}", *words(SMALL)]) == 3
    assert f"the report of a planned run: detector train resume={tmp_path}" in capfd.readouterr().err
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "analysis.html").exists()
    assert run_command(["train", f"resume={tmp_path}"]) == 0
    assert_finished(tmp_path, steps=3)


@pytest.mark.slow  # takes 0.6 minutes
def test_the_number_of_steps_follows_the_time_budget(folder: Path, tmp_path: Path) -> None:
    settings = {key: value for key, value in SMALL.items() if key != "trainer.max_steps"}
    run = train(folder, minutes=0.6, output_dir=tmp_path / "run", settings=settings)
    plan = json.loads((run.path / "plan.json").read_text())
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    (steps,) = [choice["value"] for choice in plan["choices"] if choice["key"] == "trainer.max_steps"]
    assert steps == config["trainer"]["max_steps"] == load_checkpoint(run.path)["config"]["trainer"]["max_steps"]
    assert run.metrics["step"] == steps, "the whole schedule fits into the budget"


def test_a_folder_or_resume_is_required() -> None:
    with pytest.raises(ValueError, match="expected a folder of photographs or resume=FOLDER of a run, got neither"):
        train()


def test_the_plan_command_trains_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["plan", f"data={folder}", *words(SMALL)]) == 0
    output = capfd.readouterr()
    assert f"plan for {folder} on" in output.out
    assert "optimizer.lr=" in output.out
    assert "minutes in all" in output.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["plan"], "plan needs data=FOLDER"),
        (["train", "data=photos", "resume=runs/one"], "a saved run has its own data"),
        (["train", "data=photos", "resume=auto"], "resume=auto with data= needs output_dir=FOLDER"),
        (["train", "data=photos", "--multirun"], "data= makes one plan, without --multirun"),
        (["train", "data=photos", "trainer.max_step=3"], "did you mean trainer.max_steps?"),
    ],
)
def test_contradictory_words_are_refused(line: list[str], expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(line) == 2
    output = capfd.readouterr().err
    assert expected in output
    assert output.count("\n") == 1


def test_a_missing_folder_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["train", f"data={tmp_path / 'none'}", "backbone.weights=null"]) == 1
    output = capfd.readouterr().err
    assert str(tmp_path / "none") in output
    assert "Traceback" not in output


def test_objects_that_are_too_small_are_reported_with_a_size_that_helps(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The objects have 20 of 64 pixels, so 20 pixels need a size of 64, and 8 pixels one of 25.6."""
    log = logging.getLogger("detector")
    for size, expected in ((32, []), (16, ["input.test_short_side=32 gives them 8 pixels"])):
        config, plan = plan_run(str(folder), [*PLANNED, f"input.test_short_side={size}"])
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger=log.name):
            log_small_objects(plan, config)
        assert len(caplog.messages) == len(expected)
        assert all(text in message for text, message in zip(expected, caplog.messages, strict=True))


def test_missing_weights_are_refused_before_the_pictures_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["train", f"data={folder}", "backbone.weights=none.pth"]) == 1
    output = capfd.readouterr().err
    assert output.startswith("error: backbone.weights=none.pth: no such file; give a path, a URL, imagenet, null")
    assert output.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_steps_that_do_not_fit_into_the_minutes_are_reported(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {**SMALL, "trainer.max_steps": 100000, "trainer.max_minutes": 0.01}
    run = train(folder, output_dir=tmp_path, settings=settings)
    assert run.metrics["step"] < 100000
    assert "trainer.max_steps=100000 takes longer than trainer.max_minutes=0.01" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        ({"folder": {"root": "photos"}}, TypeError, "expected the path of a folder of photographs, got dict"),
        ({"folder": "photos.zip"}, ValueError, "photos.zip: is a file; expected a folder .*; unpack it"),
        ({"folder": "photos.zip", "settings": ["head.kk=3"]}, ValueError, "did you mean head.k"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos.zip").write_bytes(b"")
    with pytest.raises(error, match=expected):
        train(**{"settings": {"backbone.weights": None}, **arguments})


@pytest.mark.parametrize("source", ["grid", "selective_search"])
def test_proposals_of_the_user_replace_the_rpn_and_the_plan_tells_it(folder: Path, source: str) -> None:
    config, plan = plan_run(str(folder), [*PLANNED, f"proposals={source}", "head=rfcn"])
    assert config.proposals.kind == source
    assert f"\n  parts chosen by you: head=rfcn, proposals={source}" in plan.table()
    assert not [choice.key for choice in plan.choices if choice.key.startswith("proposals.")]


def test_the_plan_keeps_the_value_that_a_choice_stands_for(folder: Path) -> None:
    config, plan = plan_run(str(folder), [*PLANNED, "head=fast_rcnn"])
    assert isinstance(config.head, schema.FastRCNNConfig)
    assert config.head.pooling is schema.Pooling.roi_pool
    assert plan.set_by_user == ("head.pooling",)
    planned, _ = plan_run(str(folder), PLANNED)
    assert isinstance(planned.head, schema.FastRCNNConfig)
    assert planned.head.pooling is schema.Pooling.roi_align
