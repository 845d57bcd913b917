"""What workers raise, or die of, in one line."""

import pytest

from detector.pipeline.loading_errors import loading_errors


def test_a_worker_that_dies_while_it_hands_a_sample_over() -> None:
    message = "a loader worker exited unexpectedly.*Lower trainer.workers"
    with pytest.raises(ChildProcessError, match=message), loading_errors():
        raise ConnectionResetError(104, "Connection reset by peer")
