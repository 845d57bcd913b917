"""`detector benchmark`: measure a model's speed and memory, the time of each part, and the speed on other backends.

The first series times whole calls. The second synchronizes at the start and end of every part and times the parts. The
third runs the same model on other backends in turn (`backends.py`). A model without a checkpoint has random weights.
Its scores are nearly equal: all classes pass the score threshold or none, so the time of NMS is not realistic.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detector.build import build_detector
from detector.configs import schema
from detector.datasets.build import propose
from detector.heads import VotingHead
from detector.model import Detector
from detector.pipeline.models import load_model
from detector.pipeline.run_folder import RunFolder, kernels, pick_device
from detector.pipeline.versions import versions
from detector.structures import Batch, Instances, Proposals
from detector.tools.bench.backends import Backends, Lap, side_by_side, table
from detector.tools.bench.stopwatch import Stopwatch

log = logging.getLogger("detector")

PARTS = ("preprocess", "backbone", "proposals", "head maps", "RoI op", "head per RoI", "decode and NMS")


@dataclass(frozen=True, slots=True)
class Part:
    """The cost of one part of `Detector.detect` on one batch."""

    name: str
    milliseconds: float  # median
    flops: float  # of convolutions and matrix products, as torch counts them; pooling and NMS count as 0
    parameters: int


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The results. Latencies are for one batch."""

    batch_size: int
    input_size: tuple[int, int]  # height and width of the network's input
    detections: int  # in the batch
    latency: dict[str, float]  # percentile -> milliseconds
    images_per_s: float
    peak_memory: float  # bytes: of the GPU's allocator, or of the whole process on a CPU
    parts: tuple[Part, ...]

    def table(self, device: str) -> str:
        """Return aligned plain text: a row for each part, then the sum and the whole calls."""
        total_ms = sum(part.milliseconds for part in self.parts)
        total_flops = sum(part.flops for part in self.parts)
        lines = [f"{'part':<16}{'ms':>10}{'share':>8}{'GFLOP':>10}{'parameters':>14}"]
        for part in self.parts:
            flops = f"{part.flops / 1e9:10.2f}" if part.flops else f"{'-':>10}"
            parameters = f"{part.parameters:14,}" if part.parameters else f"{'-':>14}"
            share = f"{part.milliseconds / total_ms:8.1%}"
            lines.append(f"{part.name:<16}{part.milliseconds:10.2f}{share}{flops}{parameters}")
        total = sum(part.parameters for part in self.parts)
        lines.append(f"{'sum':<16}{total_ms:10.2f}{1:8.1%}{total_flops / 1e9:10.2f}{total:14,}")
        percentiles = ", ".join(f"{name} {value:.2f}" for name, value in self.latency.items())
        memory = "peak GPU memory" if device.startswith("cuda") else "peak memory of the process"
        lines.append(f"whole calls, ms: {percentiles}")
        lines.append(
            f"{self.images_per_s:.2f} images/s in batches of {self.batch_size}, input {self.input_size[0]}x"
            f"{self.input_size[1]}, {self.detections} detections, {memory} {self.peak_memory / 2**20:.0f} MiB"
        )
        return "\n".join(lines)


def run_benchmark(config: schema.Config, run: RunFolder) -> None:
    """Print the table and write benchmark.json into `run`."""
    device = pick_device(config.trainer.device)
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    settings = config.benchmark
    if config.weights is not None:
        model = load_model(Path(config.weights), config, device)
        detector, source = model.detector, f"{config.weights}, step {model.step}"
    else:
        torch.manual_seed(config.trainer.seed)
        detector = build_detector(config, settings.num_classes).to(device).eval()
        source = "random weights"
    about = versions()
    hardware = about["gpu"] if device.type == "cuda" else about["machine"]
    log.info("%s | %s | %s | torch %s", source, hardware, kernels(device), about["torch"])
    batch = noise_batch(config).to(device)
    found = benchmark(detector, batch, device, settings.warmup, settings.repeats)
    log.info("%s", found.table(device.type))
    laps: tuple[Lap, ...] = ()
    if settings.backends:
        backends = Backends(detector, batch, config.input.test_short_side, device)
        laps = side_by_side(backends, settings.backends, settings.repeats)
        log.info("\n%s", table(laps))
    content = {**asdict(found), "backends": [asdict(lap) for lap in laps], "weights": source, "versions": about}
    run.write_json("benchmark.json", content)
    log.info("results in %s", run.path / "benchmark.json")


