"""The portable model: one safetensors file with everything for detection and nothing for training.

Its metadata are the strings in `FIELDS`; all but the first two and the last are JSON. `sha256` is the fingerprint of
everything else in the file, so the reader detects every changed byte. A tensor with two names in the model (backbone
and head share the tail) is stored once.
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
    """The content of a portable file."""

    config: dict[str, Any]  # plain values, as `configs.groups.to_plain` makes them
    classes: tuple[str, ...]  # the name of label i + 1
    preprocessing: dict[str, Any]  # how to make the network's input from a picture, for other programs
    provenance: dict[str, Any]  # origin of the weights: versions, commit, step, scores
    weights: dict[str, Tensor]


def write_portable(path: Path, model: PortableModel) -> None:
    """Write the file atomically. The same model gives the same bytes."""
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
    """Return the model at `path`, on the CPU.

    Raises ValueError, with different messages for a newer file, a file of another program, and a damaged file.
    """
    read_config(path)
    weights, metadata = read_safetensors(path)
    if metadata.pop("sha256") != fingerprint(weights, metadata):
        raise ValueError(f"{path} is damaged: its checksum does not match its content; download or export it again")
    fields = {name: json.loads(metadata[name]) for name in FIELDS[2:-1]}
    return PortableModel(**{**fields, "classes": tuple(fields["classes"])}, weights=weights)


def read_config(path: Path) -> dict[str, Any]:
    """Return the config only, from the header, without verifying the checksum. Raises ValueError as `read_portable`."""
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is a safetensors file of another program (its metadata: {', '.join(metadata)[:200] or 'none'}); "
            "expected a file of `detector export` or `detector convert`"
        )
    version = metadata.get("format_version", "")
    if version.isdecimal() and int(version) > VERSION:
        raise ValueError(
            f"{path} has format version {version}, newer than the {VERSION} that this program reads: update the program"
        )
    try:
        if version == str(VERSION) and metadata.keys() == set(FIELDS):
            config = json.loads(metadata["config"])
            if isinstance(config, dict):
                return config
    except ValueError:
        pass
    raise ValueError(f"{path} is damaged: its metadata do not match format version {VERSION}; export it again")
