"""The error for invalid settings. The command line ends with exit code 2 on it."""


class ConfigError(ValueError):
    """A value, or a combination of values, that cannot work. The message names the key."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` if `condition` is false."""
    if not condition:
        raise ConfigError(message)
