"""The entry points of `eval`, `analyze` and `compare`."""

from __future__ import annotations

from pathlib import Path

from detector.configs.errors import ConfigError
from detector.tools.settings.exit_codes import DONE
from detector.tools.settings.help import shows_help
from detector.tools.settings.own_words import split_words
from detector.tools.settings.saved_configs import scoring_config


def run_eval(words: list[str]) -> int:
    """Run `eval`. The settings are those of the model, or of the run that wrote the detections."""
    if shows_help(words):
        return DONE
    config = scoring_config(words)
    from detector.pipeline.run_folder import all_processes, logged_run
    from detector.tools.commands.evaluate import run_evaluation

    with all_processes(config.trainer), logged_run(config.output_dir, "eval") as folder:
        run_evaluation(config, folder)
    return DONE


def run_analyze(words: list[str]) -> int:
    """Run `analyze`. The settings are those of the run that wrote the detections, or of the model."""
    if shows_help(words):
        return DONE
    config = scoring_config(words)
    from detector.pipeline.run_folder import logged_run
    from detector.tools.commands.analyze import run_analysis

    with logged_run(config.output_dir, "analyze") as folder:
        run_analysis(config, folder)
    return DONE


def run_compare(words: list[str]) -> int:
    """Run `compare`. The command reads `a`, `b` and `protocols`; the other words change settings of the run in `a`."""
    overrides, own = split_words(words, ("a", "b", "protocols"))
    if shows_help(overrides):
        return DONE
    if not own["a"] or bool(own["b"]) == bool(own["protocols"]):
        raise ConfigError("compare needs a=PATH b=PATH (two detectors), or a=PATH protocols=P,Q (two protocols)")
    config = scoring_config(overrides, own["a"])
    from detector.pipeline.run_folder import logged_run
    from detector.tools.commands.compare import compare_detectors, compare_two_protocols

    with logged_run(config.output_dir, "compare") as folder:
        if own["b"]:
            compare_detectors(config, Path(own["a"]), Path(own["b"]), folder)
        else:
            compare_two_protocols(config, Path(own["a"]), own["protocols"].strip("[]").split(","), folder)
    return DONE
