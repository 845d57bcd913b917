"""Detect objects in a photograph with an exported ONNX model. Needs onnxruntime, numpy and Pillow, not this project.

    python onnx_example.py model.onnx street.jpg [proposals.npy]

A model without a proposal network needs boxes [P, 4] (x1 y1 x2 y2 in pixels); without a file, this script uses a grid.
The model resizes and normalizes: its input is the photograph as Pillow reads it.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def grid(height: int, width: int) -> np.ndarray:
    """Return boxes [P, 4] of several sizes and shapes all over an image, the same as `proposals=grid`."""
    boxes = []
    for scale in (0.1, 0.15, 0.22, 0.32, 0.47, 0.7):
        for aspect in (0.5, 1.0, 2.0):
            side = scale * (width * height) ** 0.5
            w, h = min(side / aspect**0.5, width), min(side * aspect**0.5, height)
            for y in np.linspace(0, height - h, 1 + int(np.ceil((height - h) / (0.4 * h)))):
                for x in np.linspace(0, width - w, 1 + int(np.ceil((width - w) / (0.4 * w)))):
                    boxes.append((x, y, x + w, y + h))  # noqa: PERF401
    return np.array(boxes, np.float32)


def main() -> int:
    """Print one line for each detection: class, score, box."""
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    model = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    about = {key: json.loads(value) for key, value in model.get_modelmeta().custom_metadata_map.items()}
    if not about["nms_inside"]:
        print("this model was exported with nms=false; apply score threshold and NMS to its output", file=sys.stderr)
        return 2
    image = np.asarray(ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB"))  # [H, W, 3] uint8
    inputs = {"image": image}
    if about["needs_proposals"]:
        inputs["proposals"] = np.load(sys.argv[3]) if len(sys.argv) > 3 else grid(*image.shape[:2])
    boxes, scores, labels = model.run(None, inputs)
    for box, score, label in zip(boxes, scores, labels):  # noqa: B905  # runs on any Python
        print(f"{about['classes'][label - 1]:<20}{score:6.3f}  " + " ".join(f"{value:8.1f}" for value in box))
    return 0


if __name__ == "__main__":
    sys.exit(main())
