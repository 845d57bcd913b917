"""The exit codes of the program, and the one line that it prints for an expected error."""

from __future__ import annotations

import errno
import os
import sys

from detector.configs.errors import ConfigError
from detector.engine.errors import NonFiniteLossError

DONE, FAILED, USAGE, INTERRUPTED, NON_FINITE = 0, 1, 2, 3, 4
EXPECTED_ERRORS = (ConfigError, NonFiniteLossError, ValueError, OSError, MemoryError)  # others are bugs: full traceback


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that ends with `error`."""
    if isinstance(error, ConfigError):
        return USAGE
    return NON_FINITE if isinstance(error, NonFiniteLossError) else FAILED


def print_error(error: BaseException) -> None:
    """Print an expected error in one line."""
    message = str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        file = f"{error.filename}: " if error.filename else ""
        message = f"{file}{error.strerror}; free disk space, then continue from the last checkpoint with resume=FOLDER"
    process = f"process {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"{process}error: {message}", file=sys.stderr)
