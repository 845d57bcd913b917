"""torchvision's classifiers, imported without torch's compiler. The other modules import them from here.

torchvision imports the compiler (torch._dynamo) for one question, which only its own RoIAlign asks. The compiler takes
longer to import than torch, so here it is imported when the question is asked.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


def _is_compile_supported(device_type: str) -> bool:
    """Ask the compiler, and import it first."""
    return bool(import_module(COMPILER[1]).is_compile_supported(device_type))


def _import_without_compiler(name: str) -> None:
    """Import a library. Until it is imported, two empty modules are in the place of the compiler."""
    if COMPILER[0] in sys.modules:
        return
    empty = {module: ModuleType(module) for module in COMPILER}
    empty[COMPILER[1]].__dict__["is_compile_supported"] = _is_compile_supported
    sys.modules.update(empty)
    try:
        import_module(name)
    except (ImportError, AttributeError):
        pass  # another version needs more of the compiler: the import below loads it
    finally:
        for module in empty:
            del sys.modules[module]


_import_without_compiler("torchvision")

from torchvision import models  # noqa: E402
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names  # noqa: E402
from torchvision.ops import Conv2dNormActivation  # noqa: E402

__all__ = ["Conv2dNormActivation", "create_feature_extractor", "get_graph_node_names", "models"]
