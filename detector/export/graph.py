"""The module that is exported: a detector as a function from tensors of one image, of any size, to tensors.

    image [H, W, 3] uint8, boxes [P, 4] --resize, normalise, pad--> backbone --> head --> decode [--> NMS]

It uses the parts of the detector. Only `forward` is written again, without lists, batches or early returns.
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

MAX_SIDE = 1 << 14  # pixels of an image: torch.export needs a bound, and this is far above any photograph


class DetectorGraph(nn.Module):
    """A detector for one image. With a proposal network the image is the only input."""

    def __init__(self, detector: Detector, *, short_side: int, suppress: bool) -> None:
        """`short_side` is the shorter side of the resized image. `suppress` includes thresholds and NMS."""
        super().__init__()
        self.detector = detector
        self.short_side = short_side
        self.suppress = suppress

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return ("image",) if isinstance(self.detector.proposals, RPN) else ("image", "proposals")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return ("boxes", "scores", "labels") if self.suppress else ("boxes", "scores")

    def forward(self, image: Tensor, proposals: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return boxes and scores in the pixels of the image.

        image: [H, W, 3] uint8 RGB, as in Pillow and NumPy. proposals: [P, 4] float32 xyxy in pixels of the image,
        half-open; None with a proposal network.

        With `suppress`: boxes [D, 4], scores [D] and labels [D] int64 (1..num_classes), best first, the same as
        `Detector.detect`. Without: boxes [R, num_classes, 4] and scores [R, num_classes] of every RoI and class; the
        caller applies the threshold and NMS.
        """
        detector, preprocess = self.detector, self.detector.preprocess
        height, width = image.shape[:2]
        resized = resized_size(height, width, self.short_side, preprocess.max_side, round_down=preprocess.round_down)
        frame_height, frame_width = (_independent_size(side) for side in resized)
        rows, columns = (_independent_size((side + preprocess.multiple - 1) // preprocess.multiple) for side in resized)
        mean = preprocess.mean
        scale_x = mean.new_full((), frame_width) / mean.new_full((), width)
        scale_y = mean.new_full((), frame_height) / mean.new_full((), height)
        scale = torch.stack((scale_x, scale_y, scale_x, scale_y))
        # The scales of a `Frame` are numbers. Here they are tensors, since the export does not know the image's size.
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


def _independent_size(size: int) -> int:
    """Return the size as a new symbol of the export instead of a formula of the image's sides.

    All later shapes then use the symbol. With the formula in every shape an export takes minutes.
    """
    if not torch.compiler.is_exporting():
        return size
    number: int = torch.full((), size).item()  # type: ignore[assignment]
    torch._check(number >= 1)
    torch._check(number <= MAX_SIDE)
    return number
