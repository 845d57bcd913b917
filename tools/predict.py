"""`detector predict`: pictures with boxes, and a JSON of detections, for a picture or a folder of them."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.build import propose
from detector.datasets.images import read_image
from detector.draw import draw_detections
from detector.structures import Batch, Detections, Instances, Proposals
from detector.tools.models import load_model
from detector.tools.run import RunFolder, pick_device

log = logging.getLogger("detector")

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def run_prediction(config: schema.Config, run: RunFolder) -> int:
    """Detects in every image of `config.images`; returns how many could not be read. Raises ConfigError, ValueError."""
    if config.images is None or config.weights is None:
        raise ConfigError("predict needs images=FILE_OR_FOLDER and weights=CHECKPOINT")
    paths = find_images(Path(config.images))
    if run.path.resolve() == paths[0].parent.resolve():
        raise ConfigError(f"output_dir={run.path} holds the pictures, which would be overwritten; set another")
    same_stem = Counter(path.stem for path in paths)
    device = pick_device(config.trainer.device)
    model = load_model(Path(config.weights), config, device)
    results, failures = {}, 0
    for path in tqdm(paths, unit="image", desc="predicting", dynamic_ncols=True, file=sys.stderr):
        try:
            image = read_image(path)
        except ValueError as error:
            log.warning("skipped: %s", error)
            failures += 1
            continue
        boxes = propose(config.proposals, image)
        batch = single_image_batch(image, boxes, path.stem, config.input.test_short_side)
        detections = model.detector.detect(batch.to(device))[0].to("cpu")
        picture = draw_detections(image, detections[detections.scores >= 0.5], model.classes)
        save_picture(picture, run.path / f"{path.stem if same_stem[path.stem] == 1 else path.name}.jpg")
        results[path.name] = to_rows(detections, model.classes)
    run.write_json("detections.json", {"box": "x1 y1 x2 y2, pixels, 0-based, half-open", "images": results})
    log.info("%d images, %d unreadable | pictures and detections.json in %s", len(paths), failures, run.path)
    return failures


def find_images(path: Path) -> list[Path]:
    """The picture itself, or the pictures in the folder, by name. Raises ValueError where there is none."""
    if path.is_file():
        return [path]
    found = sorted(item for item in path.glob("*") if item.suffix.lower() in SUFFIXES) if path.is_dir() else []
    if not found:
        raise ValueError(f"images={path}: expected a picture or a folder of pictures, found none")
    return found


def single_image_batch(image: torch.Tensor, boxes: torch.Tensor | None, image_id: str, short_side: int) -> Batch:
    """A batch of one image [3, H, W] uint8 with its proposals [P, 4]."""
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    proposals = None if boxes is None else [Proposals(boxes, torch.zeros(len(boxes)))]
    return Batch([image], [nothing], proposals, [image_id], [0], [short_side])


def to_rows(detections: Detections, classes: tuple[str, ...]) -> list[dict[str, object]]:
    return [
        {"class": classes[label - 1], "score": round(score, 6), "box": [round(value, 3) for value in box]}
        for box, score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
    ]


def save_picture(picture: Image.Image, path: Path) -> None:
    picture.save(path, quality=92)
