"""Paths on the command line: a folder name needs no quoting, whatever characters it has."""

from dataclasses import fields
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from detector.configs.compose import changes, load_config, override_config, sweep
from detector.configs.groups import GROUPS, to_plain
from detector.configs.keys import hydra_word, known_keys, path_keys, path_list_keys
from detector.configs.paths import hydra_list, hydra_value, plain_text
from detector.configs.schema import AutoDatasetConfig, Config, VOCDatasetConfig
from detector.pipeline.resume import find_start, value_of
from detector.pipeline.run_folder import RunFolder

NAMES = [
    "a=b",
    "one,two",
    "set #1",
    "photos (2024)",
    "list[0]",
    "set{1}",
    "it's mine",
    'the "best"',
    "~tilde",
    "back~up",
    " blank at both ends ",
    "Größe_été",
    "数据集",
    "naïve, 'n' [ {=# ~",
    "'quoted'",
    "back\\slash\\",
    "100%: a;b|c&d!?*$",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_name_needs_no_quoting(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    for exists in (False, True):
        if exists:
            folder.mkdir()
        dataset = load_config([f"dataset.root={folder}", "trainer.seed=5"]).dataset
        assert isinstance(dataset, VOCDatasetConfig)
        assert dataset.root == str(folder)


@pytest.mark.parametrize("name", NAMES)
def test_folder_names_of_saved_runs_need_no_quoting(name: str, tmp_path: Path) -> None:
    saved = to_plain(load_config(["experiment=demo"]))
    config = override_config(saved, [f"output_dir={tmp_path / name}", f"weights={name}"])
    assert (config.output_dir, config.weights) == (str(tmp_path / name), name.replace("'quoted'", "quoted"))
    (tmp_path / name).mkdir()
    RunFolder(tmp_path / name).write_config(config)
    start = find_start([f"config={tmp_path / name}", f"output_dir={name}"])
    assert start.config.trainer == config.trainer


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_folder_is_not_a_list_in_a_sweep(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    jobs = sweep([f"dataset.root={tmp_path / name}", "trainer.seed=1,2", f"output_dir={tmp_path / 'runs' / name}"])
    assert len(jobs) == 2
    for job in jobs:
        assert value_of("output_dir", job) == str(tmp_path / "runs" / name)
        assert load_config(job).dataset == VOCDatasetConfig(root=str(tmp_path / name))


def test_a_comma_between_paths_is_a_list_in_a_sweep() -> None:
    jobs = sweep(["dataset.root=one two,three (3)", "weights=a.pt,null"])
    assert [(value_of("dataset.root", job), load_config(job).weights) for job in jobs] == [
        ("one two", "a.pt"),
        ("one two", None),
        ("three (3)", "a.pt"),
        ("three (3)", None),
    ]
    assert [value_of("dataset.root", job) for job in sweep(["dataset.root='a,b','c'"])] == ["a,b", "c"]
    assert [value_of("weights", job) for job in sweep(["weights=choice(a,b)"])] == ["a", "b"]


@pytest.mark.parametrize("value", ["'my photos'", '"my photos"', "my photos"])
def test_a_value_in_hydras_quotes_is_accepted(value: str) -> None:
    assert load_config([f"output_dir={value}"]).output_dir == "my photos"
    assert value_of("output_dir", [f"output_dir={value}"]) == "my photos"


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for value in ("~/VOC, all", "'~/VOC, all'"):
        assert load_config([f"output_dir={value}"]).output_dir == f"{tmp_path}/VOC, all"
        assert plain_text(value) == f"{tmp_path}/VOC, all"
    assert load_config(["output_dir=~"]).output_dir == str(tmp_path)
    (tmp_path / "~").mkdir()
    assert load_config(["output_dir=~"]).output_dir == "~"  # an existing name is used literally


def test_null_and_interpolations_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "over there")
    assert load_config(["backbone.weights=null", "output_dir="]).backbone.weights is None
    assert load_config(["output_dir=runs/${trainer.seed}", "trainer.seed=7"]).output_dir == "runs/7"
    assert load_config(["output_dir=${oc.env:PLACE}"]).output_dir == "over there"


def test_other_settings_are_not_quoted() -> None:
    assert hydra_word("trainer.seed=1,2") == "trainer.seed=1,2"
    assert hydra_word("input.short_sides=[480,600]") == "input.short_sides=[480,600]"


def also_of(*words: str) -> list[str]:
    dataset = load_config(["dataset=auto", *words]).dataset
    assert isinstance(dataset, AutoDatasetConfig)
    return dataset.also


@pytest.mark.parametrize("name", NAMES)
def test_a_list_of_one_folder_needs_neither_quotes_nor_brackets(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    assert also_of(f"dataset.also={folder}") == [str(folder)]
    folder.mkdir()
    assert also_of(f"dataset.also={folder}") == [str(folder)]
    (job,) = sweep(["dataset=auto", f"dataset.also={folder}"])
    assert also_of(*job[1:]) == [str(folder)]


def test_a_list_of_folders_has_brackets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for written, expected in (
        ("[]", []),
        ("[one]", ["one"]),
        (
            "[one (2024), ~/two, it's, [draft] b, 'x, y']",
            ["one (2024)", f"{tmp_path}/two", "it's", "[draft] b", "x, y"],
        ),
        ("~/more photos", [f"{tmp_path}/more photos"]),
        ("[draft] photos", ["[draft] photos"]),
    ):
        assert also_of(f"dataset.also={written}") == expected
        assert hydra_list(hydra_list(written)) == hydra_list(written)
    (tmp_path / "[one]").mkdir()
    assert also_of("dataset.also=[one]") == ["[one]"]  # an existing name is used literally


def test_a_comma_outside_brackets_separates_lists_in_a_sweep() -> None:
    jobs = sweep(["dataset=auto", "dataset.also=[one,two],three (3),[]"])
    assert [also_of(*job[1:]) for job in jobs] == [["one", "two"], ["three (3)"], []]
    assert [also_of(*job[1:]) for job in sweep(["dataset=auto", "dataset.also=choice([a],[b])"])] == [["a"], ["b"]]


def test_a_saved_run_gets_another_list_of_folders(tmp_path: Path) -> None:
    saved = to_plain(load_config(["dataset=auto", "dataset.also=[one,two]"]))
    dataset = override_config(saved, ["dataset.also=three (3)"]).dataset
    assert isinstance(dataset, AutoDatasetConfig)
    assert dataset.also == ["three (3)"]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1).filter(lambda t: "${" not in t))
def test_hydra_reads_quoted_text_back(text: str) -> None:
    if text.lower() == "null":
        return
    value = hydra_value("weights", text)
    parsed = OverridesParser.create().parse_override(f"weights={value}").value()
    assert parsed == plain_text(text)
    assert hydra_value("weights", value) == value
    assert plain_text(value) == parsed


def test_changes_keep_words_as_written() -> None:
    assert changes(["output_dir=a, b"]) == [("output_dir=a, b", "output_dir", "a, b")]


def test_every_setting_that_names_a_file_or_folder_is_marked() -> None:
    """A new text setting must be marked as a path, or be listed here."""
    no_path = {
        *(f"{group}.kind" for group in GROUPS),
        "backbone.weights_sha256",
        "backbone.name",
        "backbone.node",
        "backbone.proposals_node",
        "backbone.frozen_nodes",
        "proposals.mode",
        "proposals.convention",
        "trainer.device",
        "trainer.precision",
        "evaluation.protocol",
    }
    kinds = [(f"{group}.", kind) for group, kinds in GROUPS.items() for kind in kinds.values()]
    rest = [(f"{item.name}.", item.default_factory) for item in fields(Config)]
    texts = {
        f"{prefix}{item.name}"
        for prefix, kind in [("", Config), *kinds, *rest]
        if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
        for item in fields(kind)
        if item.type in ("str", "str | None")
    }
    assert texts - no_path == path_keys()
    assert path_list_keys() == {"dataset.also"}
    assert path_keys() | path_list_keys() <= set(known_keys())
