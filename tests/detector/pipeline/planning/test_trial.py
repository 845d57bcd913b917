"""The pixels of a batch, their mean over a training, and the order in which a trial runs batches."""

import pytest
import torch

from detector.configs.compose import load_config
from detector.configs.schema import InputConfig
from detector.datasets.sample import Annotation
from detector.pipeline.data import open_data
from detector.pipeline.planning.trial import _largest_first, canvas, mean_canvas, measure
from detector.pipeline.state import initialise, new_detector


def annotation(height: int, width: int) -> Annotation:
    none = torch.zeros(0, dtype=torch.bool)
    return Annotation("x", width, height, torch.zeros(0, 4), none.long(), none, none, none)


def test_the_pixels_are_those_of_the_resized_and_padded_images() -> None:
    config = InputConfig(max_side=1000)
    assert canvas([(100, 100)], [300], config) == 90_000
    assert canvas([(100, 100), (100, 100)], [100, 300], config) == 2 * 90_000
    assert canvas([(100, 200), (200, 100)], [100, 100], config) == 2 * 200 * 200, "a wide image beside a tall one"
    assert canvas([(100, 200)], [300], InputConfig(max_side=200)) == 100 * 200


def test_the_mean_is_over_all_training_sizes_and_batches() -> None:
    one = [[annotation(100, 100)]] * 2000
    assert mean_canvas(one, InputConfig(short_sides=[100, 300], max_side=1000)) == pytest.approx(50_000, rel=0.05)
    two = [[annotation(50, 50)] * 2, [annotation(50, 100), annotation(100, 50)]]
    assert mean_canvas(two, InputConfig(short_sides=[50], max_side=1000)) == (2 * 50 * 50 + 2 * 100 * 100) / 2


def test_the_largest_batch_runs_first_and_the_others_keep_their_order() -> None:
    annotations = [annotation(100, 100), annotation(100, 200), annotation(200, 100)]
    batches = [[(0, 0), (0, 0)], [(0, 1), (0, 2)], [(0, 1), (0, 1)]]
    found = _largest_first(batches, annotations, InputConfig(short_sides=[64, 128]))
    assert found == [batches[1], batches[0], batches[2]]


def test_a_trial_does_not_change_the_detector_of_the_training() -> None:
    small = ["dataset.train=12", "dataset.test=2", "backbone.width=0.25", "backbone.tail_channels=32"]
    config = load_config(["experiment=demo", *small])
    data, device = open_data(config, None), torch.device("cpu")
    detector = new_detector(config, data, device)
    initialise(detector, config, data)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    trial = measure(config, data, detector, device, most_seconds=30)
    assert min(trial.step, trial.image) > 0
    assert trial.spent > trial.step + trial.image
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
    assert all(parameter.grad is None for parameter in detector.parameters())
