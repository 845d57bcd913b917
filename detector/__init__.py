"""Fast R-CNN and R-FCN on PyTorch.

    from detector import load_detector

    detect = load_detector("model.safetensors")
    detect("street.jpg")

Importing the package loads nothing else: torch and the rest come with the first name that is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.pipeline.predictor import Prediction, Predictor, load_detector

__all__ = ["Prediction", "Predictor", "load_detector"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'detector' has no attribute {name!r}")
    from detector.pipeline import predictor

    return getattr(predictor, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
