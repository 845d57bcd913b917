"""Loading of the compiled kernels, and a list of the operators that have one.

`setup.py` writes two plain shared libraries beside this file, one for the CPU and one for CUDA, and the outcome of the
build (`native_build.json`). The libraries are loaded once, at import. If one is missing, the PyTorch reference runs
instead, and one log line gives the reason. With DETECTOR_NATIVE=none no library is loaded and nothing is logged.
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
_CAPABILITY_ATTRIBUTES = (75, 76)  # the driver's numbers of the attributes major and minor
_MISSING: dict[str, str] = {}  # device -> reason why no compiled library is loaded


@dataclass(frozen=True, slots=True)
class KernelStatus:
    """The kernel that runs an operator on a device."""

    operator: str
    device: str  # "cpu" or "cuda"
    dtypes: tuple[str, ...]  # of the features
    kernel: str  # "compiled" or "pytorch"
    reason: str  # why the kernel is not compiled; empty if it is


def native_status() -> tuple[KernelStatus, ...]:
    """For each operator and device that it supports: the kernel that runs, and the reason if it is not compiled."""
    dtypes = tuple(str(dtype).removeprefix("torch.") for dtype in FLOATS)
    status = []
    for schema in SCHEMAS:
        operator = schema.partition("(")[0]
        for device in DEVICES[:1] if operator in CPU_ONLY else DEVICES:
            # The fallback is registered for all devices, so ask for a kernel registered for this device only.
            compiled = torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{operator}", device.upper())
            reason = "" if compiled else _MISSING.get(device, f"the {device} library has no kernel for it")
            status.append(KernelStatus(operator, device, dtypes, "compiled" if compiled else "pytorch", reason))
    return tuple(status)


def library_path(device: str) -> Path:
    """The path of the compiled library for a device."""
    return FOLDER / f"libfast_rfcn_{device}.so"


def load() -> None:
    """Load the compiled libraries for this machine's devices. Log one line for each that is missing.

    Raises:
        RuntimeError: DETECTOR_NATIVE names a device ("cpu" or "cuda") whose library cannot be loaded.
    """
    requested = os.environ.get("DETECTOR_NATIVE", "auto")
    for device in DEVICES:
        if requested == "none":
            _MISSING[device] = "DETECTOR_NATIVE=none selects the PyTorch kernels"
        elif reason := _load_one(device):
            _MISSING[device] = reason
            if requested == device:
                raise RuntimeError(f"DETECTOR_NATIVE={requested}, but {reason}; unset it to run the PyTorch kernels")
            if device == "cpu" or torch.cuda.is_available():
                _LOGGER.warning("the RoI operators run on PyTorch kernels on %s: %s", device, reason)


def _load_one(device: str) -> str:
    """Load the library of a device. Return "", or the reason if it cannot be loaded."""
    path = library_path(device)
    if not path.exists():
        return _reason_not_built(device)
    if device == "cuda" and torch.version.cuda is None:
        return "this PyTorch was built without CUDA"
    if device == "cuda" and (reason := _unsupported_gpu(_notes().get("cuda_targets", ""), present_capabilities())):
        return reason
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load ({error})"
    return ""


def present_capabilities() -> tuple[tuple[int, int], ...]:
    """Compute capabilities of the GPUs that this process may use, from the driver. No CUDA context is created."""
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


def _unsupported_gpu(targets: str, capabilities: tuple[tuple[int, int], ...]) -> str:
    """Return why a library built for `targets` (`8.0;9.0+PTX`) cannot run on one of these GPUs; "" if it can.

    A GPU runs code built for its own major version and a minor version up to its own. It also compiles PTX of any
    version up to its own.
    """
    built = []
    for entry in filter(None, targets.split(";")):
        first, _, second = entry.removesuffix("+PTX").rstrip("af").partition(".")
        built.append((int(first), int(second), entry.endswith("+PTX")))
    for major, minor in capabilities:
        has_code = any(target[0] == major and target[1] <= minor for target in built)
        has_ptx = any(target[2] and target[:2] <= (major, minor) for target in built)
        if built and not has_code and not has_ptx:
            return f"no kernel for compute capability {major}.{minor}: the library was built for {targets}"
    return ""


def _reason_not_built(device: str) -> str:
    """The reason why setup.py built no library for a device."""
    notes = _notes()
    if not notes:
        return f"no {library_path(device).name} and no record of a build; install with pip to build it"
    return f"not built: {notes.get(device, 'the build recorded no reason')}"


def _notes() -> dict[str, str]:
    """The record of the build: an outcome for each device, and `cuda_targets`; empty without a build."""
    try:
        notes: dict[str, str] = json.loads((FOLDER / "native_build.json").read_text())
    except FileNotFoundError:
        return {}
    return notes
