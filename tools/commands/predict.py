"""`detector predict`: detect objects in pictures, a video or a camera, and write result files, drawings or crops."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from detector.configs import schema
from detector.configs.errors import ConfigError
from detector.datasets.images import read_image
from detector.draw import draw_detections
from detector.engine.allocator import keep_freed_memory
from detector.pipeline.models import load_model
from detector.pipeline.predictor import Predictor
from detector.pipeline.run_folder import RunFolder, pick_device
from detector.structures import Detections
from detector.tools.prediction.overlap import read_ahead, written_behind
from detector.tools.prediction.picture_list import find_pictures, is_moving, short_names
from detector.tools.prediction.result_files import write_predictions
from detector.tools.prediction.videos import Video, VideoFile

log = logging.getLogger("detector")


def run_prediction(config: schema.Config, run: RunFolder) -> int:
    """Detect objects in all pictures or frames that `config.images` names. Return the number of unreadable pictures.

    Raises ConfigError for wrong settings, ValueError for a file that cannot be used.
    """
    if config.images is None or config.weights is None:
        raise ConfigError("predict needs images=FILE_OR_FOLDER and weights=CHECKPOINT")
    moving = is_moving(config.images)
    paths = {} if moving else find_pictures(config.images)
    if any(run.path.resolve() == path.parent.resolve() for path in paths.values()):
        raise ConfigError(f"output_dir={run.path} contains the pictures and would overwrite them; set another folder")
    keep_freed_memory()
    device = pick_device(config.trainer.device)
    model = load_model(Path(config.weights), config, device)
    filters = Filters(config.predict, model.classes)
    predictor = Predictor(model, config, device)
    unreadable: dict[str, str] = {}
    if moving:
        found = _predict_video(config, predictor, filters, run)
    else:
        found = predict_pictures(config.predict, paths, predictor, filters, run, unreadable)
    written = write_predictions(run.path, found, model.classes, config.predict.results, unreadable)
    log.info(
        "%d %s, %d detections, %d unreadable | %s",
        len(found) + len(unreadable),
        "frames" if moving else "images",
        sum(map(len, found.values())),
        len(unreadable),
        ", ".join(map(str, [*written, *([run.path] if config.predict.draw or config.predict.crops else [])])),
    )
    return len(unreadable)


class Filters:
    """Filters that select the detections to keep, and the detections to draw and crop."""

    def __init__(self, settings: schema.PredictConfig, classes: tuple[str, ...]) -> None:
        """Raises ConfigError for a class that the model does not have."""
        wanted = settings.classes if settings.classes is not None else classes
        if unknown := [name for name in wanted if name not in classes]:
            raise ConfigError(f"predict.classes has {', '.join(unknown)}; the model has {', '.join(classes)}")
        self._labels = torch.tensor([classes.index(name) + 1 for name in wanted], dtype=torch.int64)
        self._settings = settings

    def kept(self, found: Detections) -> Detections:
        """Return the detections of the wanted classes with at least `predict.score_threshold`."""
        chosen = torch.isin(found.labels, self._labels) & (found.scores >= self._settings.score_threshold)
        return found[chosen]

    def shown(self, found: Detections) -> Detections:
        """Return the detections with at least `predict.draw_threshold`."""
        return found[found.scores >= self._settings.draw_threshold]


def predict_pictures(
    settings: schema.PredictConfig,
    paths: dict[str, Path],
    predictor: Predictor,
    filters: Filters,
    run: RunFolder,
    unreadable: dict[str, str],
) -> dict[str, Detections]:
    """Return the detections of each readable picture. Add each other picture to `unreadable`, with the reason."""

    def read(item: tuple[str, Path]) -> tuple[str, Tensor | None]:
        name, path = item
        try:
            return name, read_image(path, upright=True, bit_depth=predictor.bit_depth)
        except ValueError as error:
            log.warning("skipped: %s", error)
            unreadable[str(path)] = str(error)
            return name, None

    found: dict[str, Detections] = {}
    stems = short_names(paths)

    def save(name: str, image: Tensor) -> None:
        shown = filters.shown(found[name])
        if settings.draw:
            draw_detections(image, shown, predictor.classes).save(run.path / f"{stems[name]}.jpg", quality=92)
        if settings.crops:
            save_crops(image, shown, predictor.classes, run.path / "crops", stems[name])

    read_pictures = read_ahead(paths.items(), read)
    pictures = ((name, image) for name, image in read_pictures if image is not None)
    with (
        tqdm(total=len(paths), unit="image", desc="predicting", dynamic_ncols=True, file=sys.stderr) as bar,
        written_behind() as later,
    ):
        while batch := list(islice(pictures, settings.batch_size)):
            images = [image for _, image in batch]
            all_found = predictor.detect(images, tiles_at_once=settings.batch_size)
            for (name, image), detections in zip(batch, all_found, strict=True):
                found[name] = filters.kept(detections)
                later(partial(save, name, image))
                bar.update(len(found) + len(unreadable) - bar.n)
        bar.update(len(paths) - bar.n)
    return found


def _predict_video(
    config: schema.Config, predictor: Predictor, filters: Filters, run: RunFolder
) -> dict[str, Detections]:
    """Return the detections of each frame, by number from 0. Ctrl-C stops, and the detections so far are kept."""
    assert config.images is not None
    settings, video = config.predict, Video(config.images)
    found: dict[str, Detections] = {}
    name = "camera" if config.images.startswith("camera:") else Path(config.images).stem
    target = VideoFile(run.path / f"{name}.mp4", video.fps) if settings.draw else nullcontext()
    frames = islice(iter(video), settings.max_frames)
    total = settings.max_frames or video.num_frames
    with target as drawn, tqdm(total=total, unit="frame", desc="predicting", file=sys.stderr) as bar:
        try:
            while images := list(islice(frames, settings.batch_size)):
                all_found = predictor.detect(images, tiles_at_once=settings.batch_size)
                for image, detections in zip(images, all_found, strict=True):
                    frame = f"{name}_{len(found):06d}"
                    found[frame] = filters.kept(detections)
                    shown = filters.shown(found[frame])
                    if drawn is not None:
                        drawn.add(draw_detections(image, shown, predictor.classes))
                    if settings.crops:
                        save_crops(image, shown, predictor.classes, run.path / "crops", frame)
                    bar.update()
        except KeyboardInterrupt:
            log.info("stopped after %d frames", len(found))
        finally:
            video.close()
    if not found:
        raise ValueError(f"images={config.images}: no frame can be decoded; convert the video, or check the camera")
    if total and len(found) < total:
        log.warning("%s: decoded only %d of %d frames", config.images, len(found), total)
    return found


def save_crops(image: Tensor, shown: Detections, classes: tuple[str, ...], folder: Path, name: str) -> None:
    """Write the crop of each box from the image [3, H, W] as FOLDER/CLASS/NAME_NUMBER.jpg, best score first."""
    for number, (box, label) in enumerate(zip(shown.boxes, shown.labels.tolist(), strict=True)):
        x1, y1 = box[:2].floor().int().tolist()
        x2, y2 = box[2:].ceil().int().tolist()
        path = folder / classes[label - 1].replace("/", "_") / f"{name}_{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, y1:y2, x1:x2].permute(1, 2, 0).numpy()).save(path, quality=95)
