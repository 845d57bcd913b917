"""The entry points of the commands that read or write data sets and proposals."""

from __future__ import annotations

from pathlib import Path

from detector.configs.errors import ConfigError
from detector.configs.paths import plain_text
from detector.tools.settings.exit_codes import DONE, FAILED
from detector.tools.settings.help import asks_help, shows_help
from detector.tools.settings.own_words import split_words


def run_inspect(words: list[str]) -> int:
    """Run `inspect`. It reads `data`, `output`, `fix`, `augment` and `stride`; the other words are settings."""
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands import inspect

    overrides, own = split_words(words, ("data", "output", "fix", "augment", "stride"))
    if asks_help(words):
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


def run_dataset(words: list[str]) -> int:
    """Run `dataset`. The command reads `source`, `output` and `format`; the other words are settings."""
    from detector.pipeline.run_folder import logging_to
    from detector.tools.commands import dataset

    overrides, own = split_words(words, ("source", "output", "format"))
    if asks_help(words):
        print(dataset.HELP)
        return DONE
    if not all(own.values()):
        raise ConfigError("dataset needs source=FOLDER, output=FOLDER and format=voc, coco, yolo or shards")
    with logging_to(None):
        dataset.run_dataset(Path(own["source"]), Path(own["output"]), own["format"], overrides)
    return DONE


def run_proposals(words: list[str]) -> int:
    """Run `proposals`."""
    if shows_help(words):
        return DONE
    from detector.configs.compose import load_config
    from detector.pipeline import proposal_recall
    from detector.pipeline.run_folder import logging_to

    config = load_config(words)
    with logging_to(None):
        proposal_recall.run_proposals(config)
    return DONE


def run_download(words: list[str]) -> int:
    """Run `download`. Its words are not settings."""
    if asks_help(words):
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
