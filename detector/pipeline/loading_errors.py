"""One-line errors for exceptions in a loader's workers and for dead workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

FROM_A_WORKER = "DataLoader worker process"  # torch's text before the traceback of a worker


@contextmanager
def loading_errors() -> Iterator[None]:
    """Turn worker exceptions and worker deaths into one-line errors.

    A worker's error arrives with its traceback as text. torch can raise the error of a killed worker at any moment,
    even during a training step, so put this context around the whole loop.
    """
    try:
        yield
    except (ConnectionResetError, ConnectionRefusedError, EOFError) as error:  # a worker died while it sent a sample
        raise _worker_died("exited unexpectedly") from error
    except (ValueError, OSError, MemoryError) as error:
        if FROM_A_WORKER not in str(error):
            raise
        raise type(error)(_last_line(error).partition(": ")[2] or "a loader worker has no memory left") from error
    except RuntimeError as error:
        short = _one_line(error)
        if short is None:
            raise
        raise short from error


def _one_line(error: RuntimeError) -> Exception | None:
    """Return the one-line error for a system fault that torch raises as a RuntimeError; None for other errors."""
    message = str(error)
    died = re.match(r"DataLoader worker \(pid.*\) (is killed by signal: \w+|exited unexpectedly)", message)
    if died is not None:
        return _worker_died(died[1].replace("is killed", "was killed"))
    if message.startswith("Too many open files"):
        return OSError("too many open files: raise the limit (ulimit -n), or lower trainer.workers or trainer.prefetch")
    if FROM_A_WORKER in message and "allocate memory" in _last_line(error):
        return MemoryError(
            "a loader worker has no memory left: lower trainer.workers, trainer.prefetch or trainer.images_per_step"
        )
    return None


def _last_line(error: Exception) -> str:
    """Return `ErrorType: message`, the last line of a worker's traceback."""
    return str(error).strip().splitlines()[-1]


def _worker_died(how: str) -> ChildProcessError:
    return ChildProcessError(
        f"a loader worker {how}: did the machine run out of memory? Lower trainer.workers; the last checkpoint is "
        "intact: go on with resume=FOLDER"
    )
