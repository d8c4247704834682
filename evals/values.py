"""Checks of values that somebody wrote by hand."""

import math

from cgclora.config import ConfigError


def whole(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least `least`.

    Raises:
        ConfigError: It is not; the message has the name.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number >= {least}, got {value!r}.")


def number(name: str, value: object, least: float) -> None:
    """Refuse what is no finite number of at least `least`.

    Raises:
        ConfigError: It is not; the message has the name.
    """
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not least <= value < math.inf:  # type: ignore[operator]
        raise ConfigError(f"{name} must be a number >= {least}, got {value!r}.")
