"""Compile the CUDA sources for the emulated device, as a library that registers their operators for CPU tensors.

Launches, shared memory and launch bounds are not C++ and are translated. Everything else, host code included, is
compiled unchanged, against the headers in `include`. Objects are cached by a hash of all their inputs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CSRC = ROOT / "ops" / "csrc"
CACHE = ROOT / "build" / "emulation"

DEVICE = ("memory.cpp", "device.cpp", "callbacks.cpp", "tensors.cpp", "traffic.cpp")
COMMON = ["-std=c++20", "-fPIC", "-g1", "-Wno-psabi"]
# As in setup.py: no fused multiply-add, the stable ABI.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DTORCH_STABLE_ONLY", "-DUSE_CUDA"]
CHECKS = "alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow"
# -fno-tree-sra: a word of 16 bytes is read at once, so that its alignment is checked.
# -ftrivial-auto-var-init: a local variable without a value holds a number that shows in the result.
WATCHED = ["-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-tree-sra", "-fno-ipa-sra", "-Wno-unknown-pragmas"]
WATCHED += ["-ftrivial-auto-var-init=pattern", "-Werror=unused-result"]  # an error that nobody asks for
WATCHED += [
    "-fsanitize=thread",
    "--param",
    "tsan-instrument-func-entry-exit=0",
    f"-fsanitize={CHECKS}",
    "-fsanitize-coverage=trace-pc",
]

LAUNCH = re.compile(r"([\w:]+(?:<[^<>;]*>)?)<<<(.*?)>>>\s*\(", re.DOTALL)
SHARED = re.compile(
    r"(?P<extern>extern )?__shared__ (?:__align__\((?P<align>\d+)\) )?"
    r"(?P<type>(?:unsigned )?[\w:]+(?:<[\w:<>, ]+>)?) (?P<name>\w+)(?P<size>(?:\[[^\]]*\])*);"
)


class CannotBuildError(Exception):
    """The sources cannot be translated or compiled."""


def translate(text: str, name: str) -> str:
    """Return a CUDA source as C++ for `device.h`.

    Raises:
        CannotBuildError: a launch, a shared array or a kernel with launch bounds has an unknown form.
    """

    def shared(found: re.Match[str]) -> str:
        align = found["align"] or ""
        if found["extern"]:
            return f"{found['type']}* {found['name']} = ::emulation::dynamic_shared<{found['type']}>({align});"
        arguments = ", ".join(filter(None, ("__COUNTER__", align)))
        return f"auto& {found['name']} = ::emulation::shared_array<{found['type']}{found['size']}>({arguments});"

    text = with_launch_bounds(text, name)
    text = SHARED.sub(shared, LAUNCH.sub(r"::emulation::Launch(\1, \2)(", text))
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"<<<|__shared__|asm", line.partition("//")[0]):
            raise CannotBuildError(f"{name}:{number}: no rule translates {line.strip()!r}")
    return f'#line 1 "{name}"\n{text}'


def with_launch_bounds(text: str, name: str) -> str:
    """Return the text in which a kernel with launch bounds checks them first."""
    parts, done = [], 0
    for found in re.finditer(r"__launch_bounds__(?=\()", text):
        bounds = _end_of_parentheses(text, found.end())
        parameters = _end_of_parentheses(text, text.find("(", bounds))
        body = re.compile(r"\s*\{").match(text, parameters)
        if body is None:
            raise CannotBuildError(f"{name}: no body follows {text[found.start() : parameters]!r}")
        parts.append(f"{text[done : body.end()]} ::emulation::within{text[found.end() : bounds]};")
        done = body.end()
    return "".join([*parts, text[done:]])


def _end_of_parentheses(text: str, start: int) -> int:
    """Return the position after the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def sources(csrc: Path = CSRC) -> dict[str, str]:
    """Return the kernels' files by their names below `csrc`."""
    found = [*csrc.glob("*.h"), *csrc.glob("cuda/*")]
    return {str(path.relative_to(csrc)): path.read_text() for path in sorted(found)}


def with_one_dtype(texts: Mapping[str, str], storage: str) -> dict[str, str]:
    """Return sources that use one storage type for all dtypes: fast to compile, correct only for that dtype."""
    kept = dict(texts)
    kept["cuda/tensors.cuh"] = re.sub(r"return f\(\w+\{\}\);", f"return f({storage}{{}});", kept["cuda/tensors.cuh"])
    return kept


def write_sources(texts: Mapping[str, str], folder: Path) -> None:
    """Write the sources under their names into a folder."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def build(texts: Mapping[str, str], folder: Path = CACHE, jobs: int | None = None) -> Path:
    """Build the library of these sources. Its name is a hash of its content.

    Raises:
        CannotBuildError: with the compiler's first error.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++"))), None)
    if compiler is None:
        raise CannotBuildError("no g++ was found; it is the compiler that the emulator is written for")
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Path(spec.origin).parent
    includes = ["-isystem", str(torch / "include"), "-isystem", str(torch / "include/torch/csrc/api/include")]
    version = (torch / "version.py").read_text()
    own = [path.read_text() for path in sorted((*HERE.glob("*.h"), *HERE.glob("include/*")))]

    translated = {name: translate(text, name) for name, text in texts.items()}
    headers = [text for name, text in translated.items() if not name.endswith(".cu")]
    tree = folder / _hash([*translated, *translated.values()])
    write_sources(translated, tree)

    commands: dict[Path, list[str]] = {}
    for name in DEVICE:
        flags = [*COMMON, "-O2", "-fvisibility=hidden", "-DUSE_CUDA", f"-I{HERE}/include", *includes]
        target = folder / f"{_hash([version, *flags, (HERE / name).read_text(), *own])}.o"
        commands[target] = [compiler, *flags, "-c", str(HERE / name), "-o", str(target)]
    for name, text in translated.items():
        if name.endswith(".cu"):
            flags = [*COMMON, *STABLE_ABI, *WATCHED, f"-I{HERE}/include", *includes]
            target = folder / f"{_hash([version, *flags, name, text, *headers, *own])}.o"
            commands[target] = [compiler, *flags, "-x", "c++", "-c", str(tree / name), "-o", str(target)]
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        list(pool.map(_run, [command for target, command in commands.items() if not target.exists()]))
    shutil.rmtree(tree)
    library = folder / f"libemulated-{_hash(map(str, commands))}.so"
    if not library.exists():
        # The device first: if both have an inline function, the linker takes the uninstrumented one.
        linking = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10", "-ldl", "-Wl,-Bsymbolic"]
        _run([compiler, "-shared", *map(str, commands), "-o", str(library), *linking])
    return library


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:20]


def _run(command: list[str]) -> None:
    """Run a compiler. Its output appears complete or not at all."""
    at = command.index("-o") + 1
    target = Path(command[at])
    partial = target.with_suffix(f".{os.getpid()}")
    result = subprocess.run([*command[:at], str(partial), *command[at + 1 :]], capture_output=True, text=True)
    if result.returncode != 0:
        errors = [line for line in result.stderr.splitlines() if "error" in line or "undefined" in line]
        raise CannotBuildError((errors or [result.stderr])[0])
    partial.replace(target)


if __name__ == "__main__":
    print(build(sources()))
