"""The weights of the classes' losses come from the training split, also for a resumed run."""

import pytest
import torch

from detector.class_losses import class_balanced_weights
from detector.configs import schema
from detector.configs.compose import load_config
from detector.pipeline.data import Data, open_data
from detector.pipeline.state import class_weights, new_detector

BALANCED = "loss.class_balance_beta=0.9"


def open_demo(*words: str) -> tuple[schema.Config, Data]:
    small = ["dataset.train=20", "dataset.test=2", "backbone.width=0.125", "backbone.tail_channels=32"]
    config = load_config(["experiment=demo", *small, *words])
    return config, open_data(config, None)


@pytest.mark.parametrize("use_difficult", [True, False])
def test_class_weights_count_the_objects_that_training_uses(use_difficult: bool) -> None:
    config, data = open_demo(BALANCED, f"sampling.use_difficult={use_difficult}")
    counts = [0] * len(data.train_set.classes)
    for item in data.train_set.annotations:
        for label, difficult in zip(item.labels.tolist(), item.difficult.tolist(), strict=True):
            counts[label - 1] += use_difficult or not difficult
    found = class_weights(config, data)
    assert found is not None
    assert torch.equal(found, class_balanced_weights(counts, 0.9))
    assert len(set(found.tolist())) > 1


def test_every_start_of_a_run_has_the_weights_and_no_checkpoint_does() -> None:
    config, data = open_demo(BALANCED)
    first, again = (new_detector(config, data, torch.device("cpu")).loss.class_weights for _ in range(2))
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    balanced = new_detector(config, data, torch.device("cpu")).state_dict().keys()
    plain, _ = open_demo()
    assert class_weights(plain, data) is None
    assert new_detector(plain, data, torch.device("cpu")).state_dict().keys() == balanced
