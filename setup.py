"""Packages and compiled kernels.

The five top-level folders are installed under one import name: setuptools cannot find packages through a map.

The kernels become plain shared libraries in `detector/ops`, no Python modules: libtorch's stable ABI and no
Python API, so one file serves every Python and every torch from 2.11 on, and the wheel is tagged py3-none-PLATFORM.
DETECTOR_NATIVE says what to build: `auto` what can be built (the CPU library where a C++ compiler is, the CUDA one
where nvcc is), `cpu` or `cuda` that much or fail, `none` nothing. What was not built serves from PyTorch; the last
lines of the build, and `detector.ops.native_status()` afterwards, say so and why.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
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
CSRC = Path("ops", "csrc")
NATIVE = os.environ.get("DETECTOR_NATIVE", "auto")

# torch 2.11 is the oldest that the libraries run on. A fused multiply-add would move bin edges; the other two let
# comparisons become vectors without changing a result.
STABLE_ABI = ["-std=c++20", "-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY"]
HOST_FLAGS = [
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
]
CUDA_FLAGS = ["-O3", "--fmad=false", "-DUSE_CUDA", "--cudart=static"]
CUDA_ARCHITECTURES = "8.0;9.0+PTX"


class CannotBuildError(Exception):
    """Why a library cannot be built here."""


def packages() -> list[str]:
    """Every package below LAYOUT, by the name that it is installed under.

    `detector/` also holds links to the other folders, which let editors and type checkers find `detector.ops` in a
    checkout. A package that a link leads to is not counted twice.
    """
    found = set(LAYOUT)
    for name, folder in LAYOUT.items():
        found |= {f"{name}.{child}" for child in find_packages(str(ROOT / folder))}
    return sorted(found)


def torch_folder() -> Path:
    """Where torch is installed: in this interpreter, or beside it if the build is isolated. It is not imported."""
    spec = find_spec("torch")
    candidates = [Path(spec.origin).parent] if spec and spec.origin else []
    candidates += [Path(sysconfig.get_path(key), "torch") for key in ("purelib", "platlib")]
    for folder in candidates:
        if (folder / "include/torch/csrc/stable/library.h").is_file():
            return folder
    raise CannotBuildError("no torch>=2.11 to compile against was found; install it first, then --no-build-isolation")


def host_compiler() -> str:
    """The C++ compiler: $CXX, or the first of c++, g++, clang++."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if path := shutil.which(name):
            return path
    raise CannotBuildError("no C++ compiler was found (tried $CXX, c++, g++, clang++)")


def cuda_toolkit() -> Path:
    """Folder of the CUDA toolkit itself: the one with nvvm/, not that of a wrapper script called nvcc."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable) and Path(os.environ[variable], "nvvm").is_dir():
            return Path(os.environ[variable])
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise CannotBuildError("no nvcc was found, on PATH or by CUDA_HOME")
    plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    here = re.search(r"_HERE_=(.+)", plan)
    folder = Path(here.group(1)).resolve().parent if here else Path(nvcc).resolve().parent.parent
    if not (folder / "nvvm").is_dir():
        raise CannotBuildError(f"{folder} is no CUDA toolkit (no nvvm/ in it); set CUDA_HOME")
    return folder


def architecture_flags() -> list[str]:
    """nvcc's targets, from TORCH_CUDA_ARCH_LIST as torch spells it: `8.0;9.0+PTX`."""
    flags = []
    for entry in re.split(r"[;, ]+", os.environ.get("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES).strip()):
        number = entry.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if entry.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a compiler; its first error becomes the reason."""
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if result.returncode != 0:
        sys.stderr.write(result.stderr)
        lines = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
        raise CannotBuildError(f"{Path(command[0]).name} failed: {lines[0] if lines else result.returncode}")


class BuildNative(build_ext):
    """Builds each library whole, notes in `native_build.json` what came of it, and says so at the end."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extensions(self) -> None:
        notes = {}
        for extension in list(self.extensions):
            device = extension.name.rpartition("_")[2]
            target = Path(self.get_ext_fullpath(extension.name))
            try:
                self.build_library(device, target)
                notes[device] = "built"
            except CannotBuildError as reason:
                if NATIVE in {device, "cuda"}:
                    raise SystemExit(f"DETECTOR_NATIVE={NATIVE}: {reason}") from reason
                notes[device] = str(reason)
                self.extensions.remove(extension)
        # Beside the libraries: in the build folder, which becomes the wheel, and in the source tree when editable.
        folders = {target.parent} | ({ROOT / "ops"} if self.inplace or self.editable_mode else set())
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "native_build.json").write_text(json.dumps(notes, indent=1) + "\n")
        for device, note in notes.items():
            outcome = note if note == "built" else f"not built, PyTorch kernels serve instead: {note}"
            print(f"detector.ops {device} kernels: {outcome}", file=sys.stderr)

    def build_library(self, device: str, target: Path) -> None:
        torch = torch_folder()
        includes = ["-isystem", str(torch / "include"), "-isystem", str(torch / "include/torch/csrc/api/include")]
        linking = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
        environment = {}
        if device == "cpu":
            sources = sorted((CSRC / "cpu").glob("*.cpp"))
            compiler, flags = host_compiler(), [*STABLE_ABI, "-O3", *HOST_FLAGS]
        else:
            sources = sorted((CSRC / "cuda").glob("*.cu"))
            toolkit = cuda_toolkit()
            if not any((torch / "lib").glob("*torch_cuda.*")):
                raise CannotBuildError("the installed torch has no CUDA")
            compiler = str(toolkit / "bin/nvcc")
            flags = [*STABLE_ABI, *CUDA_FLAGS, "-Xcompiler", ",".join(HOST_FLAGS), *architecture_flags()]
            linking = ["--cudart=static", *linking, "-ltorch_cuda"]
            # A toolkit with a compiler but not every header borrows them from the pip packages.
            borrowed = [str(path) for path in sorted(torch.parent.glob("nvidia/cu*/include"))]
            environment["CPATH"] = os.pathsep.join(filter(None, [os.environ.get("CPATH"), *borrowed]))
        if not sources:
            raise CannotBuildError(f"there are no sources for {device}")
        objects = [Path(self.build_temp, device, source.name).with_suffix(".o") for source in sources]
        for folder in {target.parent, *(path.parent for path in objects)}:
            folder.mkdir(parents=True, exist_ok=True)
        commands = [
            [compiler, *flags, *includes, "-c", str(source), "-o", str(path)]
            for source, path in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda command: run(command, environment), commands))
        run([compiler, "-shared", *map(str, objects), "-o", str(target), *linking], environment)


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
