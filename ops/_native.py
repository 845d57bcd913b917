"""The compiled kernels: where they are, which operators they serve, and why one is missing.

`setup.py` leaves two plain shared libraries beside this file, one for the CPU and one for CUDA, and a note of what it
built (`native_build.json`). They are loaded once, at import. Where one is missing the PyTorch reference serves, and a
single line of log says so and why; DETECTOR_NATIVE=none at run time asks for the reference and logs nothing.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from detector.ops._arguments import FLOATS
from detector.ops._library import CPU_ONLY, NAMESPACE, SCHEMAS

FOLDER = Path(__file__).parent
DEVICES = ("cpu", "cuda")
_LOGGER = logging.getLogger("detector.ops")
_CAPABILITY_ATTRIBUTES = (75, 76)  # of the driver: major, minor
_MISSING: dict[str, str] = {}  # device -> why there is no compiled library


@dataclass(frozen=True, slots=True)
class KernelStatus:
    """Which kernel runs an operator on a device."""

    operator: str
    device: str  # "cpu" or "cuda"
    dtypes: tuple[str, ...]  # of the features
    kernel: str  # "compiled" or "pytorch"
    reason: str  # why it is not a compiled one; empty where it is


def native_status() -> tuple[KernelStatus, ...]:
    """For every operator and device that it is made for, which kernel runs and, where none was compiled, why."""
    dtypes = tuple(str(dtype).removeprefix("torch.") for dtype in FLOATS)
    status = []
    for schema in SCHEMAS:
        operator = schema.partition("(")[0]
        for device in DEVICES[:1] if operator in CPU_ONLY else DEVICES:
            # The fallback is registered for every device, so this asks for a kernel of the device's own.
            compiled = torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{operator}", device.upper())
            reason = "" if compiled else _MISSING.get(device, f"the {device} library has no kernel for it")
            status.append(KernelStatus(operator, device, dtypes, "compiled" if compiled else "pytorch", reason))
    return tuple(status)


def library_path(device: str) -> Path:
    """Where `setup.py` puts the library of a device."""
    return FOLDER / f"libfast_rfcn_{device}.so"


def load() -> None:
    """Loads what is there for the devices of this machine; what is not is logged, one line for each.

    Raises:
        RuntimeError: DETECTOR_NATIVE names a device ("cpu" or "cuda") whose library is not there.
    """
    asked = os.environ.get("DETECTOR_NATIVE", "auto")
    for device in DEVICES:
        if asked == "none":
            _MISSING[device] = "DETECTOR_NATIVE=none asks for the PyTorch kernels"
        elif reason := _load_one(device):
            _MISSING[device] = reason
            if asked == device:
                raise RuntimeError(f"DETECTOR_NATIVE={asked}, but {reason}; unset it to run the PyTorch kernels")
            if device == "cpu" or torch.cuda.is_available():
                _LOGGER.warning("PyTorch kernels serve the RoI operators on %s: %s", device, reason)


def _load_one(device: str) -> str:
    """Loads the library of a device; the reason if it cannot."""
    path = library_path(device)
    if not path.exists():
        return _build_note(device)
    if device == "cuda" and torch.version.cuda is None:
        return "this PyTorch was built without CUDA"
    if device == "cuda" and (reason := _uncovered(_notes().get("cuda_targets", ""), present_capabilities())):
        return reason
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load ({error})"
    return ""


def present_capabilities() -> tuple[tuple[int, int], ...]:
    """Compute capabilities of the GPUs that this process may use, from the driver, without starting CUDA on any."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count, numbers = ctypes.c_int(0), (ctypes.c_int(0), ctypes.c_int(0))
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    capabilities = []
    for index in range(count.value):
        for number, attribute in zip(numbers, _CAPABILITY_ATTRIBUTES, strict=True):
            driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, index)
        capabilities.append((numbers[0].value, numbers[1].value))
    return tuple(capabilities)


def _uncovered(targets: str, capabilities: tuple[tuple[int, int], ...]) -> str:
    """Why a library built for `targets` (`8.0;9.0+PTX`) does not serve some GPU here; empty if it serves all.

    A GPU runs code of its own major version up to its minor one, and compiles PTX of any version up to its own.
    """
    built = []
    for entry in filter(None, targets.split(";")):
        first, _, second = entry.removesuffix("+PTX").rstrip("af").partition(".")
        built.append((int(first), int(second), entry.endswith("+PTX")))
    for major, minor in capabilities:
        own = any(target[0] == major and target[1] <= minor for target in built)
        compiled_later = any(target[2] and target[:2] <= (major, minor) for target in built)
        if built and not own and not compiled_later:
            return f"no kernel for compute capability {major}.{minor}: the library was built for {targets}"
    return ""


def _build_note(device: str) -> str:
    """Why setup.py built no library for a device."""
    notes = _notes()
    if not notes:
        return f"no {library_path(device).name} and no record of a build; install with pip to build it"
    return f"not built: {notes.get(device, 'no reason was noted')}"


def _notes() -> dict[str, str]:
    """What the build noted: an outcome for each device, and `cuda_targets`; empty if there was none."""
    try:
        notes: dict[str, str] = json.loads((FOLDER / "native_build.json").read_text())
    except FileNotFoundError:
        return {}
    return notes
