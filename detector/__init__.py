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
    from detector.pipeline.predictor import Prediction, Predictor, load_detector
    from detector.tools.entry_points.python import Run, train

# Public name -> its module.
_MODULES = {
    "Prediction": "pipeline.predictor",
    "Predictor": "pipeline.predictor",
    "Run": "tools.entry_points.python",
    "load_detector": "pipeline.predictor",
    "train": "tools.entry_points.python",
}

__all__ = ["Prediction", "Predictor", "Run", "load_detector", "train"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'detector' has no attribute {name!r}")
    return getattr(import_module(f"detector.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
