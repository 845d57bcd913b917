"""Faults in the files of a dataset, collected and reported together, so that a user can correct all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FAULTS_SHOWN = 10


class Fault(NamedTuple):
    """A fault of an image or its annotation. The message names the file, the value and the remedy."""

    image_id: str
    message: str


class FaultyDataError(ValueError):
    """Files of a dataset that cannot be used. The message has the first ten faults, `faults` has all of them."""

    def __init__(self, where: str, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        shown = [fault.message for fault in faults[:FAULTS_SHOWN]]
        if len(faults) > FAULTS_SHOWN:
            shown.append(f"... and {len(faults) - FAULTS_SHOWN} more")
        super().__init__(shown[0] if len(faults) == 1 else "\n  ".join([f"{len(faults)} faults in {where}:", *shown]))


def raise_faults(where: str, faults: Sequence[Fault]) -> None:
    """Raise FaultyDataError if there are faults."""
    if faults:
        raise FaultyDataError(where, faults)
