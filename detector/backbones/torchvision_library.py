"""torchvision's classifiers and layers, without what they do not need. The other modules import them from here.

torchvision imports three things that take longer than the rest of it, and longer than torch:

- torch's compiler (torch._dynamo), for one question that only its own RoIAlign asks. Here it is imported when the
  question is asked.
- torch's old exporter to ONNX (torch.onnx), to tell it of torchvision's operators. Here it is told when it is imported.
- Its data sets. Here they are imported when something reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

COMPILER = ("torch._dynamo", "torch._dynamo.utils")
EXPORTER, TO_EXPORTER = "torch.onnx", "torchvision.ops._register_onnx_ops"
DATASETS = "torchvision.datasets"


def _is_compile_supported(device_type: str) -> bool:
    """Ask the compiler, and import it first."""
    return bool(import_module(COMPILER[1]).is_compile_supported(device_type))


class _ExporterImport(MetaPathFinder):
    """Tells the exporter of torchvision's operators when it is imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the exporter's spec, and None for other modules."""
        if name != EXPORTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then_register(spec.loader.exec_module)  # type: ignore[assignment]
        return spec


def _then_register(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def executed(module: ModuleType) -> None:
        execute(module)
        import_module(TO_EXPORTER)._register_custom_op()

    return executed


def _import_lean(name: str) -> None:
    """Import a library. Until it is imported, empty modules are in the place of those that it does not need."""
    empty: dict[str, dict[str, Any]] = {}
    if COMPILER[0] not in sys.modules:
        empty |= {COMPILER[0]: {}, COMPILER[1]: {"is_compile_supported": _is_compile_supported}}
    if EXPORTER not in sys.modules and "torchvision" not in sys.modules:
        empty[TO_EXPORTER] = {"_register_custom_op": lambda: None}
    if DATASETS not in sys.modules:
        empty[DATASETS] = {}
    for module, content in empty.items():
        sys.modules[module] = ModuleType(module)
        sys.modules[module].__dict__.update(content)
    try:
        import_module(name)
    except (ImportError, AttributeError):
        pass  # another version needs more of them: the import below loads it
    finally:
        for module in empty:
            del sys.modules[module]
    library = sys.modules.get("torchvision")
    if DATASETS in empty and library is not None:
        library.__dict__.pop("datasets", None)
        library.__getattr__ = _read_later  # type: ignore[method-assign]
    if TO_EXPORTER in empty and library is not None:
        sys.meta_path.insert(0, _ExporterImport())


def _read_later(name: str) -> ModuleType:
    """Return an attribute that torchvision does not have yet."""
    if name != "datasets":
        raise AttributeError(f"module 'torchvision' has no attribute {name!r}")
    return import_module(DATASETS)


_import_lean("torchvision")

from torchvision import models  # noqa: E402
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names  # noqa: E402
from torchvision.ops import Conv2dNormActivation, deform_conv2d  # noqa: E402

__all__ = ["Conv2dNormActivation", "create_feature_extractor", "deform_conv2d", "get_graph_node_names", "models"]
