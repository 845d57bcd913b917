"""`make bench-loader`: measures the time to load and prepare an image, and how long training waits for images.

Decode and flip run in the loader's workers, resize (with normalisation) in the training process. So they are measured
apart, on one thread. Then a ResNet-50 is trained for some steps, as `detector train` does, and its waiting time is
measured. `--steps 0` trains nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from detector.build import build_detector, build_optimizer, build_preprocess
from detector.configs.compose import load_config
from detector.configs.schema import Config
from detector.datasets.augment import TrainingView, flipped
from detector.datasets.build import build_dataset, build_proposals
from detector.datasets.images import open_picture, to_pixels
from detector.datasets.readable import files_of
from detector.datasets.tar_shards import File
from detector.engine.gradients import accumulate_gradients
from detector.pipeline.loaders import TrainingOrder, collate, training_loader
from detector.pipeline.run_folder import pick_device
from detector.pipeline.versions import versions
from detector.tools.bench.interleaved import interleaved, milliseconds

FIRST = 2  # steps that are not measured, since the workers start in them


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the results. Return the exit code."""
    options = _options(arguments)
    config = load_config(
        [
            *(f"dataset.root={options.root}", "dataset.train=2007_trainval", "backbone=resnet50", "proposals=grid"),
            *(f"trainer.workers={options.workers}", "backbone.weights=null", *options.set),
        ]
    )
    device = pick_device(config.trainer.device)
    dataset = build_dataset(config.dataset, "train")
    view = TrainingView(
        dataset,
        build_proposals(config.proposals, dataset, "train"),
        flip=config.input.flip,
        flip_vertical=config.input.flip_vertical,
        short_sides=tuple(config.input.short_sides),
        seed=config.trainer.seed,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = {
        name: values
        for parts in (_worker_parts(view), _trainer_parts(config, view))
        for name, values in interleaved(parts, options.images, torch.device("cpu")).items()
    }
    torch.set_num_threads(threads)
    waits, seconds = _waiting(config, view, options.steps, device) if options.steps else ([], [])
    about = versions()
    lines = [
        f"# Loading images: {len(view)} of {options.root.name}, shorter side {config.input.short_sides[0]}",
        "",
        f"Made by `python -m detector.tools.bench.loader`, commit {about['commit']}, torch {about['torch']}, "
        f"{about['cpu']}, {threads} threads, {options.workers} workers.",
        "",
        "| part, for one image on one thread | ms | images/s |",
        "|---|---|---|",
        *(
            f"| {name} | {milliseconds(values):.2f} | {1000 / milliseconds(values):.0f} |"
            for name, values in times.items()
        ),
    ]
    report: dict[str, object] = {
        "milliseconds": {name: round(milliseconds(values), 3) for name, values in times.items()},
        "workers": options.workers,
        "versions": about,
    }
    if seconds:
        share = sum(waits) / sum(seconds)
        lines += [
            "",
            f"| ResNet-50 on {device.type}, {len(seconds)} steps of {config.trainer.images_per_step} images | |",
            "|---|---|",
            f"| step, ms | {milliseconds(seconds):.0f} |",
            f"| waiting for data, ms a step: median, most | {milliseconds(waits):.2f}, {1e3 * max(waits):.2f} |",
            f"| data-wait share (goal: under 2 %) | {share:.2%} |",
        ]
        report |= {"step_milliseconds": round(milliseconds(seconds), 1), "data_wait_share": round(share, 5)}
    print("\n".join(lines))
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / f"loader_{device.type}.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.folder / f"loader_{device.type}.md").write_text("\n".join(lines) + "\n")
    return 0


def _by_pillow(file: File) -> Tensor:
    with open_picture(file) as picture:
        return to_pixels(picture)


def _worker_parts(view: TrainingView) -> dict[str, Callable[[], object]]:
    """The work of a loader's worker by name. Each call of decode and of the whole sample takes the next image."""
    files = files_of(view.dataset)
    by_ours, by_pillow, to_load = (itertools.cycle(range(len(view))) for _ in range(3))
    sample = view[(0, 0)]
    return {
        "decode": lambda: view.dataset.image(next(by_ours)),
        "decode by Pillow alone, for comparison": lambda: _by_pillow(files[next(by_pillow)]),
        "flip, with its boxes and proposals": lambda: flipped(sample),
        "whole sample in a worker (goal: 700 images/s)": lambda: view[(0, next(to_load))],
    }


def _trainer_parts(config: Config, view: TrainingView) -> dict[str, Callable[[], object]]:
    """The work of the training process by name: one image of its batch."""
    preprocess, antialiased = (
        build_preprocess(replace(config.input, antialias=antialias), [16]).train() for antialias in (False, True)
    )
    batch = collate([view[(0, 0)]])
    return {
        "resize and normalise": lambda: preprocess(batch),
        "resize and normalise with input.antialias": lambda: antialiased(batch),
    }


def _waiting(config: Config, view: TrainingView, steps: int, device: torch.device) -> tuple[list[float], list[float]]:
    """Train some steps. Return the seconds of waiting and the total seconds of each step."""
    detector = build_detector(config, len(view.dataset.classes)).to(device).train()
    optimizer = build_optimizer(config, detector)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    trainer = config.trainer
    order = TrainingOrder(
        len(view),
        trainer.images_per_step,
        seed=trainer.seed,
        first_step=0,
        last_step=FIRST + steps,
        rank=0,
        world_size=1,
        is_tall=[item.height > item.width for item in view.dataset.annotations] if trainer.group_by_aspect else None,
    )
    loader = training_loader(
        view, order, workers=trainer.workers, pin_memory=device.type == "cuda", prefetch=trainer.prefetch
    )
    waits, seconds = [], []
    with loader as batches:
        for _ in range(FIRST + steps):
            start = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - start)
            optimizer.zero_grad(set_to_none=True)
            accumulate_gradients(
                detector,
                batch.to(device, non_blocking=True),
                micro_batches=1,
                scaler=scaler,
                device=device,
                precision=trainer.precision,
            )
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return waits[FIRST:], seconds[FIRST:]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_loader", description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=Path("VOCdevkit"), help="VOCdevkit folder with VOC2007, photographs or rendered"
    )
    parser.add_argument("--images", type=int, default=50, help="images to time the parts on")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings")
    parser.add_argument("--folder", type=Path, default=Path("docs/benchmarks"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
