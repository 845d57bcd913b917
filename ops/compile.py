"""Compile the kernels of `csrc` into plain shared libraries with a C++ compiler or nvcc, and with torch's headers.

`setup.py` calls this file. `python ops/compile.py cuda` does the same in place, if setuptools is missing or old. It
imports the standard library only, since torch may not be importable in an isolated build.

TORCH_CUDA_ARCH_LIST names the GPUs to build for, in torch's notation (`7.5;8.0;9.0+PTX`).
"""

from __future__ import annotations

import argparse
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

FOLDER = Path(__file__).resolve().parent
CSRC = FOLDER / "csrc"

# torch 2.11 is the oldest version that the libraries run on. -ffp-contract=off: a fused multiply-add would move bin
# edges. -fno-math-errno and -fno-trapping-math let the compiler vectorize comparisons, and change no result.
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
    """The reason why a library cannot be built on this machine."""


def library_name(device: str) -> str:
    """The file name of the library for a device, "cpu" or "cuda"."""
    return f"libfast_rfcn_{device}.so"


def torch_folder() -> Path:
    """Return the folder of torch, without an import: as this interpreter finds it, or in its site-packages.

    Raises CannotBuildError if it has no headers.
    """
    spec = find_spec("torch")
    candidates = [Path(spec.origin).parent] if spec and spec.origin else []
    candidates += [Path(sysconfig.get_path(key), "torch") for key in ("purelib", "platlib")]
    for folder in candidates:
        if (folder / "include/torch/csrc/stable/library.h").is_file():
            return folder
    raise CannotBuildError("no torch>=2.11 to compile against was found; install it first, then --no-build-isolation")


def host_compiler() -> str:
    """The path of the C++ compiler: $CXX, or the first of c++, g++, clang++. Raises CannotBuildError without any."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if path := shutil.which(name):
            return path
    raise CannotBuildError("no C++ compiler was found (tried $CXX, c++, g++, clang++)")


def cuda_toolkit() -> Path:
    """The folder of the CUDA toolkit, which has nvvm/; a wrapper script called nvcc may be in another folder.

    Raises CannotBuildError if there is no nvcc.
    """
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable) and Path(os.environ[variable], "nvvm").is_dir():
            return Path(os.environ[variable])
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise CannotBuildError("no nvcc was found on PATH or in CUDA_HOME")
    plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    here = re.search(r"_HERE_=(.+)", plan)
    folder = Path(here.group(1)).resolve().parent if here else Path(nvcc).resolve().parent.parent
    if not (folder / "nvvm").is_dir():
        raise CannotBuildError(f"{folder} is not a CUDA toolkit (it has no nvvm/); set CUDA_HOME")
    return folder


def check_versions(nvcc: str, torch: str | None) -> None:
    """Check that nvcc and torch have the same major version of CUDA; only then do their libraries work together.

    Args:
        nvcc: the output of `nvcc --version`.
        torch: `torch.version.cuda`, None for a torch without CUDA.

    Raises:
        CannotBuildError: torch has no CUDA, or the major versions differ.
    """
    if torch is None:
        raise CannotBuildError("the installed torch has no CUDA")
    release = re.search(r"release (\d+)\.(\d+)", nvcc)
    if release is None:
        raise CannotBuildError(f"no release number in the output of nvcc --version: {nvcc.strip()[:100]!r}")
    if release[1] != torch.partition(".")[0]:
        raise CannotBuildError(
            f"nvcc has CUDA {release[1]}.{release[2]}, torch has CUDA {torch}; "
            f"expected the same major version: install the toolkit of CUDA {torch} or set CUDA_HOME to it"
        )


def torch_cuda_version(torch: Path) -> str | None:
    """`torch.version.cuda` of the torch in a folder, without an import."""
    found = re.search(r"^cuda\b[^=\n]*= *['\"]([\d.]+)['\"]", (torch / "version.py").read_text(), re.MULTILINE)
    return found[1] if found else None


def targets() -> list[str]:
    """The GPUs to build for: `8.0` is machine code for this capability; `9.0+PTX` also serves newer GPUs."""
    return re.split(r"[;, ]+", os.environ.get("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES).strip("; "))


def architecture_flags(entries: list[str]) -> list[str]:
    """nvcc's options for these targets."""
    flags = []
    for entry in entries:
        number = entry.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if entry.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def build_library(device: str, target: Path, temporary: Path) -> dict[str, str]:
    """Compile the library for a device, its files in parallel. Return the record for `native_build.json`.

    Raises:
        CannotBuildError: with the compiler's first error, or with the name of a missing tool.
    """
    torch = torch_folder()
    includes = ["-isystem", str(torch / "include"), "-isystem", str(torch / "include/torch/csrc/api/include")]
    linking = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
    environment, notes = {}, {device: "built"}
    if device == "cpu":
        sources = sorted((CSRC / "cpu").glob("*.cpp"))
        compiler, flags = host_compiler(), [*STABLE_ABI, "-O3", *HOST_FLAGS]
    else:
        sources = sorted((CSRC / "cuda").glob("*.cu"))
        compiler = str(cuda_toolkit() / "bin/nvcc")
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
        check_versions(version, torch_cuda_version(torch))
        flags = [*STABLE_ABI, *CUDA_FLAGS, "-Xcompiler", ",".join(HOST_FLAGS), *architecture_flags(targets())]
        linking = ["--cudart=static", *linking, "-ltorch_cuda"]
        notes["cuda_targets"] = ";".join(targets())
        # Some toolkits lack headers; the pip packages of CUDA have them.
        pip_headers = [str(path) for path in sorted(torch.parent.glob("nvidia/cu*/include"))]
        environment["CPATH"] = os.pathsep.join(filter(None, [os.environ.get("CPATH"), *pip_headers]))
    if not sources:
        raise CannotBuildError(f"there are no sources for {device}")
    objects = [temporary / device / f"{source.stem}.o" for source in sources]
    for folder in {target.parent, *(path.parent for path in objects)}:
        folder.mkdir(parents=True, exist_ok=True)
    commands = [
        [compiler, *flags, *includes, "-c", str(source), "-o", str(path)]
        for source, path in zip(sources, objects, strict=True)
    ]
    target.unlink(missing_ok=True)  # a build that fails leaves no older library behind
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: run(command, environment), commands))
    run([compiler, "-shared", *map(str, objects), "-o", str(target), *linking], environment)
    return notes


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a compiler. Raise CannotBuildError with its first error if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if result.returncode != 0:
        sys.stderr.write(result.stderr)
        lines = [line for line in result.stderr.splitlines() if "error" in line] or result.stderr.splitlines()
        raise CannotBuildError(f"{Path(command[0]).name} failed: {lines[0] if lines else result.returncode}")


def main(arguments: list[str] | None = None) -> int:
    """Build in place. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("devices", nargs="+", choices=("cpu", "cuda"))
    parser.add_argument("--temporary", type=Path, default=FOLDER.parent / "build" / "objects")
    options = parser.parse_args(arguments)
    note = FOLDER / "native_build.json"
    notes = json.loads(note.read_text()) if note.exists() else {}
    for device in options.devices:
        try:
            notes |= build_library(device, FOLDER / library_name(device), options.temporary)
        except CannotBuildError as reason:
            notes[device] = str(reason)
        note.write_text(json.dumps(notes, indent=1) + "\n")
        print(f"detector.ops {device} kernels: {notes[device]}")
    return 0 if all(notes[device] == "built" for device in options.devices) else 1


if __name__ == "__main__":
    sys.exit(main())
