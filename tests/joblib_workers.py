"""Ends the processes of Hydra's joblib launcher."""

import importlib.util


def end_joblib_workers() -> None:
    """End joblib's workers. They would wait for the next sweep, in the folder of the last one."""
    if importlib.util.find_spec("joblib") is not None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)
