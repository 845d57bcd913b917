"""What a loader's workers raise, or die of, as errors of one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading_errors() -> Iterator[None]:
    """Turns what a loader's workers raise, or die of, into errors of one line.

    A worker's error arrives with its traceback as text. That a worker was killed is noticed at any moment, in the
    middle of a training step too: this belongs around the whole loop.
    """
    try:
        yield
    except ConnectionResetError as error:  # a worker that died while it handed a sample over
        raise _worker_died("exited unexpectedly") from error
    except (ValueError, OSError) as error:
        if "DataLoader worker process" not in str(error):
            raise
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except RuntimeError as error:
        died = re.match(r"DataLoader worker \(pid.*\) (is killed by signal: \w+|exited unexpectedly)", str(error))
        if died is None:
            raise
        raise _worker_died(died[1].replace("is killed", "was killed")) from error


def _worker_died(how: str) -> ChildProcessError:
    return ChildProcessError(
        f"a loader worker {how}: did the machine run out of memory? Lower trainer.workers; the last checkpoint is "
        "whole, resume=FOLDER goes on from it"
    )
