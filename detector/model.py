"""The detector: the complete data flow in one file.

images -> preprocess -> backbone -> proposals -> (training) match, sample -> head -> losses
                                             -> (testing)                   head -> postprocess
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from detector.losses import RoILoss
from detector.postprocess import Postprocess, empty_detections
from detector.preprocess import Frame, Inputs, Preprocess, to_original
from detector.sampling import Sampler
from detector.structures import Batch, Detections, Losses, Mean, Proposals, RoIPredictions, RoITargets
from detector.targets import BoxCoder, Candidates, Matcher
from detector.views import Views

if TYPE_CHECKING:
    from detector.backbones import Backbone
    from detector.heads import Head
    from detector.proposals.given import ProposalModule


class Detector(nn.Module):
    """A detector of backbone, proposal module and head. Every part that implements its protocol can be used."""

    def __init__(
        self,
        *,
        preprocess: Preprocess,
        backbone: Backbone,
        proposals: ProposalModule,
        head: Head,
        matcher: Matcher,
        sampler: Sampler,
        coder: BoxCoder,
        loss: RoILoss,
        postprocess: Postprocess,
        views: Views | None = None,
    ) -> None:
        """`views` are those of an image at test time; None: the image as it is."""
        super().__init__()
        self.preprocess = preprocess
        self.backbone = backbone
        self.proposals = proposals
        self.head = head
        self.matcher = matcher
        self.sampler = sampler
        self.coder = coder
        self.loss = loss
        self.postprocess = postprocess
        self.views = views
        self.trained_parts = frozenset({"proposals", "head"})  # their losses count; see `engine.learning.train_only`

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of one training step."""
        inputs = self.preprocess(batch)
        features = self.backbone(inputs.images)
        proposed = self.proposals(features.proposals, inputs)
        if "head" not in self.trained_parts:
            return Losses(proposed.losses, {}, {})
        maps = self.head.maps(features.head)

        def score(candidates: Sequence[Candidates]) -> list[Tensor]:
            """Return the current loss of every candidate of every image, for samplers that need it."""
            with torch.no_grad():
                boxes = [item.boxes for item in candidates]
                targets = self._targets(boxes, [c.labels for c in candidates], [c.gt_boxes for c in candidates])
                losses = self.loss(self.head(maps, boxes), targets, self.coder)
                return list((losses.classification + losses.box).split([len(item) for item in boxes]))

        with torch.no_grad():
            sampled = self.sampler(self._match(proposed.proposals, inputs), inputs.seeds, score)
            targets = self._targets(sampled.boxes, sampled.labels, sampled.gt_boxes)
        losses = self.loss(self.head(maps, sampled.boxes), targets, self.coder)
        # Both terms are means over all sampled RoIs, foreground and background (section 2.3).
        num_sampled = (targets.labels >= 0).sum()
        terms = {
            "loss_cls": Mean(losses.classification.sum(), num_sampled),
            "loss_box": Mean(losses.box.sum(), sampled.box_normalizer),
            **(proposed.losses if "proposals" in self.trained_parts else {}),
        }
        num_foreground = (targets.labels > 0).sum()
        counts = {"rois_foreground": num_foreground, "rois_background": num_sampled - num_foreground}
        return Losses(terms, sampled.losses, counts)

    @torch.no_grad()
    def loss_normalizers(self, batch: Batch) -> dict[str, Tensor]:
        """Return the normalizers (scalars) of the losses of `forward` on the same batch, without these losses.

        They depend on boxes and seeds only. The backbone runs only for a proposal network. The head does not run.
        """
        inputs = self.preprocess(batch)
        features = self.backbone(inputs.images).proposals if self.proposals.reads_features else []
        proposed = self.proposals(features, inputs)
        loss_normalizers = {name: mean.normalizer for name, mean in proposed.losses.items()}
        if "head" in self.trained_parts:
            # The number of RoIs that a sampler keeps does not depend on their losses.
            sampled = self.sampler(
                self._match(proposed.proposals, inputs),
                inputs.seeds,
                lambda items: [torch.zeros_like(c.boxes[:, 0]) for c in items],
            )
            num_sampled = (torch.cat(sampled.labels) >= 0).sum()
            loss_normalizers |= {"loss_cls": num_sampled, "loss_box": sampled.box_normalizer}
            loss_normalizers |= {name: mean.normalizer for name, mean in sampled.losses.items()}
        return loss_normalizers

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Detections]:
        """Return the detections of each image, best first, in the pixels of the original images."""
        if self.views is not None:
            return self.views.detect(batch, self.candidates, self.postprocess.suppress)
        return self._detect(batch, self.postprocess)

    @torch.no_grad()
    def candidates(self, batch: Batch, scale: float = 1.0) -> list[Detections]:
        """Return the detections of each image before NMS, in the pixels of the original images.

        The images are resized to `scale` times their usual size.
        """
        return self._detect(batch, self.postprocess.candidates, scale)

    def _detect(
        self,
        batch: Batch,
        decode: Callable[[RoIPredictions, Tensor, BoxCoder, Frame], Detections],
        scale: float = 1.0,
    ) -> list[Detections]:
        inputs = self.preprocess(batch, scale)
        features = self.backbone(inputs.images)
        proposed = self.proposals(features.proposals, inputs).proposals
        boxes = [item.boxes for item in proposed]
        counts = [len(item) for item in boxes]
        if sum(counts) == 0:
            return [empty_detections(inputs.images.device) for _ in boxes]
        predictions = self.head(self.head.maps(features.head), boxes)
        return [
            to_original(decode(RoIPredictions(logits, deltas), rois, self.coder, frame), frame)
            for logits, deltas, rois, frame in zip(
                predictions.logits.split(counts), predictions.deltas.split(counts), boxes, inputs.frames, strict=True
            )
        ]

    @torch.no_grad()
    def propose(self, batch: Batch) -> list[Proposals]:
        """Return the proposals of each image, best first, in the pixels of the original images."""
        inputs = self.preprocess(batch)
        proposed = self.proposals(self.backbone(inputs.images).proposals, inputs).proposals
        return [to_original(item, frame) for item, frame in zip(proposed, inputs.frames, strict=True)]

    @torch.no_grad()
    def set_target_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set `mean` and `std` [rows, 4] of the box targets, and rescale the head so that detected boxes do not change.

        Mean 0 and standard deviation 1 fold the normalisation into the head. The published models are saved in this
        form (fast-rcnn `lib/fast_rcnn/train.py`, `snapshot`).
        """
        self.head.rescale_deltas(self.coder.std / std, (self.coder.mean - mean) / std)
        self.coder.mean.copy_(mean)
        self.coder.std.copy_(std)

    def _match(self, proposals: list[Proposals], inputs: Inputs) -> list[Candidates]:
        return [self.matcher(*pair) for pair in zip(proposals, inputs.instances, strict=True)]

    def _targets(self, boxes: list[Tensor], labels: list[Tensor], gt_boxes: list[Tensor]) -> RoITargets:
        return self.coder.targets(torch.cat(boxes), torch.cat(labels), torch.cat(gt_boxes))
