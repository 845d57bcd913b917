"""Video by OpenCV: read frames of a file or a camera as tensors, and write frames to a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.tools.prediction.picture_list import CAMERA

DEFAULT_FPS = 25.0  # for cameras that do not report a rate


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise ValueError("videos and cameras need OpenCV: pip install 'fast-rfcn[video]'") from error
    return cv2


class Video:
    """A video file, or a camera by its number (camera:0). Raises ValueError if it cannot be opened."""

    def __init__(self, name: str) -> None:
        cv2 = _opencv()
        self.name = name
        source = int(name.removeprefix(CAMERA)) if name.removeprefix(CAMERA).isdecimal() else name
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise ValueError(
                f"images={name}: OpenCV cannot open this video or camera; check the name, and convert unknown codecs"
            )
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS)) or DEFAULT_FPS
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = count if count > 0 else None  # as the file states; unknown for a camera

    def __iter__(self) -> Iterator[Tensor]:
        """Yield frames [3, H, W] uint8 RGB, up to the last, or up to the first that cannot be decoded."""
        while True:
            decoded, frame = self._capture.read()
            if not decoded:
                return
            yield torch.from_numpy(np.ascontiguousarray(frame[:, :, ::-1])).permute(2, 0, 1).contiguous()

    def close(self) -> None:
        """Close the file or camera."""
        self._capture.release()


class VideoFile:
    """An .mp4 file to which frames are added. All frames must have the size of the first."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self._writer: Any = None  # cv2.VideoWriter, once the size is known

    def add(self, picture: Image.Image) -> None:
        """Write one frame. Raises ValueError if OpenCV cannot write the file."""
        cv2 = _opencv()
        if self._writer is None:
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*"mp4v"), self.fps, picture.size)
            if not self._writer.isOpened():
                raise ValueError(f"{self.path}: OpenCV cannot write this video; set draw=false")
        self._writer.write(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]))

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
