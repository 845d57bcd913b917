"""`make bench-predict`: compares the rate of `detector predict` on a folder with the rate of the detector alone.

The detector alone gets the same pictures, decoded before. `predict` reads the files, detects, draws the boxes, and
writes pictures and detections. The folder is divided into parts. Each part goes through both, one after the other, so
other programs on the machine disturb both.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from detector.configs.compose import override_config
from detector.datasets.images import read_image
from detector.pipeline.models import load_model, read_prediction_config
from detector.pipeline.predictor import Predictor
from detector.pipeline.run_folder import RunFolder, pick_device
from detector.pipeline.versions import versions
from detector.tools.bench.interleaved import ratio
from detector.tools.commands.predict import Filters, predict_pictures
from detector.tools.prediction.picture_list import find_pictures
from detector.tools.prediction.result_files import write_predictions


def main(arguments: list[str] | None = None) -> int:
    """Measure and print. Return the exit code: 1 if `predict` is slower than 90 % of the detector alone."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    config = override_config(read_prediction_config(options.weights), options.set)
    device = pick_device(config.trainer.device)
    predictor = Predictor(load_model(options.weights, config, device), config, device)
    filters, batch_size = Filters(config.predict, predictor.classes), config.predict.batch_size
    alone: list[float] = []
    whole: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        parts = copy_pictures(options.images, Path(place), options.count, options.parts)
        for number, part in enumerate([parts[0], *parts]):  # the first one warms up
            images = [read_image(path, upright=True) for path in part.values()]
            run = RunFolder(Path(place) / f"results_{number}")
            run.path.mkdir()

            def detect(images: list[torch.Tensor] = images) -> None:
                for start in range(0, len(images), batch_size):
                    predictor.detect(images[start : start + batch_size])

            def predict(part: dict[str, Path] = part, run: RunFolder = run) -> None:
                found = predict_pictures(config.predict, part, predictor, filters, run, {})
                write_predictions(run.path, found, predictor.classes, config.predict.results, {})

            alone.append(_seconds(detect))
            whole.append(_seconds(predict))
    alone, whole = alone[1:], whole[1:]
    share = round(ratio(alone, whole), 3)
    print(
        f"{options.count} pictures in {len(parts)} parts, batches of {batch_size}, {torch.get_num_threads()} threads, "
        f"{device.type}, torch {torch.__version__}, {versions()['cpu']}\n"
        f"detector alone    {options.count / sum(alone):8.2f} pictures/s\n"
        f"detector predict  {options.count / sum(whole):8.2f} pictures/s\n"
        f"predict / alone   {share:8.3f} (median of the parts; goal: at least 0.9)"
    )
    return 0 if share >= 0.9 else 1


def copy_pictures(source: Path, target: Path, count: int, parts: int) -> list[dict[str, Path]]:
    """Copy `count` pictures of a folder, again from its start if it has fewer. Return the paths by name, in parts."""
    pictures = list(find_pictures(str(source)).values())
    paths = {}
    for number in range(count):
        picture = pictures[number % len(pictures)]
        name = f"{number:05d}{picture.suffix}"
        paths[name] = Path(shutil.copyfile(picture, target / name))
    names = list(paths)
    return [{name: paths[name] for name in names[start::parts]} for start in range(parts)]


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_predict", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="a run's folder or a model")
    parser.add_argument("--images", type=Path, required=True, help="a folder of pictures")
    parser.add_argument("--count", type=int, default=500, help="pictures; a smaller folder is used several times")
    parser.add_argument("--parts", type=int, default=10)
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's choice)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings, for example batch_size")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
