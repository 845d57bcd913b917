"""`detector explain ps_roi_pool weights=... images=...`: score maps and votes of a trained R-FCN for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from detector.configs.compose import override_config
from detector.configs.errors import ConfigError
from detector.datasets.build import propose
from detector.datasets.images import read_image
from detector.draw_score_maps import draw_score_maps
from detector.heads import VotingHead
from detector.pipeline.models import Model, load_model, read_model_config
from detector.pipeline.predictor import make_batch
from detector.pipeline.run_folder import pick_device
from detector.pipeline.score_maps import votes_of
from detector.structures import Batch
from detector.tools.explain.operators import check_picture_name, numbers, split_settings

SETTINGS = ("weights", "images", "box", "class", "output")


@torch.no_grad()
def run_explain_model(words: Sequence[str]) -> None:
    """Print and draw the votes of one class for one box of a picture. The default is the best detection.

    Raises ConfigError for wrong settings, ValueError for files that cannot be read.
    """
    settings = split_settings(words, SETTINGS, "explain ps_roi_pool with weights=")
    if "images" not in settings:
        raise ConfigError("explain ps_roi_pool with weights=: needs images=PICTURE too")
    source, weights = Path(settings["images"]), Path(settings["weights"])
    output = Path(settings.get("output", "runs/explain/score_maps.png"))
    check_picture_name(output)
    given = torch.tensor([numbers("box", settings["box"], 4)]) if "box" in settings else None
    config = override_config(read_model_config(weights), [])
    device = pick_device(config.trainer.device)
    model = load_model(weights, config, device)
    if not isinstance(model.detector.head, VotingHead):
        raise ConfigError(f"weights={weights}: the model has head={config.head.kind}; only head=rfcn has score maps")
    names = ("background", *model.classes)
    label = _label(settings["class"], names) if "class" in settings else None
    image = read_image(source)
    proposals = propose(config.proposals, image) if given is None else torch.zeros(0, 4)
    batch = make_batch([image], [proposals], config.input.test_short_side).to(device)
    if given is None:
        box, label = _best_detection(model, batch, label, source)
    else:
        box = given[0].to(device)
    cast = votes_of(model.detector, batch, box)
    bins, maps = cast.bins[0], cast.score_maps[0]
    votes = bins.mean(dim=(1, 2))
    probabilities = votes.softmax(dim=0)
    label = int(votes[1:].argmax()) + 1 if label is None else label
    best = votes.argsort(descending=True)[:3].tolist()
    corners = " ".join(f"{value:.1f}" for value in box.tolist())
    print(f"box {corners}, {bins.shape[1]} x {bins.shape[1]} bins")
    for index in dict.fromkeys((label, *best)):
        print(f"{names[index]:<16} vote {float(votes[index]):+.3f}, probability {float(probabilities[index]):.3f}")
    title = f"{names[label]}: probability {float(probabilities[label]):.3f} for the box {corners}"
    picture = draw_score_maps(image, maps[label], box, bins[label], cell_size=cast.stride, title=title)
    output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(output)
    print(f"picture  {output}")


def _label(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ConfigError(f"class={name}: the model has no such class; use one of {', '.join(names)}")
    return names.index(name)


def _best_detection(model: Model, batch: Batch, label: int | None, source: Path) -> tuple[Tensor, int]:
    """Box [4] and label of the detection with the highest score, of class `label` unless it is None."""
    found = model.detector.detect(batch)[0]
    if label is not None:
        found = found[found.labels == label]
    if len(found) == 0:
        missing = "nothing" if label is None else f"no {('background', *model.classes)[label]}"
        raise ConfigError(f"images={source}: the model detects {missing} there; give a box with box=x1,y1,x2,y2")
    best = int(found.scores.argmax())
    return found.boxes[best], int(found.labels[best])
