"""A program, not a test. It writes the gradients of one step of several detectors. `test_distributed.py` starts it.

One process takes the whole batch. N processes, started with torchrun's environment variables, take one share each.
"""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from detector.build import build_detector
from detector.configs.compose import load_config
from detector.engine.distributed import is_main, process_group, rank, world_size
from detector.engine.gradients import accumulate_gradients, over_processes
from detector.engine.sync_norm import synchronise_norms
from detector.structures import Batch, Instances, Proposals

CPU = torch.device("cpu")
SMALL = ["experiment=demo", "backbone.width=0.125", "backbone.tail_channels=32", "loss.targets=fixed"]
HEADS = {"fast_rcnn": ["head=fast_rcnn"], "rfcn": ["head=rfcn", "head.k=3", "head.channels=32"]}
SOURCES = {
    "given": ["proposals=grid"],
    "rpn": ["proposals=rpn", "proposals.scales=[1,2,4]", "proposals.channels=16", "proposals.top_k_train=100"],
}
SAMPLERS = {"random": ["sampling=random"], "ohem": ["sampling=ohem", "sampling.rois_per_image=16"]}
COMBINATIONS = (  # each pair of a head, a source of proposals and a sampler
    ("fast_rcnn", "given", "random"),
    ("fast_rcnn", "rpn", "ohem"),
    ("rfcn", "given", "ohem"),
    ("rfcn", "rpn", "random"),
)
CASES = {"/".join(names): [*SMALL, *HEADS[names[0]], *SOURCES[names[1]], *SAMPLERS[names[2]]] for names in COMBINATIONS}
BATCH_NORM = {"batch_norm": [*SMALL, "backbone.norm=bn"]}


def make_batch() -> Batch:
    """Return four images of 64 x 96. The last two, which the second of two processes gets, have no objects."""
    generator = torch.Generator().manual_seed(0)

    def boxes(count: int) -> Tensor:
        low = torch.rand(count, 2, generator=generator) * 40
        return torch.cat((low, low + 12 + 30 * torch.rand(count, 2, generator=generator)), dim=1)

    images, instances, proposals = [], [], []
    for objects, candidates in ((2, 40), (3, 30), (0, 20), (0, 0)):
        images.append(torch.randint(256, (3, 64, 96), dtype=torch.uint8, generator=generator))
        ground_truth = boxes(objects)
        instances.append(Instances(ground_truth, 1 + torch.arange(objects) % 3, torch.zeros(objects, dtype=torch.bool)))
        near = ground_truth.repeat(6, 1) + 2
        proposals.append(Proposals(torch.cat((near, boxes(candidates))), torch.zeros(len(near) + candidates)))
    return Batch(images, instances, proposals, list("abcd"), [1, 2, 3, 4], [64] * 4)


def gradients(overrides: list[str], micro_batches: int) -> dict[str, Tensor]:
    """Return the gradient of every parameter, and the losses summed over the processes."""
    torch.manual_seed(1)  # not a seed with a map value near 0: rounding would flip a ReLU
    detector = build_detector(load_config(overrides), num_classes=3).train()
    if world_size() > 1:
        synchronise_norms(detector)
    model: nn.Module = over_processes(detector)
    share = make_batch().split(world_size())[rank()]
    losses = accumulate_gradients(
        model,
        share,
        micro_batches=micro_batches,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        device=CPU,
        precision="fp32",
    )
    found = {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}
    assert found.keys() == {name for name, p in detector.named_parameters() if p.requires_grad}
    values = {**losses.parts, **{name: mean.value() for name, mean in losses.means.items()}, **losses.counts}
    for name, value in values.items():
        found[name] = value.float().clone()
        if world_size() > 1:
            torch.distributed.all_reduce(found[name])
    return found


def main(path: Path) -> None:
    torch.set_num_threads(1)
    with process_group(CPU, 60.0):
        micro = (1, 2) if world_size() > 1 else (1,)
        content = {f"{name}/{parts}": gradients(case, parts) for name, case in CASES.items() for parts in micro}
        content |= {f"{name}/1": gradients(case, 1) for name, case in BATCH_NORM.items()}
        if is_main():
            torch.save(content, path)


if __name__ == "__main__":
    assert "RANK" in os.environ
    main(Path(sys.argv[1]))
