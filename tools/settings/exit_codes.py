"""How a command ends: its exit code, and one line for what went wrong."""

from __future__ import annotations

import errno
import os
import sys

from detector.configs.errors import ConfigError
from detector.engine.errors import NonFiniteLossError

DONE, FAILED, USAGE, INTERRUPTED, NON_FINITE = 0, 1, 2, 3, 4
FORESEEN = (ConfigError, NonFiniteLossError, ValueError, OSError, MemoryError)  # all else is a bug: it keeps its trace


def exit_code(error: BaseException) -> int:
    """The exit code that an error ends a command with."""
    if isinstance(error, ConfigError):
        return USAGE
    return NON_FINITE if isinstance(error, NonFiniteLossError) else FAILED


def say(error: BaseException) -> None:
    """Prints the one line of a foreseen error."""
    told = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f"{error.filename}: " if error.filename else ""
        told = f"{where}{error.strerror}; the previous checkpoint is intact: make room, then go on with resume=FOLDER"
    process = f"process {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"{process}error: {told}", file=sys.stderr)
