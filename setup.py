"""Packages and compiled kernels.

The five top-level folders are installed under one import name: setuptools cannot find packages through a map.

The kernels become plain shared libraries in `detector/ops`, no Python modules: libtorch's stable ABI and no
Python API, so one file serves every Python and every torch from 2.11 on, and the wheel is tagged py3-none-PLATFORM.
DETECTOR_NATIVE says what to build: `auto` what can be built (the CPU library where a C++ compiler is, the CUDA one
where nvcc is), `cpu` or `cuda` that much or fail, `none` nothing. What was not built serves from PyTorch; the last
lines of the build, and `detector.ops.native_status()` afterwards, say so and why.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

LAYOUT = {
    "detector": "detector",
    "detector.ops": "ops",
    "detector.datasets": "datasets",
    "detector.configs": "configs",
    "detector.tools": "tools",
}
ROOT = Path(__file__).parent
NATIVE = os.environ.get("DETECTOR_NATIVE", "auto")

# Compiling needs no setuptools and is a file of its own. Where a build is isolated, it is on no path.
_spec = importlib.util.spec_from_file_location("kernels", ROOT / "ops" / "compile.py")
assert _spec is not None
assert _spec.loader is not None
kernels = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kernels)


def packages() -> list[str]:
    """Every package below LAYOUT, by the name that it is installed under.

    `detector/` also holds links to the other folders, which let editors and type checkers find `detector.ops` in a
    checkout. A package that a link leads to is not counted twice.
    """
    found = set(LAYOUT)
    for name, folder in LAYOUT.items():
        found |= {f"{name}.{child}" for child in find_packages(str(ROOT / folder))}
    return sorted(found)


class BuildNative(build_ext):
    """Builds each library whole, notes in `native_build.json` what came of it, and says so at the end."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extensions(self) -> None:
        notes: dict[str, str] = {}
        for extension in list(self.extensions):
            device = extension.name.rpartition("_")[2]
            target = Path(self.get_ext_fullpath(extension.name))
            try:
                notes |= kernels.build_library(device, target, Path(self.build_temp))
            except kernels.CannotBuildError as reason:
                if NATIVE in {device, "cuda"}:
                    raise SystemExit(f"DETECTOR_NATIVE={NATIVE}: {reason}") from reason
                notes[device] = str(reason)
                self.extensions.remove(extension)
        # Beside the libraries: in the build folder, which becomes the wheel, and in the source tree when editable.
        folders = {target.parent} | ({ROOT / "ops"} if self.inplace or self.editable_mode else set())
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "native_build.json").write_text(json.dumps(notes, indent=1) + "\n")
        for device in {"cpu", "cuda"} & notes.keys():
            note = notes[device]
            outcome = note if note == "built" else f"not built, PyTorch kernels serve instead: {note}"
            print(f"detector.ops {device} kernels: {outcome}", file=sys.stderr)


class PlatformWheel(bdist_wheel):
    """A wheel with libraries depends on the platform, not on the Python."""

    def get_tag(self) -> tuple[str, str, str]:
        tag: tuple[str, str, str] = super().get_tag()
        return tag if self.root_is_pure else ("py3", "none", tag[2])


if NATIVE not in {"auto", "cpu", "cuda", "none"}:
    raise SystemExit(f"expected DETECTOR_NATIVE to be auto, cpu, cuda or none, got {NATIVE!r}")
DEVICES = {"auto": ["cpu", "cuda"], "cpu": ["cpu"], "cuda": ["cpu", "cuda"], "none": []}[NATIVE]

setup(
    packages=packages(),
    package_dir=LAYOUT,
    include_package_data=False,  # the manifest names sources for the sdist; a wheel needs none of them
    package_data={"detector.configs": ["*.yaml", "*/*.yaml"]},
    ext_modules=[Extension(f"detector.ops.libfast_rfcn_{device}", sources=[]) for device in DEVICES],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
