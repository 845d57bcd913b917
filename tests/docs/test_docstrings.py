"""Docstrings of the API page and of ops/ state shapes, the frame of boxes, and errors."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FRAMES = r"pixel|xyxy|x1|frame|cell|image"


class Function(NamedTuple):
    """A public function or method. The docstring of a class counts for its __init__."""

    name: str
    node: ast.FunctionDef
    doc: str
    module_doc: str


def functions_of(source: str, name: str, only: str | None = None) -> Iterator[Function]:
    """The public functions of a module, or only those of its member `only`."""
    tree = ast.parse(source)
    module_doc = ast.get_docstring(tree) or ""

    def visit(body: list[ast.stmt], owner: str, owner_doc: str) -> Iterator[Function]:
        for node in body:
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or (not owner and only not in (None, node.name)):
                continue
            doc = ast.get_docstring(node) or ""
            if isinstance(node, ast.ClassDef):
                if not node.name.startswith("_"):
                    yield from visit(node.body, f"{node.name}.", doc)
            elif (not node.name.startswith("_") or node.name in ("__init__", "__call__")) and not any(
                "overload" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                whole = f"{doc}\n{owner_doc}" if node.name == "__init__" else doc
                yield Function(f"{name}: {owner}{node.name}", node, whole, module_doc)

    return visit(tree.body, "", "")


def faults(function: Function) -> list[str]:
    """What the docstring lacks."""
    arguments = function.node.args
    tensors = [
        argument.arg
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        if argument.annotation is not None and re.search(r"\bTensor\b", ast.unparse(argument.annotation))
    ]
    returned = function.node.returns is not None and re.search(r"\bTensor\b", ast.unparse(function.node.returns))
    words = function.doc.lower().replace("_", " ")
    lacks = []
    if (tensors or returned) and not re.search(r"\[|scalar|any shape", function.doc):
        lacks.append("a shape, such as [R, 4]")
    lacks += [f"the argument {name}" for name in tensors if name.replace("_", " ") not in words]
    boxes = [name for name in tensors if re.search("box|roi|anchor|proposal", name)]
    if boxes and not re.search(FRAMES, function.doc + function.module_doc):
        lacks.append(f"the frame of {', '.join(boxes)}")
    raising = any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(function.node))
    if raising and "raise" not in words:
        lacks.append("its errors (Raises)")
    return lacks


def all_functions() -> list[Function]:
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    found = {}
    for name in re.findall(r"^::: (\S+)", page, re.MULTILINE):
        path = ROOT.joinpath(*name.split("."))
        only = None
        if not (path.with_suffix(".py").is_file() or path.is_dir()):
            path, only = path.parent, path.name
        path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        for function in functions_of(path.read_text(), path.resolve().relative_to(ROOT).as_posix(), only):
            found[function.name] = function
    for path in sorted((ROOT / "ops").glob("*.py")):
        for function in functions_of(path.read_text(), f"ops/{path.name}"):
            found[function.name] = function
    return list(found.values())


FUNCTIONS = all_functions()


def test_functions_are_found() -> None:
    names = {function.name for function in FUNCTIONS}
    assert len(names) > 120
    assert {"ops/nms.py: nms", "tools/entry_points/python.py: train", "detector/targets.py: BoxCoder.encode"} <= names


def test_docstrings_state_shapes_frames_and_errors() -> None:
    lacking = [f"{function.name} lacks {'; '.join(found)}" for function in FUNCTIONS if (found := faults(function))]
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize(
    ("docstring", "lack"),
    [
        ("The boxes in pixels. Raises ValueError.", "a shape, such as [R, 4]"),
        ("Result [R, 4] in pixels. Raises ValueError.", "the argument boxes"),
        ("The boxes [R, 4]. Raises ValueError.", "the frame of boxes"),
        ("The boxes [R, 4] in pixels.", "its errors (Raises)"),
    ],
)
def test_a_poor_docstring_is_found(docstring: str, lack: str) -> None:
    source = f'def f(boxes: Tensor) -> Tensor:\n    """{docstring}"""\n    raise ValueError("no")\n'
    (function,) = functions_of(source, "m.py")
    assert faults(function) == [lack]
