"""Settings of the whole suite."""

from hypothesis import settings

# The first example of a test may wait for imports and kernels, and machines that run suites are crowded.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
