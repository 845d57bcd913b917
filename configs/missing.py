"""The mark of a setting that has no default. It is OmegaConf's own, so that OmegaConf asks the user for a value.

It stands here because the schema must load without OmegaConf: `detector --help` reads the schema and nothing else.
"""

from typing import Any

MISSING: Any = "???"
