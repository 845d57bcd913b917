"""torchvision is imported without torch's compiler and exporter and its own data sets, which still work when needed."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from detector.backbones.torchvision_library import _import_lean, models
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
assert "mobilenet_v2" in models.list_models(module=models)

_import_lean("asks_more")
assert "asks_more" not in sys.modules and "torch._dynamo" not in sys.modules

from torchvision.ops import roi_align  # the function, not its module
ask = sys.modules["torchvision.ops.roi_align"].is_compile_supported
supported = ask("cpu")
from torch._dynamo.utils import is_compile_supported
assert supported == is_compile_supported("cpu")
import asks_more
assert asks_more.config.__name__ == "torch._dynamo.config"
print("as expected")
"""

LATER = """
import sys
import detector.backbones.torchvision_library
assert not {"torch.onnx", "torchvision.datasets", "torchvision.ops._register_onnx_ops"} & set(sys.modules)
import torchvision
assert "VOCDetection" in dir(torchvision.datasets)
assert not hasattr(torchvision, "no_such_thing")
from torch.onnx._internal.torchscript_exporter.registration import registry
assert registry.is_registered_op("torchvision::nms", 11) and registry.is_registered_op("torchvision::roi_align", 16)
print("as expected")
"""


def test_the_compiler_is_imported_only_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "asks_more.py").write_text("from torch._dynamo import config\n")
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "as expected\n", done.stderr


def test_the_exporter_and_the_data_sets_are_imported_when_something_needs_them() -> None:
    done = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True)
    assert done.stdout == "as expected\n", done.stderr
