"""Batches, boxes and losses: selection, moving to a device, and sums."""

import pytest
import torch

from detector.structures import Batch, Detections, Instances, Losses, Mean, Proposals


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


def test_every_tensor_is_moved() -> None:
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


def test_a_moved_batch_without_proposals_has_none() -> None:
    batch = Batch([torch.zeros(3, 4, 5, dtype=torch.uint8)], [instances(0)], None, ["a"], [0], [600])
    assert batch.to("cpu").proposals is None


def test_the_total_is_the_sum_of_the_parts_with_their_gradients() -> None:
    a, b = torch.tensor(1.5, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    four, nothing = torch.tensor(4), torch.tensor(0)
    total = Losses({"a": Mean(4 * a, four), "b": Mean(b * 3, nothing)}, {}, {"count": torch.tensor(100)}).total()
    assert total.item() == 7.5
    total.backward()
    assert (a.grad, b.grad) == (torch.tensor(1.0), torch.tensor(3.0))


def test_losses_of_shares_add_up_to_the_loss_of_the_batch() -> None:
    """Means of 3 and of 1 numbers: the mean of all four is not the mean of the means."""
    shares = [
        Losses({"a": Mean(torch.tensor(total), count)}, {"m": Mean(torch.tensor(1.0), count)}, {"c": count})
        for total, count in ((6.0, torch.tensor(3)), (4.0, torch.tensor(1)))
    ]
    loss_normalizers = {name: sum(share.loss_normalizers()[name] for share in shares) for name in ("a", "m")}
    whole = Losses.joined([share.divided_by(loss_normalizers) for share in shares])  # type: ignore[arg-type]
    assert whole.parts["a"].item() == 10 / 4
    assert whole.means["m"].value().item() == 2 / 4
    assert whole.counts["c"].item() == 4


def test_a_batch_is_split_in_order() -> None:
    count = 4
    boxes = [Proposals(torch.zeros(index, 4), torch.zeros(index)) for index in range(count)]
    pictures = [torch.zeros(3, 2, 2, dtype=torch.uint8)] * count
    batch = Batch(pictures, [instances(0)] * count, boxes, list("abcd"), [5, 6, 7, 8], [1, 2, 3, 4])
    first, second = batch.split(2)
    assert (first.image_ids, first.seeds, first.short_sides) == (["a", "b"], [5, 6], [1, 2])
    assert second.proposals is not None
    assert [len(item) for item in second.proposals] == [2, 3]
    with pytest.raises(ValueError, match="multiple of 3, got 4"):
        batch.split(3)
