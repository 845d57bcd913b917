"""`detector info`: print versions, the kernel of each operator, and the choices of each group."""

from __future__ import annotations

from detector.configs.choices import choices
from detector.configs.groups import GROUPS
from detector.ops import native_status
from detector.pipeline.versions import versions


def print_info() -> None:
    """Print versions, the kernel of each operator, and the choices of each config group."""
    for name, value in versions().items():
        print(f"{name:<12} {value}")
    print(f"\n{'operator':<24} {'device':<7} {'kernel':<9} dtypes")
    for item in native_status():
        why = f"  ({item.reason})" if item.reason else ""
        print(f"{item.operator:<24} {item.device:<7} {item.kernel:<9} {' '.join(item.dtypes)}{why}")
    print()
    for group in (*GROUPS, "experiment"):
        print(f"{group:<12} {' '.join(choices(group))}")
