"""The entry points of the commands that read or write a model."""

from __future__ import annotations

from pathlib import Path

from detector.configs.errors import ConfigError
from detector.tools.settings.exit_codes import DONE, FAILED
from detector.tools.settings.help import asks_help, shows_help
from detector.tools.settings.own_words import split_words, with_group
from detector.tools.settings.saved_configs import model_config


def run_benchmark(words: list[str]) -> int:
    """Run `benchmark`."""
    if shows_help(words):
        return DONE
    config = model_config(words)
    from detector.pipeline.run_folder import logged_run
    from detector.tools.commands.benchmark import run_benchmark

    with logged_run(config.output_dir, "benchmark") as folder:
        run_benchmark(config, folder)
    return DONE


def run_predict(words: list[str]) -> int:
    """Run `predict`. Return FAILED if it could not read a picture."""
    from detector.configs.schema import PredictConfig

    words = with_group(words, "predict", PredictConfig)
    if shows_help(words):
        return DONE
    config = model_config(words, predicting=True)
    from detector.pipeline.run_folder import logged_run
    from detector.tools.commands.predict import run_prediction

    with logged_run(config.output_dir, "predict") as folder:
        return FAILED if run_prediction(config, folder) else DONE


def run_export(words: list[str]) -> int:
    """Run `export`."""
    from detector.configs.schema import ExportConfig

    words = with_group(words, "export", ExportConfig)
    if shows_help(words):
        return DONE
    config = model_config(words)
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands.export import run_export

    with logging_to(None):
        run_export(config)
    return DONE


def run_convert(words: list[str]) -> int:
    """Run `convert`. The command reads `source`, `output` and `classes`; the other words are settings."""
    from detector.configs.keys import check_words

    overrides, own = split_words(words, ("source", "output", "classes"))
    check_words([word for word in overrides if not word.startswith("-")])
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands import convert

    if asks_help(words):
        print(convert.HELP)
        return DONE
    if not own["source"] or not own["output"]:
        raise ConfigError("convert needs source=FILE and output=FILE.safetensors")
    with logging_to(None):
        convert.run_convert(Path(own["source"]), Path(own["output"]), own["classes"] or None, overrides)
    return DONE


def run_compress(words: list[str]) -> int:
    """Run `compress`."""
    from detector.configs.schema import CompressConfig

    words = with_group(words, "compress", CompressConfig)
    if shows_help(words):
        return DONE
    config = model_config(words)
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands.compress import run_compression

    with logging_to(None):
        run_compression(config)
    return DONE
