"""`detector <command> key=value ...`: read the words, run the command, print an error in one line, set the exit code.

Exit codes: 0 done, 1 failed while running, 2 wrong usage or settings, 3 stopped by a signal after saving,
4 the loss is not finite.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from detector.configs.errors import ConfigError
from detector.configs.paths import plain_text
from detector.tools.settings.exit_codes import DONE, EXPECTED_ERRORS, FAILED, INTERRUPTED, USAGE, exit_code, print_error

if TYPE_CHECKING:
    from detector.configs.schema import Config
    from detector.tools.settings.command_line import CommandLine

log = logging.getLogger("detector")

CONFIG_HELP = """\
usage: detector config show [key=value ...] [config=FILE]
       detector config explain KEY [key=value ...] [config=FILE]

show prints all settings. explain prints the meaning of one setting, its value, and the file or word that set it.
config=FILE is the config.yaml of a run; without it, the settings are the shipped ones.
  detector config show experiment=demo
  detector config explain trainer.max_steps config=runs/mine/config.yaml
"""
HELP = """\
usage: detector COMMAND [key=value ...]

commands
  train      train a detector                     detector train experiment=demo
  plan       print the plan without training      detector plan data=my_photos
  alternate  train RPN and head in four steps     detector alternate experiment=faster_rcnn_resnet50_voc0712
  eval       score a model or its detections      detector eval weights=runs/demo
  analyze    show all errors on one HTML page     detector analyze detections=runs/demo
  compare    compare two runs or two protocols    detector compare a=runs/one b=runs/two
  benchmark  time and memory by part and backend  detector benchmark experiment=rfcn_resnet50_voc0712_ohem
  predict    detect in pictures or a video        detector predict images=photos/ weights=runs/demo
  export     write a model for other programs     detector export weights=runs/demo output=model.safetensors
  convert    convert Caffe, Detectron2 weights    detector convert source=FILE output=model.safetensors
  compress   shrink the layers per RoI by SVD     detector compress weights=runs/vgg ranks=[1024,256] output=small
  inspect    find faults and oddities in data     detector inspect data=photos output=report
  dataset    convert to VOC, COCO, YOLO or tar   detector dataset source=photos output=photos_voc format=voc
  proposals  compute or check proposals           detector proposals dataset.root=VOCdevkit
  download   fetch Pascal VOC                     detector download root=VOCdevkit years=2007,2012
  explain    draw what an operator does           detector explain roi_pool
  config     show settings and their sources      detector config explain trainer.max_steps experiment=demo
  info       show versions, kernels, choices      detector info
  docs       print the path of a manual page      detector docs troubleshooting
  completion print a shell's completion script    detector completion bash

train on your own photographs or on Pascal VOC, resume a run, sweep:
  detector train data=my_photos                   plan, print the expected time, train, report
  detector train data=my_photos trainer.max_minutes=20
  detector train experiment=fast_rcnn_vgg16_voc07 dataset.root=VOCdevkit
  detector train resume=runs/demo                 from its last checkpoint
  detector train experiment=demo output_dir=runs/demo resume=auto      from the newest intact one, or a new run
  detector train config=runs/demo/config.yaml     repeat a run in a new folder
  detector train --multirun experiment=demo trainer.seed=1,2,3
  detector train --config-dir my_configs experiment=mine          my_configs/experiment/mine.yaml
  detector train experiment=demo --cfg job        print the settings, do not train; --info: their sources

groups (group=NAME picks one, group.key=value changes it)
{groups}

