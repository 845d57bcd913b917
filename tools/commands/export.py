"""`detector export`: write a trained model for other programs. docs/export.md describes the content of each format."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from detector.build import build_detector
from detector.compress import fold_norms
from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.configs.groups import to_plain
from detector.engine.checkpoint import load_weights, shared_names
from detector.export.graph import DetectorGraph
from detector.export.onnx import export_onnx
from detector.export.portable import PortableModel, write_portable
from detector.export.program import save_program
from detector.model import Detector
from detector.pipeline.models import RUN_SETTINGS, SavedModel, read_model
from detector.pipeline.versions import versions

log = logging.getLogger("detector")


def run_export(config: schema.Config) -> None:
    """Write the model of `config.weights` to `config.export.output` in `config.export.format`.

    Raises ConfigError for wrong settings, ValueError for a file that cannot be used.
    """
    if config.weights is None or config.export.output is None:
        raise ConfigError("export needs weights=CHECKPOINT and output=FILE")
    output = Path(config.export.output)
    if config.export.format is schema.ExportFormat.portable and output.suffix in (".onnx", ".pt2"):
        kind = "onnx" if output.suffix == ".onnx" else "program"
        raise ConfigError(f"output={output} is the name of another format than format=portable; set format={kind}")
    saved = read_model(Path(config.weights), average=config.export.average)
    detector = build_detector(config, len(saved.classes))
    load_weights(detector, saved.weights, config.weights)
    detector.eval()
    match config.export.format:
        case schema.ExportFormat.portable:
            write_portable(output, portable_model(detector, config, saved))
        case schema.ExportFormat.onnx:
            export_onnx(_graph(detector, config), output, metadata(detector, config, saved))
        case schema.ExportFormat.program:
            save_program(_graph(detector, config), output, standard=config.export.standard)
    log.info("%s: %s, %.1f MB, classes: %d", output, config.export.format.value, _megabytes(output), len(saved.classes))


def portable_model(detector: Detector, config: schema.Config, saved: SavedModel) -> PortableModel:
    """Return the detector as a portable model: normalization of targets folded into the weights, each tensor once."""
    detector.set_target_statistics(torch.zeros_like(detector.coder.mean), torch.ones_like(detector.coder.std))
    plain = {key: value for key, value in to_plain(config).items() if key not in (*RUN_SETTINGS, "export", "compress")}
    used = versions()
    return PortableModel(
        config=plain,
        classes=saved.classes,
        preprocessing=preprocessing(config.input, detector.preprocess.stride),
        provenance={**saved.provenance, "exported_by": {key: used[key] for key in ("torch", "commit")}},
        weights={k: v for k, v in detector.state_dict().items() if k not in shared_names(detector)},
    )


def _graph(detector: Detector, config: schema.Config) -> DetectorGraph:
    """Fold frozen norms and return the graph to export. Raises ConfigError for settings that it does not support."""
    if detector.views is not None:
        raise ConfigError(
            "input.test_flip and input.test_scales are not part of an exported model; set input.test_flip=false "
            "input.test_scales=[1]"
        )
    fold_norms(detector)
    return DetectorGraph(detector, short_side=config.input.test_short_side, suppress=config.export.nms)


def metadata(detector: Detector, config: schema.Config, saved: SavedModel) -> dict[str, Any]:
    """Return the metadata that a user of the ONNX model needs."""
    return {
        "classes": list(saved.classes),  # the first has label 1
        "boxes": "x1 y1 x2 y2 in pixels of the image given, from 0, half-open",
        "needs_proposals": not isinstance(config.proposals, schema.RPNConfig),
        "nms_inside": config.export.nms,
        "postprocess": to_plain(config)["postprocess"],
        "preprocessing_inside": preprocessing(config.input, detector.preprocess.stride),
        "provenance": saved.provenance,
    }


def preprocessing(config: schema.InputConfig, stride: int) -> dict[str, Any]:
    """Describe the steps from a decoded picture to the network's input, for users of the file without this project.

    `mean` and `std` are for pixels in [0, 255], in the order of `channels`.
    """
    unit = 1.0 if config.bgr_255 else 255.0
    return {
        "channels": "BGR" if config.bgr_255 else "RGB",
        "mean": [value * unit for value in config.mean],
        "std": [value * unit for value in config.std],
        "short_side": config.test_short_side,
        "max_side": config.max_side,
        "rounding": "sides are rounded down" if config.round_down else "sides are rounded to the nearest pixel",
        "resize": "bilinear with antialias to whole values, then normalising"
        if config.antialias
        else "bilinear after normalising, corners not aligned",
        "padding": "zeros at the bottom and right",
        "multiple_of": stride,
    }


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
