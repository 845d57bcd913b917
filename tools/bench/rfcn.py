"""`make bench-rfcn`: tests R-FCN's claim that the work per RoI is nearly free, and measures the cost of mining.

The contestants run in turn on the same image and the same random weights. Times are medians. Ratios are medians of the
ratios within a round, which other load on the machine disturbs least. Results are written to docs/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.model import Detector
from detector.pipeline.run_folder import kernels
from detector.pipeline.versions import versions
from detector.structures import Batch, Instances, Proposals, RoIPredictions
from detector.tools.bench.interleaved import interleaved, milliseconds, ratio

CLASSES = 20


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the results. Return the exit code."""
    options = _options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    detector = _detector("random", device)
    inference = {
        "backbone and score maps": _maps(detector, _batch(options, 300, device)),
        "image with 300 RoIs": _image(detector, _batch(options, 300, device)),
        "image with 2000 RoIs": _image(detector, _batch(options, 2000, device)),
    }
    training = {
        f"step with {name}, 300 RoIs": _step(_detector(kind, device), _batch(options, 300, device))
        for name, kind in (("random sampling", "random"), ("OHEM", "ohem"))
    }
    times = {**interleaved(inference, options.rounds, device), **interleaved(training, options.rounds, device)}
    maps, few, many, random, mined = times.values()
    ratios = [
        ("300 RoIs / maps alone", ratio(few, maps), 1.10),
        ("2000 RoIs / 300 RoIs", ratio(many, few), 1.10),
        ("OHEM step / random step", ratio(mined, random), 1.05),
    ]
    report = {
        "size": f"{options.height}x{options.width}",
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "kernels": kernels(device),
        "versions": versions(),
        "milliseconds": {name: round(milliseconds(values), 2) for name, values in times.items()},
        "ratios": {name: {"measured": round(value, 3), "goal": goal} for name, value, goal in ratios},
    }
    lines = [
        f"# R-FCN ResNet-50, k = 7, {CLASSES} classes, one image of {report['size']}, on {device.type}",
        "",
        f"Made by `python -m detector.tools.bench.rfcn`, {options.rounds} rounds of calls in turn after a warm-up "
        f"round, {report['threads']} threads, torch {torch.__version__}, random weights; {report['kernels']}. Medians; "
        "a ratio is the median of the ratios within a round. An image ends with its RoIs decoded and NMS.",
        "",
        "| part | ms |",
        "|---|---|",
        *(f"| {name} | {milliseconds(values):.1f} |" for name, values in times.items()),
        "",
        "| ratio | measured | goal, at most |",
        "|---|---|---|",
        *(f"| {name} | {value:.3f} | {goal:.2f} |" for name, value, goal in ratios),
    ]
    print("\n".join(lines))
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / f"rfcn_{device.type}.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.folder / f"rfcn_{device.type}.md").write_text("\n".join(lines) + "\n")
    return 0


def _detector(sampling: str, device: torch.device) -> Detector:
    torch.manual_seed(0)
    settings = ["backbone=resnet50", "head=rfcn", "proposals=file", "proposals.train=none", "proposals.test=none"]
    config = load_config([*settings, f"sampling={sampling}", "sampling.rois_per_image=128"])
    return build_detector(config, CLASSES).to(device)


def _batch(options: argparse.Namespace, num_rois: int, device: torch.device) -> Batch:
    """One image of noise with RoIs of all sizes; the first 8 are the objects."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, options.height, options.width), generator=generator, dtype=torch.uint8)
    limits = torch.tensor([options.width, options.height])
    corners = (torch.rand(num_rois, 2, 2, generator=generator) * limits).sort(dim=1).values
    boxes = torch.cat((corners[:, 0], corners[:, 1] + 1), dim=1).minimum(limits.repeat(2).float())
    ground_truth = Instances(boxes[:8], torch.arange(1, 9), torch.zeros(8, dtype=torch.bool))
    proposals = Proposals(boxes, torch.zeros(num_rois))
    return Batch([image], [ground_truth], [proposals], ["noise"], [0], [min(options.height, options.width)]).to(device)


def _maps(detector: Detector, batch: Batch) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return detector.head.maps(detector.backbone(detector.preprocess(batch).images).head)

    return _in_mode(detector, False, run)


def _image(detector: Detector, batch: Batch) -> Callable[[], object]:
    """`Detector.detect`, but with few high scores, as in a trained network."""

    def run() -> object:
        with torch.inference_mode():
            inputs = detector.preprocess(batch)
            boxes = [item.boxes for item in inputs.proposals or []]
            predictions = detector.head(detector.head.maps(detector.backbone(inputs.images).head), boxes)
            # Random weights would pass 20 classes of every RoI to NMS; a trained network passes few.
            background = torch.zeros_like(predictions.logits)
            background[:, 0] = 10.0
            background[: len(background) // 10, 1] = 10.0
            likely = RoIPredictions(predictions.logits * 0 + background, predictions.deltas)
            return detector.postprocess(likely, boxes[0], detector.coder, inputs.frames[0])

    return _in_mode(detector, False, run)


def _step(detector: Detector, batch: Batch) -> Callable[[], object]:
    def run() -> None:
        detector.zero_grad(set_to_none=True)
        detector(batch).total().backward()

    return _in_mode(detector, True, run)


def _in_mode(detector: Detector, training: bool, run: Callable[[], object]) -> Callable[[], object]:
    def switched() -> object:
        detector.train(training)
        return run()

    return switched


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_rfcn", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--height", type=int, default=600)
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's choice)")
    parser.add_argument("--folder", type=Path, default=Path("docs/benchmarks"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
