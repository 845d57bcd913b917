"""The five top-level folders are installed under one import name: setuptools cannot find packages through a map."""

from pathlib import Path

from setuptools import find_packages, setup

LAYOUT = {
    "detector": "detector",
    "detector.ops": "ops",
    "detector.datasets": "datasets",
    "detector.configs": "configs",
    "detector.tools": "tools",
}


def packages() -> list[str]:
    """Every package below LAYOUT, by the name that it is installed under."""
    found = []
    for name, folder in LAYOUT.items():
        found.append(name)
        found += [f"{name}.{child}" for child in find_packages(str(Path(__file__).parent / folder))]
    return found


setup(
    packages=packages(),
    package_dir=LAYOUT,
    package_data={"detector.configs": ["*.yaml", "*/*.yaml"]},
)
