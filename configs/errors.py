"""The one error for settings that cannot work; the command line answers it with exit code 2."""


class ConfigError(ValueError):
    """A setting has a value, or a combination of values, that cannot work. The message names the key."""


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with `message` where `condition` does not hold."""
    if not condition:
        raise ConfigError(message)
