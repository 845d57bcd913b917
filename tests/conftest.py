"""Settings of the whole suite."""

import os
import tempfile

from hypothesis import settings

# What a run keeps for the next one (checks of pictures) is kept for the tests alone.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="detector-tests-")

# The first example of a test may wait for imports and kernels, and machines that run suites are crowded.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
