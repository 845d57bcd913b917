"""`load_detector`: a trained model as a function from pictures to detections, for use in other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from detector.compress import fold_norms
from detector.configs import schema
from detector.configs.compose import override_config
from detector.datasets.build import propose
from detector.datasets.images import read_image, to_pixels
from detector.engine.precision import autocast
from detector.pipeline.models import Model, load_model, read_prediction_config
from detector.pipeline.run_folder import pick_device
from detector.pipeline.tiles import detect_in_tiles
from detector.structures import Batch, Detections, Instances, Proposals

# A file's path; a PIL picture; RGB pixels [H, W, 3] uint8 or grey ones [H, W], uint8 or uint16; a tensor [3, H, W],
# [1, H, W] or [H, W], uint8.
Picture: TypeAlias = "str | Path | Image.Image | npt.NDArray[np.uint8] | Tensor"


@dataclass(frozen=True, slots=True)
class Prediction:
    """Detections of one picture, best first, in its pixels after EXIF orientation. All tensors are on the CPU."""

    boxes: Tensor  # [D, 4] float32 xyxy, 0-based, half-open
    scores: Tensor  # [D] float32 in [0, 1]
    labels: Tensor  # [D] int64, 1..num_classes
    names: list[str]  # [D] class names

    def __len__(self) -> int:
        return len(self.names)


class Predictor:
    """A detector that takes pictures of any kind. Make one with `load_detector`."""

    def __init__(self, model: Model, config: schema.Config, device: torch.device) -> None:
        self.detector = model.detector
        fold_norms(self.detector)  # this detector is not trained any more
        self.classes = model.classes
        self.bit_depth: int | None = getattr(config.dataset, "bit_depth", None)  # of the pictures of the training
        self._config = config
        self._device = device

    def __repr__(self) -> str:
        return f"Predictor(classes={self.classes}, device={str(self._device)!r})"

    @overload
    def __call__(
        self,
        pictures: Sequence[Picture] | Iterator[Picture],
        *,
        proposals: Sequence[Tensor] | None = None,
        batch_size: int = 1,
    ) -> list[Prediction]: ...
    @overload
    def __call__(self, pictures: Picture, *, proposals: Sequence[Tensor] | None = None, batch_size: int = 1) -> Any: ...
    def __call__(
        self, pictures: Any, *, proposals: Sequence[Tensor] | None = None, batch_size: int = 1
    ) -> Prediction | list[Prediction]:
        """Return the detections of a picture, or a list for several.

        Several pictures are a sequence or an iterator, or an array or tensor with four dimensions.

        `proposals` are boxes [P, 4] xyxy for each picture, in its pixels. Without them, proposals are computed if the
        model needs them. `batch_size` pictures, or tiles of one picture, go through the network together.

        Raises:
            ValueError: a file cannot be read, an array or tensor is not a uint8 picture, or `proposals` are given to a
                model with an RPN.
        """
        many = isinstance(pictures, (list, tuple, Iterator)) or getattr(pictures, "ndim", 0) == 4
        items: list[Any] = list(pictures) if many else [pictures]
        if proposals is not None and len(proposals) != len(items):
            raise ValueError(f"expected proposals for each of {len(items)} pictures, got {len(proposals)}")
        found = []
        for start in range(0, len(items), max(1, batch_size)):
            part = slice(start, start + max(1, batch_size))
            images = [to_image(item, self.bit_depth) for item in items[part]]
            given = None if proposals is None else proposals[part]
            for item in self.detect(images, given, tiles_at_once=max(1, batch_size)):
                names = [self.classes[label - 1] for label in item.labels.tolist()]
                found.append(Prediction(item.boxes, item.scores, item.labels, names))
        return found if many else found[0]

    def detect(
        self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None, *, tiles_at_once: int = 1
    ) -> list[Detections]:
        """Return the detections, on the CPU, of images [3, H, W] uint8 that go through the network together.

        With `predict.tile` each image is detected alone, and `tiles_at_once` of its tiles go through the network
        together. Raises ValueError for `proposals` with tiles or with an RPN, which would not read them.
        """
        if proposals is not None and self.detector.proposals.reads_features:
            raise ValueError("expected no proposals, because this model has an RPN that makes its own; omit them")
        tile = self._config.predict.tile
        if tile is None:
            return self._run(self.detector.detect, images, proposals)
        if proposals is not None:
            raise ValueError("expected no proposals with predict.tile, because each tile computes its own; omit them")
        if self.detector.views is not None:
            raise ValueError("predict.tile does not work with input.test_flip or input.test_scales; set only one")

        def candidates(parts: Sequence[Tensor]) -> list[Detections]:
            return self._run(self.detector.candidates, parts, None)

        overlap = self._config.predict.tile_overlap
        postprocess = self.detector.postprocess
        return [detect_in_tiles(image, tile, overlap, candidates, postprocess, tiles_at_once) for image in images]

    def _run(
        self,
        detect: Callable[[Batch], list[Detections]],
        images: Sequence[Tensor],
        proposals: Sequence[Tensor] | None,
    ) -> list[Detections]:
        boxes = [propose(self._config.proposals, image) for image in images] if proposals is None else list(proposals)
        batch = make_batch(images, boxes, self._config.input.test_short_side)
        with autocast(self._device, self._config.trainer.precision):
            found = detect(batch.to(self._device))
        return [item.to("cpu") for item in found]


def load_detector(weights: str | Path, *overrides: str, device: str = "auto") -> Predictor:
    """Load a model from its file, or by its name in the table of models, as a function that takes pictures.

    The model computes in fp32, whatever the precision of its training. The override "trainer.precision=bf16" selects
    bf16, "trainer.precision=auto" selects bf16 if the device is fast in it.

    `weights` is also a run's folder or a checkpoint. `overrides` are settings as on the command line:
    load_detector("m.safetensors", "postprocess.score_threshold=0.5").
    `device` is auto (CUDA if available), cpu or cuda:N.

    Raises:
        ValueError: the file is missing, damaged, in another format or of a newer version.
        ConfigError: a setting is invalid (also a ValueError).
    """
    path = Path(weights).expanduser()
    config = override_config(read_prediction_config(path), overrides)
    chosen = pick_device(device)
    return Predictor(load_model(path, config, chosen), config, chosen)


def to_image(picture: Picture, bit_depth: int | None = None) -> Tensor:
    """Return a picture of any kind as [3, H, W] uint8 RGB. Raises ValueError for other objects.

    `bit_depth` is that of pictures with more than 8 bits, see `datasets.images.to_pixels`.
    """
    if isinstance(picture, (str, Path)):
        path = Path(picture).expanduser()
        if path.is_dir():
            raise ValueError(f"{path}: is a folder; give its pictures, for example Path({str(path)!r}).glob('*.jpg')")
        if not path.exists():
            raise ValueError(f"{path}: no such picture")
        return read_image(path, upright=True, bit_depth=bit_depth)
    if isinstance(picture, Image.Image):
        return to_pixels(picture, upright=True, bit_depth=bit_depth)
    shape: tuple[int, ...] = tuple(getattr(picture, "shape", ()))
    ndim = len(shape)
    if 0 in shape:
        raise ValueError(f"expected a picture with pixels, got {type(picture).__name__} of shape {shape}")
    grey = ndim == 2 or shape[2:] == (1,)
    if isinstance(picture, np.ndarray) and (
        (picture.dtype == np.uint8 and (grey or shape[2:] in ((3,), (4,)))) or (picture.dtype == np.uint16 and grey)
    ):
        return to_pixels(Image.fromarray(picture.reshape(shape[:2]) if grey else picture), bit_depth=bit_depth)
    if isinstance(picture, Tensor) and picture.dtype == torch.uint8 and (ndim == 2 or shape[:-2] in ((1,), (3,))):
        return picture.expand(3, -1, -1).cpu()
    kind = type(picture).__name__
    if hasattr(picture, "dtype"):
        kind += f" of {picture.dtype} and shape {shape}"
    raise ValueError(
        "expected a path, a PIL picture, an array [H, W, 3] or [H, W] or a tensor [3, H, W], both uint8 RGB, got "
        f"{kind}{_remedy(picture, shape)}"
    )


def _remedy(picture: object, shape: tuple[int, ...]) -> str:
    """Return the end of the message about an array or tensor that is not a picture: what to do."""
    dtype = str(getattr(picture, "dtype", "")).removeprefix("torch.")
    if dtype.startswith(("float", "bfloat")):
        return "; for values in [0, 1] multiply by 255, round and convert to uint8"
    if dtype and dtype != "uint8":
        return "; convert it to uint8, values from 0 to 255"
    if isinstance(picture, np.ndarray) and shape[:-2] in ((1,), (3,)):
        return "; its channels come last: picture.transpose(1, 2, 0)"
    if isinstance(picture, Tensor) and shape[2:] in ((1,), (3,)):
        return "; its channels come first: picture.permute(2, 0, 1)"
    return ""


def make_batch(images: Sequence[Tensor], boxes: Sequence[Tensor | None], short_side: int) -> Batch:
    """Return a batch of images [3, H, W] uint8 without ground truth. `boxes` are proposals [P, 4], or None for all."""
    no_truth = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    given = [Proposals(item, torch.zeros(len(item))) for item in boxes if item is not None]
    count = len(images)
    return Batch(
        images=list(images),
        instances=[no_truth] * count,
        proposals=given if len(given) == count else None,
        image_ids=[str(index) for index in range(count)],
        seeds=[0] * count,
        short_sides=[short_side] * count,
    )
