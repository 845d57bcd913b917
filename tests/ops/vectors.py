"""Worked examples for the RoI operators: those of the shared file if it exists, else a few chosen here.

Each case is a dict: op, features (a map [H][W] or [C][H][W] of one image), rois [R, 5], output_size, spatial_scale,
options, and expected values of the first channel or class for the first RoI. `gradients` holds cases whose expected
values are the gradient of the sum of the outputs.
"""

import json
from pathlib import Path
from typing import Any

Case = dict[str, Any]
ROOT = Path(__file__).parent.parent.parent
SHARED = next(
    (path for parent in (ROOT.parent, ROOT.parent.parent) if (path := parent / "shared/spec/op_vectors.json").exists()),
    None,
)
TOLERANCE = 6e-5  # the printed numbers have four digits

_RAMP = [[10 * y + x for x in range(6)] for y in range(6)]
_MAPS: dict[str, Any] = {
    "ramp": _RAMP,
    # deepsense.ai, "Region of interest pooling explained"
    "deepsense": [
        [0.88, 0.44, 0.14, 0.16, 0.37, 0.77, 0.96, 0.27],
        [0.19, 0.45, 0.57, 0.16, 0.63, 0.29, 0.71, 0.70],
        [0.66, 0.26, 0.82, 0.64, 0.54, 0.73, 0.59, 0.26],
        [0.85, 0.34, 0.76, 0.84, 0.29, 0.75, 0.62, 0.25],
        [0.32, 0.74, 0.21, 0.39, 0.34, 0.03, 0.33, 0.48],
        [0.20, 0.14, 0.16, 0.13, 0.73, 0.65, 0.96, 0.32],
        [0.19, 0.69, 0.09, 0.86, 0.88, 0.07, 0.01, 0.48],
        [0.83, 0.24, 0.97, 0.04, 0.24, 0.35, 0.50, 0.91],
    ],
    "score_ramps": [[[100 * c + value for value in row] for row in _RAMP] for c in range(4)],
}


def _case(op: str, features: str, roi: tuple[float, ...], scale: float, expected: Any, **options: Any) -> Case:
    return {
        "name": f"{op} {options} {roi}",
        "op": op,
        "features": features,
        "rois": [[0, *roi]],
        "output_size": [2, 2],
        "spatial_scale": scale,
        "options": options,
        "expected": expected,
    }


_CHOSEN = {
    "maps": _MAPS,
    "cases": [
        _case("roi_pool", "deepsense", (0, 3, 7, 8), 1, [[0.85, 0.84], [0.97, 0.96]], quantization="split"),
        _case("roi_pool", "deepsense", (0, 3, 7, 8), 1, [[0.85, 0.96], [0.97, 0.91]], quantization="caffe"),
        _case("roi_pool", "deepsense", (0, 3, 7, 8), 1, [[0.85, 0.96], [0.97, 0.96]], quantization="outer"),
        _case("roi_pool", "ramp", (0, 0, 95, 95), 1 / 16, [[33, 35], [53, 55]]),
        _case("roi_pool", "ramp", (7.9, 7.9, 24, 24), 1 / 16, [[11, 12], [21, 22]]),
        _case("roi_pool", "ramp", (64, 64, 32, 32), 1 / 16, [[44, 44], [44, 44]]),
        _case("roi_pool", "ramp", (200, 200, 220, 220), 1 / 16, [[0, 0], [0, 0]]),
        _case("ps_roi_pool", "score_ramps", (0, 0, 95, 95), 1 / 16, [[11, 114], [241, 344]]),
        _case("ps_roi_pool", "score_ramps", (-32, 0, 31, 31), 1 / 16, [[0, 100.5], [0, 310.5]]),
    ],
    "gradients": [],
}

_TABLE = json.loads(SHARED.read_text()) if SHARED else _CHOSEN
CASES: list[Case] = [{**case, "features": _TABLE["maps"][case["features"]]} for case in _TABLE["cases"]]
GRADIENTS: list[Case] = [{**case, "features": _TABLE["maps"][case["features"]]} for case in _TABLE["gradients"]]
