"""The value of a setting that has no default. It is the value of OmegaConf's MISSING, so OmegaConf demands a value.

It is defined here because the schema must load without OmegaConf: `detector --help` reads only the schema.
"""

from typing import Any

MISSING: Any = "???"