detector COMMAND --help shows a command's settings with their values.
completion in the shell: eval "$(detector completion bash)"
exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 stopped by a signal after saving, 4 loss not finite
"""


def main() -> None:
    """Run the `detector` program."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have all letters of a class or a file name
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")  # large photographs are welcome
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line and return its exit code. An expected error prints one line; a bug keeps its traceback."""
    try:
        return _dispatch(words)
    except EXPECTED_ERRORS as error:
        log.debug("failed", exc_info=True)
        print_error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return FAILED


def _dispatch(words: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "plan": _plan,
        "alternate": _alternate,
        "eval": _eval,
        "analyze": _analyze,
        "compare": _compare,
        "benchmark": _benchmark,
        "predict": _predict,
        "export": _export,
        "convert": _convert,
        "compress": _compress,
        "inspect": _inspect,
        "dataset": _dataset,
        "proposals": _proposals,
        "download": _download,
        "explain": _explain,
        "config": _config,
        "info": _info,
        "docs": _docs,
        "completion": _completion,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE if words else USAGE
    name, rest = words[0], words[1:]
    if name in ("-sc", "--shell-completion"):
        from detector.tools.settings.completion import complete

        complete(rest, list(commands))
        return DONE
    if name not in commands:
        raise ConfigError(f"{name}: no such command; known: {', '.join(commands)}")
    unknown = [word for word in rest if word.startswith("-") and word not in ("-h", "--help")]
    if unknown and name not in ("train", "alternate"):
        raise ConfigError(f"{unknown[0]}: no such option; write settings as key=value; the only option is --help")
    _warn_of_unread(name, rest)
    return commands[name](rest)


def _warn_of_unread(command: str, words: list[str]) -> None:
    """Print one line for each setting that the command does not read. Of several processes, only the first prints."""
    if {"-h", "--help"} & set(words) or int(os.environ.get("RANK", 0)) != 0:
        return
    from detector.tools.settings.unread import unread

    for line in unread(command, words):
        print(f"warning: {line}", file=sys.stderr)


def _help() -> str:
    from detector.configs.choices import choices
    from detector.configs.groups import GROUPS

    lines = [f"  {group:<12}{' '.join(choices(group))}" for group in (*GROUPS, "experiment")]
    return HELP.format(groups="\n".join(lines))


def _wants_help(words: list[str], own: tuple[str, ...] = ()) -> bool:
    """If --help is among the words, print the help and the settings with the overrides, and return True.

    `own` lists the keys of the command that are not settings. Raises ConfigError for a wrong key, before Hydra and
    torch are loaded.
    """
    from detector.configs.keys import check_words

    check_words([word for word in words if not word.startswith(("-", *(f"{key}=" for key in own)))])
    if not {"-h", "--help"} & set(words):
        return False
    from omegaconf import OmegaConf

    from detector.configs.compose import load_config
    from detector.configs.groups import to_plain

    print(_help())
    config = load_config([word for word in words if not word.startswith("-")])
    print("settings\n" + OmegaConf.to_yaml(OmegaConf.create(to_plain(config))))
    return True


def _train(words: list[str]) -> int:
    from detector.tools.settings.command_line import read_line

    line = read_line(words)
    if _wants_help([*line.overrides, *line.help], own=("config", "data")):
        return DONE
    if _is_planned(line.overrides):
        return _train_planned(line)
    line = replace(line, overrides=_with_data_settings(line.overrides))
    if line.multirun:
        from detector.tools.commands.train import train
        from detector.tools.settings.sweep import run_sweep

        return run_sweep("train", line, train)
    from detector.pipeline.resume import find_start
    from detector.tools.settings.application import run_once

    start = find_start(line.overrides, line.search)
    from detector.tools.commands.train import train

    return run_once("train", line, start, train)


def _is_planned(words: list[str]) -> bool:
    """Return True if the words ask for a plan: they name a folder of photographs, but no recipe and no saved run."""
    keys = {word.partition("=")[0] for word in words}
    return "data" in keys and not keys & {"experiment", "resume", "config"}


def _with_data_settings(words: list[str]) -> list[str]:
    """Replace `data=FOLDER`, if given, by the settings that read FOLDER. Raises ConfigError for a saved run."""
    rest, own = _split_words(words, ("data",))
    if not own["data"]:
        return words
    saved = [word for word in words if word.startswith(("resume=", "config="))]
    if saved:
        raise ConfigError(f"{saved[0]}: a saved run has its own data; remove data=, or start a run without {saved[0]}")
    return ["dataset=auto", f"dataset.root={own['data']}", *rest]


def _plan(words: list[str]) -> int:
    """Run `plan`. The command reads `data`; the other words are settings of the training."""
    rest, own = _split_words(words, ("data",))
    if _wants_help(rest):
        return DONE
    if not own["data"]:
        raise ConfigError("plan needs data=FOLDER, a folder of annotated photographs")
    from detector.tools.commands.plan import print_plan

    print_plan(own["data"], rest)
    return DONE


def _train_planned(line: CommandLine) -> int:
    started = time.monotonic()
    if line.multirun:
        raise ConfigError("data= makes one plan, without --multirun; to sweep over it, give config=RUN/config.yaml")
    from detector.engine.trainer import Outcome
    from detector.pipeline.planned_training import run_planned_training
    from detector.tools.commands.train import finish_run

    rest, own = _split_words(line.overrides, ("data",))
    outcome, _ = run_planned_training(own["data"], rest, started=started, finish=finish_run)
    return INTERRUPTED if outcome is Outcome.interrupted else DONE


def _alternate(words: list[str]) -> int:
    from detector.tools.settings.command_line import read_line

    line = read_line(words)
    if _wants_help([*line.overrides, *line.help]):
        return DONE
    if any(word.startswith("resume=") for word in line.overrides):
        raise ConfigError("resume=: alternate resumes without it; give the output_dir= of the first start")
    if line.multirun:
        from detector.tools.commands.alternate import alternate
        from detector.tools.settings.sweep import run_sweep

        return run_sweep("alternate", line, alternate)
    from detector.configs.compose import load_config
    from detector.pipeline.resume import Start
    from detector.tools.settings.application import run_once

    start = Start(load_config(line.overrides, line.search), None, None, line.overrides)
    from detector.tools.commands.alternate import alternate

    return run_once("alternate", line, start, alternate)


def _model_config(overrides: list[str], *, predicting: bool = False) -> Config:
    """Return the config of the model in weights=..., with the overrides; without a model, the shipped defaults.

    With `predicting`, the model computes in fp32 unless an override changes it.
    """
    from detector.configs.compose import load_config, override_config
    from detector.pipeline.resume import value_of

    weights = value_of("weights", overrides)
    if weights is None:
        return load_config(overrides)
    from detector.pipeline.models import read_model_config, read_prediction_config

    read = read_prediction_config if predicting else read_model_config
    return override_config(read(Path(weights)), overrides)


def _scoring_config(overrides: list[str], path: str | None = None) -> Config:
    """Return the config of the run that holds `path` or detections=..., with the overrides.

    Without such a run, return the model's config.
    """
    from detector.pipeline.resume import value_of

    path = path or value_of("detections", overrides)
    if not path:
        return _model_config(overrides)
    from detector.configs.compose import override_config
    from detector.pipeline.detections import saved_config

    saved = saved_config(Path(path))
    return _model_config(overrides) if saved is None else override_config(saved, overrides)


def _eval(words: list[str]) -> int:
    if _wants_help(words):
        return DONE
    config = _scoring_config(words)
    from detector.pipeline.run_folder import all_processes, logging_to, open_run
    from detector.tools.commands.evaluate import run_evaluation

    with all_processes(config.trainer):
        folder = open_run(config.output_dir, "eval")
        with logging_to(folder.path / "log.txt"):
            run_evaluation(config, folder)
    return DONE


def _analyze(words: list[str]) -> int:
    if _wants_help(words):
        return DONE
    config = _scoring_config(words)
    from detector.pipeline.run_folder import logging_to, open_run
    from detector.tools.commands.analyze import run_analysis

    folder = open_run(config.output_dir, "analyze")
    with logging_to(folder.path / "log.txt"):
        run_analysis(config, folder)
    return DONE


def _compare(words: list[str]) -> int:
    """Run `compare`. The command reads `a`, `b` and `protocols`; the other words change settings of the run in `a`."""
    overrides, own = _split_words(words, ("a", "b", "protocols"))
    if _wants_help(overrides):
        return DONE
    if not own["a"] or bool(own["b"]) == bool(own["protocols"]):
        raise ConfigError("compare needs a=PATH b=PATH (two detectors), or a=PATH protocols=P,Q (two protocols)")
    config = _scoring_config(overrides, own["a"])
    from detector.pipeline.run_folder import logging_to, open_run
    from detector.tools.commands.compare import compare_detectors, compare_two_protocols

    folder = open_run(config.output_dir, "compare")
    with logging_to(folder.path / "log.txt"):
        if own["b"]:
            compare_detectors(config, Path(own["a"]), Path(own["b"]), folder)
        else:
            compare_two_protocols(config, Path(own["a"]), own["protocols"].strip("[]").split(","), folder)
    return DONE


def _split_words(words: list[str], keys: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    """Return the words that are settings, and the values of the command's own `keys` (empty if not given)."""
    own = dict.fromkeys(keys, "")
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in own:
            own[key] = plain_text(value)
        else:
            rest.append(word)
    return rest, own


