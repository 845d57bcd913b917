"""Recognising the classifier whose weights a file holds."""

import pytest
import torch
from torchvision import models

from detector.backbones.recognise import recognise


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet34", "vgg16_bn", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_a_classifier_is_recognised_by_its_tensors(name: str) -> None:
    with torch.device("meta"):
        state = models.get_model(name, weights=None).state_dict()
    assert recognise(state) == name


def test_a_regnet_is_recognised() -> None:
    """It computes its widths with tensors, so it cannot be built on the meta device."""
    assert recognise(models.regnet_y_400mf(weights=None).state_dict()) == "regnet_y_400mf"


def test_another_number_of_classes_does_not_matter() -> None:
    with torch.device("meta"):
        assert recognise(models.resnet18(num_classes=7).state_dict()) == "resnet18"
        state = models.resnet18().state_dict()
    assert recognise({key: value for key, value in state.items() if not key.startswith("fc.")}) == "resnet18"


def test_batch_norm_counters_may_be_missing() -> None:
    with torch.device("meta"):
        state = models.resnet18().state_dict()
    assert recognise({key: value for key, value in state.items() if "num_batches" not in key}) == "resnet18"


def test_an_empty_state_dict_is_not_recognised() -> None:
    assert recognise({}) is None


@pytest.mark.slow  # builds every classifier of torchvision
def test_a_state_dict_with_foreign_tensors_is_not_recognised() -> None:
    with torch.device("meta"):
        state = {**models.resnet18().state_dict(), "extra.weight": torch.zeros(1)}
    assert recognise(state) is None
