"""A detector as a function of one photograph: tensors in, tensors out, sizes unknown; what is exported is this.

    image [H, W, 3] uint8, boxes [P, 4] --resize, normalise, pad--> backbone --> head --> decode [--> NMS]

The parts are the detector's own; only their joining is written anew, without lists, batches or early returns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detector.model import Detector
from detector.ops import boxes as box_ops
from detector.preprocess import Frame, Inputs, resized_size
from detector.proposals.rpn import RPN
from detector.structures import Proposals

MAX_SIDE = 1 << 14  # pixels of an image: a bound that shapes need, far above any photograph


class DetectorGraph(nn.Module):
    """Detections of one image; with a proposal network the image is the only input."""

    def __init__(self, detector: Detector, *, short_side: int, suppress: bool) -> None:
        """`short_side` is what the image's shorter side is resized to; `suppress` puts thresholds and NMS inside."""
        super().__init__()
        self.detector = detector
        self.short_side = short_side
        self.suppress = suppress

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("image",) if isinstance(self.detector.proposals, RPN) else ("image", "proposals")

    @property
    def output_names(self) -> tuple[str, ...]:
        return ("boxes", "scores", "labels") if self.suppress else ("boxes", "scores")

    def forward(self, image: Tensor, proposals: Tensor | None = None) -> tuple[Tensor, ...]:
        """Boxes and scores in the pixels of the image.

        image: [H, W, 3] uint8 RGB, as Pillow and NumPy hold a photograph. proposals: [P, 4] float32 xyxy in its pixels,
        half-open; left out where the network proposes.

        With `suppress`: boxes [D, 4], scores [D] and labels [D] int64 (1..num_classes), best first, as
        `Detector.detect` gives them. Without: boxes [R, num_classes, 4] and scores [R, num_classes] of every RoI and
        class, to be thresholded and suppressed by the caller.
        """
        detector, preprocess = self.detector, self.detector.preprocess
        height, width = image.shape[:2]
        resized = resized_size(height, width, self.short_side, preprocess.max_side)
        frame_height, frame_width = (_number(side) for side in resized)
        rows, columns = (_number((side + preprocess.multiple - 1) // preprocess.multiple) for side in resized)
        mean = preprocess.mean
        scale_x = mean.new_full((), frame_width) / mean.new_full((), width)
        scale_y = mean.new_full((), frame_height) / mean.new_full((), height)
        scale = torch.stack((scale_x, scale_y, scale_x, scale_y))
        # A frame's scales are numbers; here they are tensors, since the image's size is not known yet.
        frame = Frame(frame_height, frame_width, scale_y, scale_x)  # type: ignore[arg-type]
        padding = (0, columns * preprocess.multiple - frame_width, 0, rows * preprocess.multiple - frame_height)
        canvas = F.pad(preprocess.normalised(image.permute(2, 0, 1), frame)[None], padding)
        given = None if proposals is None else [Proposals(proposals * scale, proposals.new_zeros(proposals.shape[0]))]
        features = detector.backbone(canvas)
        inputs = Inputs(canvas, [frame], [], given, [])
        rois = detector.proposals(features.proposals, inputs).proposals[0].boxes
        predictions = detector.head(detector.head.maps(features.head), [rois])
        if self.suppress:
            found = detector.postprocess(predictions, rois, detector.coder, frame)
            return found.boxes / scale, found.scores, found.labels
        deltas = predictions.deltas.float() * detector.coder.std + detector.coder.mean  # [R, num_classes or 1, 4]
        scores = predictions.logits.float().softmax(dim=1)[:, 1:]
        boxes = box_ops.clip(box_ops.decode(deltas, rois[:, None]), frame.height, frame.width)
        return boxes.expand(-1, scores.shape[1], -1) / scale, scores


def _number(size: int) -> int:
    """A size that counts from here on as a number of its own, not as a formula of the image's sides.

    All shapes after it are derived from it: an export that carries the formula through takes minutes.
    """
    if not torch.compiler.is_exporting():
        return size
    number: int = torch.full((), size).item()  # type: ignore[assignment]
    torch._check(number >= 1)
    torch._check(number <= MAX_SIDE)
    return number