def _benchmark(words: list[str]) -> int:
    if _wants_help(words):
        return DONE
    config = _model_config(words)
    from detector.pipeline.run_folder import logging_to, open_run
    from detector.tools.commands.benchmark import run_benchmark

    folder = open_run(config.output_dir, "benchmark")
    with logging_to(folder.path / "log.txt"):
        run_benchmark(config, folder)
    return DONE


def _predict(words: list[str]) -> int:
    from detector.configs.schema import PredictConfig

    words = _with_group(words, "predict", PredictConfig)
    if _wants_help(words):
        return DONE
    config = _model_config(words, predicting=True)
    from detector.pipeline.run_folder import logging_to, open_run
    from detector.tools.commands.predict import run_prediction

    folder = open_run(config.output_dir, "predict")
    with logging_to(folder.path / "log.txt"):
        return FAILED if run_prediction(config, folder) else DONE


def _export(words: list[str]) -> int:
    from detector.configs.schema import ExportConfig

    words = _with_group(words, "export", ExportConfig)
    if _wants_help(words):
        return DONE
    config = _model_config(words)
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands.export import run_export

    with logging_to(None):
        run_export(config)
    return DONE


def _convert(words: list[str]) -> int:
    """Run `convert`. The command reads `source`, `output` and `classes`; the other words are settings."""
    from detector.configs.keys import check_words

    overrides, own = _split_words(words, ("source", "output", "classes"))
    check_words([word for word in overrides if not word.startswith("-")])
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands import convert

    if {"-h", "--help"} & set(words):
        print(convert.HELP)
        return DONE
    if not own["source"] or not own["output"]:
        raise ConfigError("convert needs source=FILE and output=FILE.safetensors")
    with logging_to(None):
        convert.run_convert(Path(own["source"]), Path(own["output"]), own["classes"] or None, overrides)
    return DONE


