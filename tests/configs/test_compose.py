"""Overrides to configs: a refusal is one line that names the key and the nearest valid one."""

import dataclasses

import pytest

from detector.configs import schema
from detector.configs.choices import choices
from detector.configs.compose import load_config, override_config, sweep
from detector.configs.errors import ConfigError
from detector.configs.groups import GROUPS, to_plain


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.max_step=5", ["trainer.max_step", "did you mean trainer.max_steps?"]),
        ("optimiser.lr=1", ["optimiser", "optimizer"]),
        ("max_steps=5", ["max_steps", "trainer.max_steps"]),
        ("head.kk=3", ["head.kk"]),
        ("head.k=3", ["head.k"]),  # an option of the other head
        ("backbone=resnet5", ["backbone=resnet5: no such backbone", "resnet50"]),
        ("experiment=dmo", ["experiment=dmo: no such experiment", "demo"]),
        ("head=rcnn", ["no such head", "rfcn"]),
        ("trainer.max_steps=many", ["trainer.max_steps", "many"]),
        ("trainer.max_steps=1.5", ["trainer.max_steps", "1.5"]),
        ("input.flip=perhaps", ["input.flip", "perhaps"]),
        ("input.crop=0", ["input.crop is 0.0; expected above 0, at most 1"]),
        ("input.crop=1.5", ["input.crop is 1.5"]),
        ("input.mosaic=2", ["input.mosaic is 2.0; expected at least 0, at most 1"]),
        ("input.scale_jitter=[2,0.5]", ["input.scale_jitter is [2.0, 0.5]; expected the smallest"]),
        ("input.scale_jitter=[0.5]", ["input.scale_jitter is [0.5]; expected 2 numbers"]),
        ("input.scale_jitter=[0,1]", ["input.scale_jitter is [0.0, 1.0]"]),
        ("input.short_sides=[a]", ["input.short_sides", "a"]),
        ("input.short_sides=[]", ["input.short_sides is []; expected one or more numbers"]),
        ("loss.sigma=0", ["loss.sigma is 0.0; expected above 0"]),
        ("optimizer.lr=nan", ["optimizer.lr is nan; expected at least 0"]),
        ("optimizer.lr_factors={head:-1}", ["optimizer.lr_factors is {'head': -1.0}; expected at least 0"]),
        ("postprocess.nms_iou=30", ["postprocess.nms_iou is 30.0; expected at least 0, at most 1"]),
        ("trainer.max_minutes=0", ["trainer.max_minutes is 0.0; expected above 0"]),
        ("trainer.micro_batches=0", ["trainer.micro_batches is 0; expected at least 1"]),
        ("trainer.max_steps=0", ["trainer.max_steps is 0; expected at least 1"]),
        ("trainer.log_every=0", ["trainer.log_every is 0; expected at least 1"]),
        ("trainer.workers=-1", ["trainer.workers is -1; expected at least 0"]),
        ("trainer.precision=fp8", ["trainer.precision is 'fp8'; use fp32, bf16, fp16 or auto"]),
        ("loss.box=iou", ["loss.box", "iou", "smooth_l1", "giou", "ciou"]),
        ("loss.label_smoothing=1", ["loss.label_smoothing is 1.0; expected at least 0, below 1"]),
        ("loss.focal_gamma=-1", ["loss.focal_gamma is -1.0; expected at least 0"]),
        ("loss.class_balance_beta=1", ["loss.class_balance_beta is 1.0; expected at least 0, below 1"]),
        ("schedule.decay=linear", ["schedule.decay", "linear", "cosine"]),
        ("trainer.max_steps", ["trainer.max_steps", "key=value"]),
    ],
)
def test_invalid_overrides_are_named(override: str, parts: list[str]) -> None:
    message = refusal(override)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("override", ["trainer.max_steps=many", "trainer.max_steps=0", "head=rcnn", "head.kk=3"])