def noise_batch(config: schema.Config) -> Batch:
    """Return a batch of noise images. Its proposals are random boxes, the grid's boxes, or None for an RPN."""
    settings, rng = config.benchmark, torch.Generator().manual_seed(0)
    height, width, count = settings.height, settings.width, settings.batch_size
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=rng) for _ in range(count)]
    no_objects = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    match config.proposals:
        case schema.RPNConfig():
            boxes = None
        case schema.GridProposalsConfig():
            boxes = [propose(config.proposals, image) for image in images]
        case _:
            boxes = [_random_boxes(settings.num_proposals, height, width, rng) for _ in range(count)]
    return Batch(
        images=images,
        instances=[no_objects] * count,
        proposals=None
        if boxes is None
        else [Proposals(item, torch.zeros(len(item))) for item in boxes if item is not None],
        image_ids=[f"noise {number}" for number in range(count)],
        seeds=[0] * count,
        short_sides=[config.input.test_short_side] * count,
    )


def benchmark(detector: Detector, batch: Batch, device: torch.device, warmup: int, repeats: int) -> Benchmark:
    """Time `detector.detect(batch)`: whole calls after `warmup` calls, then each part. The detector does not change."""
    for _ in range(warmup):
        detector.detect(batch)
    _synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = detector.detect(batch)
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    memory = _peak_memory(device)

    def clock() -> float:
        _synchronize(device)
        return time.perf_counter()

    times = [_measure_parts(detector, batch, clock) for _ in range(repeats)]
    with FlopCounterMode(display=False) as counter:
        flops = _measure_parts(detector, batch, lambda: float(counter.get_total_flops()))
    parameters = _parameters(detector)
    parts = tuple(
        Part(name, 1e3 * float(np.median([item[name] for item in times])), flops[name], parameters.get(name, 0))
        for name in PARTS
    )
    percentiles = {f"p{rank}": 1e3 * float(np.percentile(seconds, rank)) for rank in (50, 90, 95, 99)}
    with torch.no_grad():
        height, width = detector.preprocess(batch).images.shape[2:]
    return Benchmark(
        batch_size=len(batch),
        input_size=(int(height), int(width)),
        detections=sum(len(item) for item in found),
        latency={"min": 1e3 * min(seconds), **percentiles},
        images_per_s=len(batch) / float(np.median(seconds)),
        peak_memory=memory,
        parts=parts,
    )


def _measure_parts(detector: Detector, batch: Batch, read: Callable[[], float]) -> dict[str, float]:
    """Return how much `read` increases in each part of one call."""
    watch = Stopwatch(read)
    head: Any = detector.head
    # The head's attribute with the RoI operator: the pooling before a tail, or the vote at the end of the network.
    operator = (head.pooling, "vote") if isinstance(detector.head, VotingHead) else (head, "pooling")
    places = (
        ("preprocess", detector.preprocess, "forward"),
        ("backbone", detector.backbone, "forward"),
        ("proposals", detector.proposals, "forward"),
        ("head maps", head, "maps"),
        ("RoI op", *operator),
        ("head per RoI", head, "forward"),
        ("decode and NMS", detector, "postprocess"),
    )
    with contextlib.ExitStack() as stack:
        for part, owner, name in places:
            stack.enter_context(watch.wrapped(part, owner, name))
        detector.detect(batch)
    return {part: watch.spent[part] for part in PARTS}


def _parameters(detector: Detector) -> dict[str, int]:
    """Return the number of parameters of each part. A tail shared with the backbone counts for the head.

    A head's tail and linear layers run per RoI. Its other layers compute the maps.
    """
    backbone: Any = detector.backbone
    proposals: Any = detector.proposals
    head: Any = detector.head
    of_head = {id(value) for value in head.parameters()}
    layers = [module for name, module in head.named_modules() if name == "tail" or isinstance(module, nn.Linear)]
    per_roi = {id(value) for layer in layers for value in layer.parameters()}
    return {
        "backbone": _count([value for value in backbone.parameters() if id(value) not in of_head]),
        "proposals": _count(list(proposals.parameters())),
        "head maps": _count([value for value in head.parameters() if id(value) not in per_roi]),
        "head per RoI": _count([value for value in head.parameters() if id(value) in per_roi]),
    }


def _count(values: list[Tensor]) -> int:
    return sum(value.numel() for value in values)


def _random_boxes(count: int, height: int, width: int, rng: torch.Generator) -> Tensor:
    """Return boxes [count, 4] with sides drawn uniformly from 0.1 to 1 times the image's side."""
    extent = torch.tensor([width, height], dtype=torch.float32)
    sides = extent * (0.1 + 0.9 * torch.rand(count, 2, generator=rng))
    corners = (extent - sides) * torch.rand(count, 2, generator=rng)
    return torch.cat((corners, corners + sides), dim=1)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