def _inspect(words: list[str]) -> int:
    """Run `inspect`. It reads `data`, `output`, `fix`, `augment` and `stride`; the other words are settings."""
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands import inspect

    overrides, own = _split_words(words, ("data", "output", "fix", "augment", "stride"))
    if {"-h", "--help"} & set(words):
        print(inspect.HELP)
        return DONE
    stride = own["stride"]
    if not own["data"] or (stride and (not stride.isdecimal() or int(stride) == 0)):
        raise ConfigError("inspect needs data=FOLDER; stride=N is a whole number of pixels, 1 or more")
    augment = own["augment"].lower() or "false"
    if augment not in ("true", "false") or (augment == "true" and not own["output"]):
        raise ConfigError("augment is true or false; augment=true draws on the page, so it needs output=FOLDER")
    output, fix = (Path(own[key]) if own[key] else None for key in ("output", "fix"))
    with logging_to(None):
        faulty = inspect.run_inspect(
            Path(own["data"]), output, fix, int(stride) if stride else None, overrides, augment=augment == "true"
        )
    return FAILED if faulty else DONE


def _dataset(words: list[str]) -> int:
    """Run `dataset`. The command reads `source`, `output` and `format`; the other words are settings."""
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands import dataset

    overrides, own = _split_words(words, ("source", "output", "format"))
    if {"-h", "--help"} & set(words):
        print(dataset.HELP)
        return DONE
    if not all(own.values()):
        raise ConfigError("dataset needs source=FOLDER, output=FOLDER and format=voc, coco or yolo")
    with logging_to(None):
        dataset.run_dataset(Path(own["source"]), Path(own["output"]), own["format"], overrides)
    return DONE