def test_a_debugger_does_not_change_messages(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OmegaConf then chains its errors, as it does with OC_CAUSE=1."""
    message = refusal(override)
    monkeypatch.setenv("OC_CAUSE", "1")
    assert refusal(override) == message


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["proposals=rpn", "loss.targets=measured"], ["loss.targets", "proposals=rpn"]),
        (["backbone=mobilenet_v2", "backbone.tail=native"], ["backbone.tail", "fc"]),
        (["backbone=resnet50", "backbone.dilated_c5=true"], ["backbone.dilated_c5", "backbone.tail=fc"]),
        (["backbone=resnet50", "head.channels=256"], ["head.channels=256", "backbone.tail=fc"]),
        (["backbone.tail=fc", "head.channels=0"], ["head.channels is 0", "at least 1"]),
        (["backbone=resnet50", "backbone.depth=42"], ["backbone.depth is 42", "101"]),
        (["sampling=ohem", "sampling.rois_per_image=2000"], ["sampling.rois_per_image", "proposals.top_k_train"]),
        (["proposals=selective_search", "input.mosaic=0.5"], ["input.mosaic=0.5: ", "set proposals=rpn"]),
        (["proposals=grid", "input.mosaic=0.5"], ["input.mosaic=0.5: ", "or input.mosaic=0"]),
        (["proposals=file"], ["proposals.test", "proposals.train", "no value given"]),
        (["experiment=demo", "dataset=voc"], ["experiment/demo", "dataset.height, which dataset=voc does not have"]),
        (
            ["experiment=rfcn_resnet50_voc0712_rpn", "proposals=grid"],
            ["proposals.pre_nms_train, which proposals=grid does not have; keep this part of the experiment"],
        ),
    ],
)
def test_impossible_combinations_are_named_before_anything_is_built(overrides: list[str], parts: list[str]) -> None:
    message = refusal(*overrides)
    for part in parts:
        assert part in message


def test_overrides_of_a_saved_config_are_also_checked() -> None:
    saved = to_plain(load_config(["experiment=demo"]))
    assert override_config(saved, ["trainer.max_steps=7"]).trainer.max_steps == 7
    with pytest.raises(ConfigError, match="did you mean trainer.max_steps"):
        override_config(saved, ["trainer.max_step=7"])
    with pytest.raises(ConfigError, match="trainer.max_steps"):
        override_config(saved, ["trainer.max_steps=many"])
    with pytest.raises(ConfigError, match="expected at least 1"):
        override_config(saved, ["trainer.max_steps=0"])


def test_a_group_choice_replaces_the_whole_group_of_a_saved_config() -> None:
    saved = to_plain(load_config(["experiment=demo"]))
    changed = override_config(saved, ["dataset=voc", "dataset.root=elsewhere"])
    assert changed.dataset == schema.VOCDatasetConfig(root="elsewhere")
    assert changed.optimizer == load_config(["experiment=demo"]).optimizer


def test_a_saved_config_without_overrides_is_the_same_config() -> None:
    config = load_config(["experiment=demo", "head=rfcn"])
    assert override_config(to_plain(config), []) == config


def test_groups_and_values_can_be_given_in_any_order() -> None:
    assert load_config(["head=rfcn", "head.k=3"]) == load_config(["head.k=3", "head=rfcn"])


def test_a_saved_config_of_an_unknown_kind_is_refused() -> None:
    saved = to_plain(load_config([]))
    saved["head"]["kind"] = "yolo"
    with pytest.raises(ConfigError, match=f"head.kind is 'yolo'; expected one of {', '.join(GROUPS['head'])}"):
        override_config(saved, [])


def test_a_sweep_is_the_product_of_its_lists() -> None:
    jobs = sweep(["trainer.seed=1,2", "head=fast_rcnn,rfcn", "optimizer.lr=0.01"])
    assert len(jobs) == 4
    assert all("optimizer.lr=0.01" in job for job in jobs)
    assert {tuple(sorted(job)) for job in jobs} == {
        ("head=" + head, "optimizer.lr=0.01", "trainer.seed=" + seed) for head in ("fast_rcnn", "rfcn") for seed in "12"
    }


def test_choices_are_the_files_of_a_group() -> None:
    assert choices("sampling") == ["balanced", "ohem", "random"]
    assert {"fast_rcnn", "fast_rcnn_align", "rfcn"} <= set(choices("head"))  # a head may be added
    assert "demo" in choices("experiment")


def test_composing_twice_gives_equal_configs_without_shared_objects() -> None:
    first, second = load_config(["experiment=demo"]), load_config(["experiment=demo"])
    assert first == second
    first.input.short_sides.append(1)
    assert second.input.short_sides != first.input.short_sides
    assert dataclasses.is_dataclass(first.head)
