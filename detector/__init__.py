"""Fast R-CNN and R-FCN on PyTorch.

    from detector import load_detector, train

    run = train("FOLDER", minutes=20)
    detect = load_detector(run.path)
    detect("street.jpg")

The import is fast: torch and the rest of the package load when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.pipeline.api import Run, train
    from detector.pipeline.predictor import Prediction, Predictor, load_detector

# Public name -> its module in detector.pipeline.
_MODULES = {
    "Prediction": "predictor",
    "Predictor": "predictor",
    "Run": "api",
    "load_detector": "predictor",
    "train": "api",
}

__all__ = ["Prediction", "Predictor", "Run", "load_detector", "train"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'detector' has no attribute {name!r}")
    return getattr(import_module(f"detector.pipeline.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
