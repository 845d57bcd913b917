"""The values that flow: selection, moving and sums."""

import torch

from detector.structures import Batch, Detections, Instances, Losses, Proposals


def instances(count: int) -> Instances:
    return Instances(torch.rand(count, 4), torch.arange(1, count + 1), torch.arange(count) % 2 == 1)


def test_selection_by_mask_and_by_index_keeps_the_fields_together() -> None:
    item = instances(5)
    kept = item[~item.difficult]
    assert kept.labels.tolist() == [1, 3, 5]
    assert torch.equal(kept.boxes, item.boxes[[0, 2, 4]])
    assert item[torch.tensor([4, 0])].labels.tolist() == [5, 1]
    found = Detections(torch.rand(3, 4), torch.tensor([0.9, 0.5, 0.1]), torch.tensor([1, 2, 3]))
    assert found[found.scores > 0.4].labels.tolist() == [1, 2]
    proposals = Proposals(torch.rand(4, 4), torch.arange(4.0))
    assert proposals[torch.tensor([2])].scores.tolist() == [2]
    assert (len(item), len(found), len(proposals)) == (5, 3, 4)


def test_moving_reaches_every_tensor() -> None:
    batch = Batch(
        [torch.zeros(3, 4, 5, dtype=torch.uint8)],
        [instances(2)],
        [Proposals(torch.rand(3, 4), torch.zeros(3))],
        ["a"],
        [7],
        [600],
    )
    moved = batch.to("meta")
    assert moved.images[0].is_meta
    assert moved.instances[0].boxes.is_meta
    assert moved.instances[0].difficult.is_meta
    assert moved.proposals is not None
    assert moved.proposals[0].scores.is_meta
    assert (moved.image_ids, moved.seeds, moved.short_sides, len(moved)) == (["a"], [7], [600], 1)


def test_a_batch_without_proposals_stays_without() -> None:
    batch = Batch([torch.zeros(3, 4, 5, dtype=torch.uint8)], [instances(0)], None, ["a"], [0], [600])
    assert batch.to("cpu").proposals is None


def test_total_is_the_sum_of_the_parts_and_carries_their_gradient() -> None:
    a, b = torch.tensor(1.5, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    total = Losses({"a": a, "b": b * 3}, {"count": torch.tensor(100)}).total()
    assert total.item() == 7.5
    total.backward()
    assert (a.grad, b.grad) == (torch.tensor(1.0), torch.tensor(3.0))
