"""What a loader's workers raise, or die of, as errors of one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

FROM_A_WORKER = "DataLoader worker process"  # torch's words before the traceback of a worker


@contextmanager
def loading_errors() -> Iterator[None]:
    """Turns what a loader's workers raise, or die of, into errors of one line.

    A worker's error arrives with its traceback as text. That a worker was killed is noticed at any moment, in the
    middle of a training step too: this belongs around the whole loop.
    """
    try:
        yield
    except (ConnectionResetError, ConnectionRefusedError, EOFError) as error:  # a worker died handing a sample over
        raise _worker_died("exited unexpectedly") from error
    except (ValueError, OSError, MemoryError) as error:
        if FROM_A_WORKER not in str(error):
            raise
        raise type(error)(_last_line(error).partition(": ")[2] or "a loader worker has no memory left") from error
    except RuntimeError as error:
        told = _one_line(error)
        if told is None:
            raise
        raise told from error


def _one_line(error: RuntimeError) -> Exception | None:
    """The fault of the machine that torch tells as a RuntimeError; None for anything else."""
    said = str(error)
    died = re.match(r"DataLoader worker \(pid.*\) (is killed by signal: \w+|exited unexpectedly)", said)
    if died is not None:
        return _worker_died(died[1].replace("is killed", "was killed"))
    if said.startswith("Too many open files"):
        return OSError("too many open files: raise the limit (ulimit -n), or lower trainer.workers or trainer.prefetch")
    if FROM_A_WORKER in said and "allocate memory" in _last_line(error):
        return MemoryError(
            "a loader worker has no memory left: lower trainer.workers, trainer.prefetch or trainer.images_per_step"
        )
    return None


def _last_line(error: Exception) -> str:
    """`ErrorType: message` as it ends a worker's traceback."""
    return str(error).strip().splitlines()[-1]


def _worker_died(how: str) -> ChildProcessError:
    return ChildProcessError(
        f"a loader worker {how}: did the machine run out of memory? Lower trainer.workers; the last checkpoint is "
        "whole, resume=FOLDER goes on from it"
    )
