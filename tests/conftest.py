"""Settings for the whole suite."""

import os
import tempfile

from hypothesis import settings

# The cache that runs share (checks of pictures) is in a folder for the tests only.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="detector-tests-")

# The first example of a test may wait for imports and kernels, and test machines are busy.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
