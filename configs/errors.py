"""The one error for settings that cannot work; the command line answers it with exit code 2."""


class ConfigError(ValueError):
    """A setting has a value, or a combination of values, that cannot work. The message names the key."""
