"""`make bench-step`: compares a training step with its bare parts, and with torchvision's Faster R-CNN.

The bare parts are the same backbone with the same frozen stages, forward and backward; the same tail on features pooled
before, forward and backward; and the same optimizer. The whole step has its data on the device and proposals as input;
a step with a proposal network is measured separately. All run in turn. Times are medians, and ratios are medians of the
ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from detector.build import build_detector, build_optimizer
from detector.configs.compose import load_config
from detector.configs.schema import Config
from detector.engine.allocator import keep_freed_memory
from detector.engine.gradients import accumulate_gradients
from detector.engine.precision import decided
from detector.model import Detector
from detector.ops import boxes as box_ops
from detector.pipeline.run_folder import kernels
from detector.pipeline.versions import versions
from detector.structures import Batch, Instances, Proposals
from detector.tools.bench.interleaved import interleaved, milliseconds, ratio
from detector.tools.bench.torchvision_models import MOBILE_ROIS, MOBILE_TRAIN, mobilenet_v2_step, resnet50_fpn_step

CLASSES = 20
GIVEN = ["proposals=file", "proposals.train=none", "proposals.test=none"]
PEER_ROIS = 512  # RoIs per image, torchvision's default
WHOLE, RPN_STEP, DETERMINISTIC = "training step", "training step with an RPN", "training step, deterministic"
BARE = ("bare backbone", "bare tail", "bare optimizer")
PEER, MOBILE_PEER = "torchvision", "torchvision on MobileNetV2"
MOBILE_SIZE = (480, 640)  # pixels of the images of both detectors on MobileNetV2
REST = ("to the network's input", "matching and sampling", "RoI pooling", "losses")


class Bench:
    """One detector with its optimizer, on a batch of noise."""

    def __init__(
        self,
        overrides: list[str],
        options: argparse.Namespace,
        num_proposals: int | None = 2000,
        precision: str = "fp32",
    ) -> None:
        torch.manual_seed(0)
        self.device = torch.device(options.device)
        self.precision = precision
        size = [f"input.short_sides=[{options.height}]", f"input.max_side={options.width}"]
        self.config: Config = load_config([*overrides, *size])
        self.detector: Detector = build_detector(self.config, CLASSES).to(self.device).train()
        self.optimizer = build_optimizer(self.config, self.detector)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=False)
        self.batch = noise(options, num_proposals).to(self.device)

    def step(self) -> None:
        """Run a step of the training loop, without logging and saving."""
        self.optimizer.zero_grad(set_to_none=True)
        accumulate_gradients(
            self.detector,
            self.batch,
            micro_batches=1,
            scaler=self.scaler,
            device=self.device,
            precision=self.precision,
        )
        self.optimizer.step()

    def deterministic_step(self) -> None:
        """Run a step with torch's deterministic algorithms."""
        torch.use_deterministic_algorithms(True)
        try:
            self.step()
        finally:
            torch.use_deterministic_algorithms(False)

    def parts(self) -> dict[str, Callable[[], object]]:
        """The bare parts, and the other parts of a step, on the RoIs of a step."""
        detector, backbone = self.detector, self.detector.backbone
        head: Any = detector.head
        with torch.no_grad():
            inputs = detector.preprocess(self.batch)
            (features,) = backbone(inputs.images).head
            ((read,),) = head.maps([features])
            proposed = detector.proposals([features], inputs).proposals
            sampled = self._sample(inputs)
            rois = box_ops.to_rois(sampled.boxes, inclusive=head.inclusive)
            pooled = head.pooling(read, rois, head.output_size, 1 / head.strides[0])
            hidden = head.tail(pooled)
            predictions = head([(read,)], sampled.boxes)
            targets = detector._targets(sampled.boxes, sampled.labels, sampled.gt_boxes)
        assert len(proposed) == len(self.batch)
        down, down_tail, down_pooled = (torch.randn_like(value) for value in (features, hidden, pooled))

        def run_backbone() -> None:
            self.detector.zero_grad(set_to_none=True)
            backbone(inputs.images).head[0].backward(down)

        def run_tail() -> None:
            head.tail(pooled.detach().requires_grad_()).backward(down_tail)

        def pool() -> None:
            leaf = read.detach().requires_grad_()
            head.pooling(leaf, rois, head.output_size, 1 / head.strides[0]).backward(down_pooled)

        def lose() -> None:
            logits, deltas = (value.detach().requires_grad_() for value in predictions)
            losses = detector.loss(predictions._replace(logits=logits, deltas=deltas), targets, detector.coder)
            (losses.classification.sum() + losses.box.sum()).backward()

        self.step()  # computes gradients for the optimizer
        gradients = {p: p.grad for group in self.optimizer.param_groups for p in group["params"]}

        def run_optimizer() -> None:
            for parameter, gradient in gradients.items():
                parameter.grad = gradient
            self.optimizer.step()

        @torch.no_grad()
        def sample() -> None:
            found = self._sample(inputs)
            detector._targets(found.boxes, found.labels, found.gt_boxes)

        rest = (lambda: detector.preprocess(self.batch), sample, pool, lose)
        return dict(zip((*BARE, *REST), (run_backbone, run_tail, run_optimizer, *rest), strict=True))

    def _sample(self, inputs: Any) -> Any:
        proposed = self.detector.proposals([], inputs).proposals
        return self.detector.sampler(self.detector._match(proposed, inputs), inputs.seeds, lambda items: [])


