"""The portable model: one safetensors file with all that detection needs, and nothing that training needs.

Its metadata are the strings of `FIELDS`, JSON but for the first two and the last. `sha256` is the fingerprint of
everything else in the file, so a changed byte is always noticed. Tensors that a model holds under two names (the
tail of a backbone is the head's) are stored once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from detector.engine.checkpoint import write_atomically
from detector.export.safetensors import fingerprint, read_metadata, read_safetensors, write_safetensors

FORMAT = "fast-rfcn"
VERSION = 1
FIELDS = ("format", "format_version", "config", "classes", "preprocessing", "provenance", "sha256")


@dataclass(frozen=True, slots=True)
class PortableModel:
    """What a portable file says."""

    config: dict[str, Any]  # plain values, as `configs.groups.to_plain` makes them
    classes: tuple[str, ...]  # the name of label i + 1
    preprocessing: dict[str, Any]  # how a picture becomes the network's input, for readers without this project
    provenance: dict[str, Any]  # versions, commit, step, figures: where the weights come from
    weights: dict[str, Tensor]


def write_portable(path: Path, model: PortableModel) -> None:
    """Writes the file, whole or not at all; the same model gives the same bytes."""
    metadata = {
        "format": FORMAT,
        "format_version": str(VERSION),
        "config": json.dumps(model.config),
        "classes": json.dumps(model.classes),
        "preprocessing": json.dumps(model.preprocessing),
        "provenance": json.dumps(model.provenance),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.weights.items()}
    metadata["sha256"] = fingerprint(tensors, metadata)
    write_atomically(path, lambda file: write_safetensors(file, tensors, metadata))


def read_portable(path: Path) -> PortableModel:
    """The model at `path`, on the CPU. Raises ValueError that tells a newer, a foreign and a damaged file apart."""
    read_config(path)
    weights, metadata = read_safetensors(path)
    if metadata.pop("sha256") != fingerprint(weights, metadata):
        raise ValueError(f"{path} is damaged: its content has another checksum than it says; fetch or export it again")
    fields = {name: json.loads(metadata[name]) for name in FIELDS[2:-1]}
    return PortableModel(**{**fields, "classes": tuple(fields["classes"])}, weights=weights)


def read_config(path: Path) -> dict[str, Any]:
    """The config alone, from the header, whose checksum is not looked at. Raises ValueError as `read_portable` does."""
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file of another program (its metadata: {', '.join(metadata)[:200] or 'none'}); "
            "expected one of `detector export` or `detector convert`"
        )
    version = metadata.get("format_version", "")
    if version.isdecimal() and int(version) > VERSION:
        raise ValueError(
            f"{path} has format version {version}, newer than the {VERSION} that this program reads: update it"
        )
    try:
        if version == str(VERSION) and metadata.keys() == set(FIELDS):
            config = json.loads(metadata["config"])
            if isinstance(config, dict):
                return config
    except ValueError:
        pass
    raise ValueError(f"{path} is damaged: its metadata are not those of format version {VERSION}; export it again")