def _with_group(words: list[str], group: str, schema: type) -> list[str]:
    """Return the words, with the prefix `group.` before each key that is a setting of that group."""
    own = {field.name for field in fields(schema)}
    return [f"{group}.{word}" if word.partition("=")[0] in own else word for word in words]


def _compress(words: list[str]) -> int:
    from detector.configs.schema import CompressConfig

    words = _with_group(words, "compress", CompressConfig)
    if _wants_help(words):
        return DONE
    config = _model_config(words)
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands.compress import run_compression

    with logging_to(None):
        run_compression(config)
    return DONE


def _proposals(words: list[str]) -> int:
    if _wants_help(words):
        return DONE
    from detector.configs.compose import load_config
    from detector.pipeline.proposal_recall import run_proposals
    from detector.pipeline.run_folder import logging_to

    config = load_config(words)
    with logging_to(None):
        run_proposals(config)
    return DONE


def _download(words: list[str]) -> int:
    if {"-h", "--help"} & set(words):
        print("detector download [root=VOCdevkit] [years=2007] [mirror=ADDRESS OF A FOLDER WITH THE ARCHIVES]")
        return DONE
    values = {"root": "VOCdevkit", "years": "2007", "mirror": ""}
    for word in words:
        key, _, value = word.partition("=")
        if key not in values or not value:
            raise ConfigError(f"{word}: download takes root=FOLDER, years=2007,2012 and mirror=ADDRESS")
        values[key] = plain_text(value)
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands.download import download_voc

    with logging_to(None):
        download_voc(Path(values["root"]), values["years"].split(","), values["mirror"] or None)
    return DONE


def _explain(words: list[str]) -> int:
    from detector.tools.explain import operators as explain

    if not words or {"-h", "--help"} & set(words):
        print(explain.HELP)
    elif words[0] == "ps_roi_pool" and any(word.startswith("weights=") for word in words):
        from detector.tools.explain.model import run_explain_model

        run_explain_model(words[1:])
    elif words[0] == "nms":
        from detector.tools.explain.nms import run_explain_nms

        run_explain_nms(words[1:])
    else:
        explain.run_explain(words)
    return DONE if words else USAGE


def _config(words: list[str]) -> int:
    """Run `config show` (prints settings, for config=FILE) or `config explain KEY` (prints the source of a value)."""
    if {"-h", "--help"} & set(words):
        print(CONFIG_HELP)
        return DONE
    from detector.configs.keys import check_words

    rest, own = _split_words(words, ("config",))
    check_words(rest[1:] if words[:1] == ["show"] else rest[2:])
    from omegaconf import OmegaConf

    from detector.configs.compose import load_config, override_config, read_config
    from detector.configs.groups import to_plain
    from detector.tools.settings.config_sources import explain

    saved = Path(own["config"]) if own["config"] else None
    if words[:1] == ["show"]:
        config = override_config(read_config(saved), rest[1:]) if saved else load_config(rest[1:])
        print(OmegaConf.to_yaml(OmegaConf.create(to_plain(config))), end="")
        return DONE
    if len(rest) < 2 or rest[0] != "explain" or "=" in rest[1]:
        raise ConfigError(
            "config takes show [key=value ...] or explain KEY [key=value ...]; add config=FILE for a run's settings"
        )
    print(explain(rest[1], rest[2:], saved))
    return DONE


def _info(words: list[str]) -> int:
    from detector.tools.commands.info import print_info

    print_info()
    return DONE


def _docs(words: list[str]) -> int:
    from detector.tools.docs import topics

    if {"-h", "--help"} & set(words):
        print(topics.HELP)
        return DONE
    topics.print_page(" ".join(words) or None)
    return DONE


def _completion(words: list[str]) -> int:
    """Print the script with which a shell completes words."""
    from detector.tools.settings import completion

    if {"-h", "--help"} & set(words):
        print(completion.HELP)
        return DONE
    if len(words) != 1 or words[0] not in completion.SHELLS:
        raise ConfigError(f"completion: expected one of {', '.join(completion.SHELLS)}, got {' '.join(words)!r}")
    if words[0] == "zsh":
        print("autoload -Uz bashcompinit && bashcompinit")  # zsh runs the script of bash
    completion.complete([f"install={words[0]}"], [])
    return DONE
