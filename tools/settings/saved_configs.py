"""The config of a saved model or run, changed by the words of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detector.configs.schema import Config


def model_config(overrides: list[str], *, predicting: bool = False) -> Config:
    """Return the config of the model in weights=..., with the overrides; without a model, the shipped defaults.

    With `predicting`, the model computes in fp32 unless an override changes it.
    """
    from detector.configs.compose import load_config, override_config
    from detector.pipeline.resume import value_of

    weights = value_of("weights", overrides)
    if weights is None:
        return load_config(overrides)
    from detector.pipeline.models import read_model_config, read_prediction_config

    read = read_prediction_config if predicting else read_model_config
    return override_config(read(Path(weights)), overrides)


def scoring_config(overrides: list[str], path: str | None = None) -> Config:
    """Return the config of the run that holds `path` or detections=..., with the overrides.

    Without such a run, return the model's config.
    """
    from detector.pipeline.resume import value_of

    path = path or value_of("detections", overrides)
    if not path:
        return model_config(overrides)
    from detector.configs.compose import override_config
    from detector.pipeline.detections import saved_config

    saved = saved_config(Path(path))
    return model_config(overrides) if saved is None else override_config(saved, overrides)
