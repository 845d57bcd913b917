"""The rules of CONTRIBUTING.md: allowed imports between packages, the rooms of `tools`, and no import cycles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("detector", "ops", "datasets", "configs", "tools")
# `pipeline` is the top of the library: it joins data sets, detector and configs. Nothing below imports it.
MAY_IMPORT = {
    "ops": {"ops"},
    "configs": {"configs"},
    "datasets": {"datasets", "ops", "configs"},
    "detector": {"detector", "ops", "configs"},
    "pipeline": {"pipeline", "detector", "datasets", "ops", "configs"},
    "tools": {"tools", "pipeline", "detector", "datasets", "ops", "configs"},
}
MAY_READ_CONFIGS = {"build.py"}
FRONT_DOOR = ROOT / "detector" / "__init__.py"  # it exports names of the pipeline and of the entry points
TOOLS_ROOMS = {"commands", "settings", "explain", "bench", "report", "prediction", "docs", "entry_points"}


def python_files(package: str) -> list[Path]:
    """Return the files of one package. The links from `detector/` to the other packages are not followed."""
    links = {path for path in (ROOT / package).iterdir() if path.is_symlink()}
    return sorted(
        path for path in (ROOT / package).rglob("*.py") if not links.intersection(path.parents) and path not in links
    )


FILES = [path for package in PACKAGES for path in python_files(package)]


def module_of(path: Path) -> str:
    """Return the import name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "detector" else ("detector", *parts))
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported_modules(nodes: list[ast.AST]) -> set[str]:
    """Return the dotted names that the nodes import. `from detector import ops` counts as detector.ops."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def all_imports(path: Path) -> set[str]:
    return imported_modules(list(ast.walk(ast.parse(path.read_text()))))


def imports_at_load(path: Path) -> set[str]:
    """Return the names imported when the file is loaded, without those in functions or under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = []
    for statement in tree.body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
            nodes += ast.walk(statement)
    return imported_modules(nodes)


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "detector":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "detector"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_rule(path: Path) -> None:
    layer = layer_of(module_of(path))
    assert layer is not None
    modules = {name for name in all_imports(path) if name != "detector"}
    allowed = MAY_IMPORT[layer] | ({"pipeline", "tools"} if path == FRONT_DOOR else set())
    forbidden = {name for name in modules if (owner := layer_of(name)) and owner not in allowed}
    assert not forbidden, f"{layer} may import {sorted(allowed)}"
    if layer in {"detector", "datasets"} and path.name not in MAY_READ_CONFIGS:
        assert not {n for n in modules if n.startswith("detector.configs.schema")}, "only build.py reads config classes"
    if layer not in {"tools", "configs"}:
        assert not {name for name in modules if name.split(".")[0] == "hydra"}, "only configs and tools see Hydra"
    assert not {name for name in modules if name.startswith("hydra._internal")}, "Hydra's internals may change"
    if layer in {"detector", "datasets", "ops"} and path.name not in MAY_READ_CONFIGS:
        assert not {name for name in modules if name.split(".")[0] == "omegaconf"}


def test_structures_import_nothing_of_this_project() -> None:
    assert not {name for name in all_imports(ROOT / "detector/structures.py") if name.startswith("detector")}


def test_tools_holds_only_the_program_and_rooms() -> None:
    """Except for the program, every file of `tools` lies in a room, and no room holds another."""
    flat = {path.name for path in (ROOT / "tools").glob("*.py")}
    assert flat == {"__init__.py", "__main__.py", "cli.py"}
    rooms = {path.parent.name for path in python_files("tools")} - {"tools"}
    assert rooms == TOOLS_ROOMS
    assert not list((ROOT / "tools").glob("*/*/*.py"))


def test_rooms_do_not_use_commands() -> None:
    """Commands use the rooms. Only the program with its entry points, commands and whole checks use a command."""
    for path in python_files("tools"):
        if path.parent.name in {"settings", "explain", "report", "prediction", "docs"}:
            used = {name for name in all_imports(path) if name.startswith("detector.tools.commands")}
            assert not used, f"{path.relative_to(ROOT)} uses {sorted(used)}"


def test_files_do_not_import_each_other_in_a_circle() -> None:
    edges = {
        module: {name for name in imports_at_load(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"circle: {' -> '.join((*trail[trail.index(module) :], module))}"
        if module not in done:
            for name in sorted(edges[module]):
                visit(name, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())