def noise(options: argparse.Namespace, num_proposals: int | None) -> Batch:
    """Images of noise, each with 8 objects and with proposals of all sizes that include them."""
    generator = torch.Generator().manual_seed(0)
    size = (3, options.height, options.width)
    images, ground_truth, proposals = [], [], []
    for _ in range(options.batch):
        images.append(torch.randint(0, 256, size, generator=generator, dtype=torch.uint8))
        limits = torch.tensor([options.width, options.height])
        corners = (torch.rand(num_proposals or 8, 2, 2, generator=generator) * limits).sort(dim=1).values
        boxes = torch.cat((corners[:, 0], corners[:, 1] + 1), dim=1).minimum(limits.repeat(2).float())
        ground_truth.append(Instances(boxes[:8], torch.arange(1, 9), torch.zeros(8, dtype=torch.bool)))
        proposals.append(Proposals(boxes, torch.zeros(len(boxes))))
    return Batch(
        images=images,
        instances=ground_truth,
        proposals=proposals if num_proposals else None,
        image_ids=["noise"] * options.batch,
        seeds=list(range(options.batch)),
        short_sides=[options.height] * options.batch,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the results. Return the exit code."""
    options = _options(arguments)
    keep_freed_memory()  # as in training
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    base = ["backbone=resnet50", *options.set]
    given = Bench([*base, *GIVEN], options)
    learned = Bench([*base, "proposals=rpn"], options, None)
    rois = given.config.sampling.rois_per_image
    contestants = {
        WHOLE: given.step,
        RPN_STEP: learned.step,
        DETERMINISTIC: given.deterministic_step,
        **given.parts(),
    }
    times = interleaved(contestants, options.rounds, device)
    bare = [sum(values) for values in zip(*(times[name] for name in BARE), strict=True)]
    rest = [sum(values) for values in zip(*(times[name] for name in REST), strict=True)]
    del given, learned, contestants  # frees memory: a later network has 100 million parameters
    peer_times = {} if options.no_peer else interleaved(_beside_torchvision(options, base), options.rounds, device)
    mobile_times = {} if options.no_peer else interleaved(_beside_torchvision_mobile(options), options.rounds, device)
    ratios: list[tuple[str, float, str]] = [
        ("training step / bare parts", ratio(times[WHOLE], bare), "at most 1.10"),
        ("the rest, piece by piece / bare parts", ratio(rest, bare), ""),
        ("step with an RPN / step", ratio(times[RPN_STEP], times[WHOLE]), ""),
        ("deterministic step / step", ratio(times[DETERMINISTIC], times[WHOLE]), ""),
        *(
            (f"{peer} / {name}", ratio(of[peer], values), goal)
            for peer, of, goal in ((PEER, peer_times, "at least 1.5"), (MOBILE_PEER, mobile_times, "at least 3"))
            for name, values in of.items()
            if name != peer
        ),
    ]
    size = f"{options.batch} x {options.height}x{options.width}"
    every = {**times, **peer_times, **mobile_times}
    report = {
        "size": size,
        "settings": options.set,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "kernels": kernels(device),
        "versions": versions(),
        "milliseconds": {name: round(milliseconds(values), 2) for name, values in every.items()},
        "ratios": {name: {"measured": round(value, 3), "goal": goal} for name, value, goal in ratios},
    }
    lines = [
        f"# A training step of Fast R-CNN ResNet-50, images {size}, on {device.type}",
        "",
        f"Made by `python -m detector.tools.bench.step`, {options.rounds} rounds of calls in turn after a warm-up "
        f"round, {torch.get_num_threads()} threads, torch {torch.__version__}, {versions()['cpu']}; {kernels(device)}. "
        f"Random weights, stem and res2 frozen, res5 on {rois} RoIs an image, sampled from 2,000 proposals; "
        f"{' '.join(options.set) or 'default settings'}. Medians; a ratio is the median of the ratios within a round.",
        "",
        "| part | ms |",
        "|---|---|",
        *(f"| {name} | {milliseconds(values):.1f} |" for name, values in times.items()),
        "",
        f"Compared with torchvision's FasterRCNN ResNet-50-FPN: an RPN, {PEER_ROIS} RoIs an image, two fully connected "
        "layers of 1,024 on 7x7 cells, res3 and later trained.",
        "",
        "| part | ms |",
        "|---|---|",
        *(f"| {name} | {milliseconds(values):.1f} |" for name, values in peer_times.items()),
        "",
        f"One network on MobileNetV2's map of stride 16, torchvision's and ours: {options.batch} images of "
        f"{MOBILE_SIZE[0]}x{MOBILE_SIZE[1]}, {MOBILE_ROIS} RoIs an image, 15 anchors a cell, "
        f"{MOBILE_TRAIN[0]} proposals before NMS and {MOBILE_TRAIN[1]} after it, all layers trained.",
        "",
        "| part | ms |",
        "|---|---|",
        *(f"| {name} | {milliseconds(values):.1f} |" for name, values in mobile_times.items()),
        "",
        "| ratio | measured | goal |",
        "|---|---|---|",
        *(f"| {name} | {value:.3f} | {goal} |" for name, value, goal in ratios),
    ]
    print("\n".join(lines))
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / f"step_{device.type}.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.folder / f"step_{device.type}.md").write_text("\n".join(lines) + "\n")
    return 0


def _beside_torchvision(options: argparse.Namespace, base: list[str]) -> dict[str, Callable[[], object]]:
    """Steps of torchvision's ResNet-50 model and of ours with the same image size and number of RoIs."""
    common = [*base, "proposals=rpn", f"sampling.rois_per_image={PEER_ROIS}"]
    tail = ["head=fast_rcnn_align", "backbone.tail=fc", "backbone.tail_channels=1024"]
    torch.manual_seed(0)
    return {
        PEER: resnet50_fpn_step(noise(options, None).to(torch.device(options.device)), CLASSES),
        "ours, res4 and two layers": Bench([*common, *tail], options, None).step,
        "ours, res4 reduced to 256 channels and two layers": Bench(
            [*common, *tail, "head.channels=256"], options, None
        ).step,
        "ours, dilated res5 and two layers": Bench([*common, *tail, "backbone.dilated_c5=true"], options, None).step,
        "ours, R-FCN on dilated res5": Bench([*common, "head=rfcn"], options, None).step,
    }


def _beside_torchvision_mobile(options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Steps of one network on MobileNetV2, torchvision's and ours: same images, map, layers, anchors and RoIs."""
    options = argparse.Namespace(**{**vars(options), "height": MOBILE_SIZE[0], "width": MOBILE_SIZE[1]})
    device = torch.device(options.device)
    network = [
        *("backbone=mobilenet_v2", "backbone.node=features.13", "head=fast_rcnn_align", "proposals=rpn"),
        *("backbone.tail=fc", "backbone.tail_channels=1024", f"sampling.rois_per_image={MOBILE_ROIS}"),
        *("proposals.channels=96", "proposals.scales=[2,4,8,16,32]", "proposals.aspects=[0.5,1,2]"),
        *(f"proposals.pre_nms_train={MOBILE_TRAIN[0]}", f"proposals.top_k_train={MOBILE_TRAIN[1]}"),
        "sampling.background_iou_low=0.0",
    ]
    precisions = ["fp32"] if decided(device, "auto") == "fp32" else ["fp32", "bf16"]
    torch.manual_seed(0)
    return {
        MOBILE_PEER: mobilenet_v2_step(noise(options, None).to(device), CLASSES),
        **{f"ours on MobileNetV2, {name}": Bench(network, options, None, name).step for name in precisions},
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_step", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--height", type=int, default=300)
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, help="CPU threads of torch (default: torch's choice)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the detectors")
    parser.add_argument("--no-peer", action="store_true", help="leave torchvision's model out")
    parser.add_argument("--folder", type=Path, default=Path("docs/benchmarks"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
