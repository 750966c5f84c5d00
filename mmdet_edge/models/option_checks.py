"""Checks of the options that users give to losses and hooks; each message names the class, the option and the value."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any


def check_number(owner: str, name: str, value: Any, minimum: float) -> float:
    """Check that an option is a finite number of at least ``minimum``.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is too small or not finite. Both messages begin with ``owner``, the class or function whose
            option it is.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f'{owner}: {name} must be a number, got {value!r}')
    if not math.isfinite(value) or value < minimum:
        raise ValueError(f'{owner}: {name} must be finite and at least {minimum:g}, got {value!r}')
    return float(value)


def check_integer(owner: str, name: str, value: Any, minimum: int) -> int:
    """Check that an option is an integer of at least ``minimum``; it raises like :func:`check_number`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f'{owner}: {name} must be an integer, got {value!r}')
    if value < minimum:
        raise ValueError(f'{owner}: {name} must be at least {minimum}, got {value}')
    return value


def check_bool(owner: str, name: str, value: Any) -> bool:
    """Check that an option is True or False; raise TypeError otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f'{owner}: {name} must be True or False, got {value!r}')
    return value


def check_choice(owner: str, name: str, value: Any, choices: Sequence[str]) -> str:
    """Check that an option is one of ``choices``; raise ValueError otherwise."""
    if value not in choices:
        raise ValueError(f'{owner}: {name} must be one of {choices}, got {value!r}')
    return value
