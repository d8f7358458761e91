"""Names of a package that are loaded on first use (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["front_door"]


def front_door(
    package: str, home: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and the ``__dir__`` of a package.

    Parameters
    ----------
    package
        Its name.
    home
        For each public name the module of the package that defines it.

    Returns
    -------
    tuple of callable
        The two functions.
    """

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{home[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return load, names
