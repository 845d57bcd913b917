"""Every shipped choice composes, the defaults are the published ones, and a saved config loads unchanged."""

import itertools
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from detector.configs import schema
from detector.configs.choices import CONFIG_FOLDER, choices
from detector.configs.compose import load_config
from detector.configs.errors import ConfigError
from detector.configs.groups import GROUPS, structured, to_config, to_plain

# Settings without a default: only the user knows their values.
NEEDED = {
    "neck=fpn": ["backbone.tail=fc"],
    "proposals=file": ["proposals.train=a.npz", "proposals.test=b.npz"],
    "dataset=coco": [f"dataset.{name}=x" for name in ("train", "test", "train_images", "test_images")],
}
CHOICES = [f"{group}={name}" for group in GROUPS for name in choices(group)]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes(choice: str) -> None:
    group, _ = choice.split("=")
    chosen = getattr(load_config([choice, *NEEDED.get(choice, [])]), group)
    assert GROUPS[group][chosen.kind] is type(chosen)


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_composes_and_states_its_command_and_expected_result(name: str) -> None:
    load_config([f"experiment={name}"])
    text = (CONFIG_FOLDER / "experiment" / f"{name}.yaml").read_text()
    assert f"experiment={name}" in text
    assert "Expected:" in text


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["experiment=demo"],
        *[
            [f"head={head}", f"proposals={source}", f"sampling={sampling}"]
            for head, source, sampling in itertools.product(
                ("fast_rcnn", "light_head", "rfcn", "deformable_rfcn"), ("grid", "rpn"), ("random", "ohem")
            )
        ],
    ],
)
def test_a_config_converts_to_plain_values_and_yaml_and_back(overrides: list[str]) -> None:
    config = load_config(overrides)
    plain = to_plain(config)
    assert to_config(structured(plain)) == config
    text = OmegaConf.to_yaml(OmegaConf.create(plain))
    assert to_config(structured(yaml.safe_load(text))) == config


def test_an_old_config_without_a_neck_loads_with_none() -> None:
    plain = to_plain(load_config([]))
    del plain["neck"]
    assert to_config(structured(plain)).neck == schema.NoNeckConfig()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backbone=resnet50"], "backbone.tail=native: .* set backbone.tail=fc"),
        (["backbone=resnet50", "head=rfcn", "backbone.dilated_c5=true"], "backbone.dilated_c5=true: neck=fpn reads"),
        (["backbone=mobilenet_v2", "backbone.max_stride=16"], "neck=fpn reads backbone.node and backbone.deeper_nodes"),
        (["backbone=mobilenet_v2", "backbone.deeper_nodes=[features.18]"], "deeper_nodes without backbone.node: .*set"),
        (["backbone=timm", "backbone.deeper_nodes=[layer4]"], "backbone.deeper_nodes without backbone.node: .* leave"),
    ],
)
def test_a_pyramid_refuses_what_it_cannot_read(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(["neck=fpn", *words])


def test_plain_values_have_only_the_types_that_checkpoints_allow() -> None:
    def walk(value: object) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                assert type(key) is str
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)
        else:
            assert value is None or type(value) in (str, int, float, bool)

    walk(to_plain(load_config(["experiment=demo", "proposals=rpn"])))


def test_the_defaults_are_those_of_the_published_fast_rcnn() -> None:
    config = load_config([])
    assert isinstance(config.sampling, schema.RandomSamplingConfig)
    assert (config.sampling.rois_per_image, config.sampling.foreground_fraction) == (64, 0.25)
    assert (config.sampling.foreground_iou, config.sampling.background_iou_low) == (0.5, 0.1)
    assert config.sampling.background_iou_high == 0.5
    assert config.trainer.images_per_step == 2
    assert isinstance(config.optimizer, schema.SGDConfig)
    assert (config.optimizer.lr, config.optimizer.momentum, config.optimizer.weight_decay) == (1e-3, 0.9, 5e-4)
    assert (config.optimizer.bias_lr_factor, config.optimizer.bias_decay) == (2.0, False)
    assert (config.trainer.max_steps, config.schedule.milestones, config.schedule.gamma) == (40000, [0.75], 0.1)
    assert (config.input.short_sides, config.input.test_short_side, config.input.max_side) == ([600], 600, 1000)
    assert (config.postprocess.score_threshold, config.postprocess.nms_iou) == (0.05, 0.3)
    assert (config.loss.box, config.loss.box_weight, config.loss.sigma) == (schema.BoxLoss.smooth_l1, None, 1.0)
    assert (config.loss.label_smoothing, config.loss.focal_gamma, config.loss.class_balance_beta) == (0, 0, 0)
    assert isinstance(config.head, schema.FastRCNNConfig)
    assert (config.head.output_size, config.head.class_agnostic) == (7, False)


def test_the_light_head_has_the_published_settings() -> None:
    head = load_config(["head=light_head"]).head
    assert isinstance(head, schema.LightHeadConfig)
    assert (head.k, head.channels, head.kernel, head.mid_channels, head.fc_channels) == (7, 10, 15, 256, 2048)
    assert head.class_agnostic


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("head.kernel=14", "head.kernel is 14; expected an odd number"),
        ("head.kernel=-1", "head.kernel is -1; expected at least 1"),
        ("head.mid_channels=0", "head.mid_channels is 0; expected at least 1"),
        ("head.pooling=roi_align", "head.pooling"),
        ("head.output_size=7", "head.output_size"),
    ],
)
def test_the_light_head_refuses_values_that_cannot_work(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(["head=light_head", word])


def test_hard_example_mining_takes_background_from_zero() -> None:
    sampling = load_config(["sampling=ohem"]).sampling
    assert (sampling.rois_per_image, sampling.background_iou_low) == (128, 0.0)


def test_the_proposal_network_has_the_published_settings() -> None:
    rpn = load_config(["proposals=rpn"]).proposals
    assert isinstance(rpn, schema.RPNConfig)
    assert (rpn.scales, rpn.aspects) == ([8, 16, 32], [0.5, 1, 2])
    assert (rpn.pre_nms_train, rpn.top_k_train, rpn.pre_nms_test, rpn.top_k_test) == (12000, 2000, 6000, 300)
    assert (rpn.positive_iou, rpn.negative_iou, rpn.anchors_per_image, rpn.sigma) == (0.7, 0.3, 256, 3)
    assert rpn.box_loss is schema.BoxLoss.smooth_l1


def test_every_yaml_of_a_group_starts_from_its_schema() -> None:
    for path in sorted(Path(CONFIG_FOLDER).glob("*/*.yaml")):
        if path.parent.name != "experiment":
            kinds = {f"{kind}_schema" for kind in GROUPS[path.parent.name]}
            assert yaml.safe_load(path.read_text())["defaults"][0] in kinds, path.name
