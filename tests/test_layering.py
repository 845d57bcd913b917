"""The rule of dependence (CONTRIBUTING.md): who may import whom, read from the syntax trees."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"ops", "configs", "datasets", "detector", "tools"}
MAY_IMPORT = {
    "ops": {"ops"},
    "configs": {"configs"},
    "datasets": {"datasets", "ops", "configs"},
    "detector": {"detector", "ops", "configs"},
    "tools": PACKAGES,
}
MAY_READ_CONFIGS = {"build.py"}
FRONT_DOOR = ROOT / "detector" / "__init__.py"  # names what tools offers; imports it when asked for, not before
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Dotted names that a file imports, `from detector import ops` counted as detector.ops."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] != "detector":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES - {"detector"} else "detector"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_rule(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    modules = {name for name in imported_modules(path) if name != "detector"}
    forbidden = {name for name in modules if (owner := package_of(name)) and owner not in MAY_IMPORT[package]}
    if path == FRONT_DOOR:
        forbidden -= {
            name for name in forbidden if name.startswith("detector.tools.predictor") or name == "detector.tools"
        }
    assert not forbidden, f"{package} may import {sorted(MAY_IMPORT[package])}"
    if package in {"detector", "datasets"} and path.name not in MAY_READ_CONFIGS:
        assert not {n for n in modules if n.startswith("detector.configs.schema")}, "only build.py reads config classes"
    if package != "tools":
        assert not {name for name in modules if name.split(".")[0] == "hydra"}, "only tools sees Hydra"
    if package not in {"tools", "configs"} and path.name not in MAY_READ_CONFIGS:
        assert not {name for name in modules if name.split(".")[0] == "omegaconf"}


def test_structures_import_nothing_of_ours() -> None:
    assert not {name for name in imported_modules(ROOT / "detector/structures.py") if name.startswith("detector")}
